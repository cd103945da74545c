"""Batches of whole sequences under a budget of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnll.data.checks import chunks, integer
from fastnll.data.order import Order
from fastnll.errors import OptionError

__all__ = ["batches", "sized_batches"]

# Sequences that are dealt at a time.
_PART = 1 << 20


def batches(
    dataset: Any,
    batch_tokens: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Iterator[np.ndarray]:
    """Deal the sequences of a dataset into batches of at most `batch_tokens` tokens.

    Parameters
    ----------
    dataset : SequenceDataset, Pieces or FeatureDataset
        Anything with ``lengths``, the tokens of each sequence.
    batch_tokens : int
        Budget of a batch, at least 1.
    seed, epoch : int
        Choose the order. The same pair gives the same batches on every machine, Python and NumPy.
    shuffle : bool, default True
        False: sequences in their own order.
    drop_last : bool, default False
        Leave the final batch out when it is unfinished: when the shortest sequence would still have fitted.

    Returns
    -------
    iterator of int64 arrays, each of shape (number of sequences in the batch,)
        Sequence ids, ascending inside a batch (so that a memory-mapped file is read forwards), for
        ``dataset.take`` or ``Objective.batch_value_and_grad``. All batches together hold every id once.

    Raises
    ------
    OptionError
        A budget below 1, a negative seed or epoch, or `drop_last` that would leave no batch at all.

    Notes
    -----
    Sequences are taken in order until the next one does not fit. Sequences are never cut, so no prediction is
    lost between batches; one that is longer than the budget is a batch of its own. That costs no memory (an
    objective walks any batch in blocks) but makes one long step: cut a long stream with
    :meth:`SequenceDataset.pieces` first. An empty sequence never is a batch of its own.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> ds = SequenceDataset.from_sequences([[1, 2], [3], [4, 5, 6, 7, 8], [9]])
    >>> [batch.tolist() for batch in batches(ds, 3, shuffle=False)]
    [[0, 1], [2], [3]]
    """
    budget = integer("batch_tokens", batch_tokens, 1)
    integer("seed", seed, 0)
    integer("epoch", epoch, 0)
    sized = _deal(dataset, budget, seed, epoch, shuffle)
    if drop_last:
        sized = _without_unfinished(sized, budget, _shortest(dataset, budget))
        first = next(sized, None)
        if first is None and len(dataset):
            raise OptionError(
                f"drop_last: expected at least one full batch of {budget} tokens, "
                f"got {dataset.n_tokens} tokens in all; lower batch_tokens or keep the last batch"
            )
        sized = itertools.chain([] if first is None else [first], sized)
    return (ids for ids, _ in sized)


def sized_batches(
    dataset: Any, batch_tokens: int, *, seed: int = 0, epoch: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """The same, each batch with the number of its tokens.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> ds = SequenceDataset.from_sequences([[1, 2], [3], [4, 5, 6, 7, 8], [9]])
    >>> sum(n for _, n in sized_batches(ds, 3))
    9
    """
    return _deal(dataset, integer("batch_tokens", batch_tokens, 1), seed, epoch, shuffle=True)


def _deal(dataset: Any, budget: int, seed: int, epoch: int, shuffle: bool) -> Iterator[tuple[np.ndarray, int]]:
    """Yield batches, holding the ids of one part of the order and their lengths, whatever the size of the dataset."""
    count = len(dataset)
    order = Order(count, seed=seed, epoch=epoch) if shuffle else None
    ids, ends = np.empty(0, np.int64), np.empty(0, np.int64)
    start = taken = 0
    while True:
        end = _end_of_batch(ends, start, budget)
        if end < ids.size or taken == count:
            if start == end:
                return
            before = int(ends[start - 1]) if start else 0
            yield np.sort(ids[start:end]), int(ends[end - 1]) - before
            start = end
            continue
        # Only what comes behind a batch says that it is finished: the rest of this part goes before the next one.
        stop = min(count, taken + max(_PART, ids.size - start))
        more = np.arange(taken, stop, dtype=np.int64) if order is None else order.part(taken, stop)
        rest = np.diff(ends[start:], prepend=ends[start - 1] if start else 0)
        ids = np.concatenate([ids[start:], more])
        ends = np.cumsum(np.concatenate([rest, _lengths_of(dataset, more)]))
        start, taken = 0, stop


def _lengths_of(dataset: Any, ids: np.ndarray) -> np.ndarray:
    known = hasattr(dataset, "lengths_of")
    lengths: np.ndarray = dataset.lengths_of(ids) if known else np.asarray(dataset.lengths, dtype=np.int64)[ids]
    return lengths


def _shortest(dataset: Any, budget: int) -> int:
    """Tokens of the shortest sequence that has any; more than the budget where none has."""
    shortest = budget + 1
    for low, high in chunks(0, len(dataset)):
        lengths = _lengths_of(dataset, np.arange(low, high, dtype=np.int64))
        shortest = int(lengths[lengths > 0].min(initial=shortest))
    return shortest


def _end_of_batch(ends: np.ndarray, start: int, budget: int) -> int:
    """One past the last position of the batch that begins at `start`; `ends` are running token counts."""
    before = int(ends[start - 1]) if start else 0
    end = int(np.searchsorted(ends, before + budget, side="right"))
    if end > start and int(ends[end - 1]) > before:
        return end
    # The next sequence with tokens is above the budget: it goes alone, with the empty ones around it.
    first = int(np.searchsorted(ends, before, side="right"))
    if first == ends.size:
        return first
    return int(np.searchsorted(ends, ends[first], side="right"))


def _without_unfinished(
    sized: Iterator[tuple[np.ndarray, int]], budget: int, shortest: int
) -> Iterator[tuple[np.ndarray, int]]:
    """All batches but the last, and the last one if not even the shortest sequence would still have fitted."""
    held: tuple[np.ndarray, int] | None = None
    for batch in sized:
        if held is not None:
            yield held
        held = batch
    if held is not None and held[1] + shortest > budget:
        yield held
