"""Batches of whole sequences under a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnll.data.checks import integer
from fastnll.data.order import shuffled
from fastnll.errors import OptionError

__all__ = ["batches"]


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
    lengths = np.asarray(dataset.lengths, dtype=np.int64)
    if shuffle:
        order = shuffled(lengths.size, seed=seed, epoch=epoch)
    else:
        integer("seed", seed, 0)
        integer("epoch", epoch, 0)
        order = np.arange(lengths.size, dtype=np.int64)
    ends = np.cumsum(lengths[order])
    stop = order.size
    if drop_last and stop:
        stop = _start_of_unfinished(ends, budget, int(lengths[lengths > 0].min(initial=budget + 1)))
        if stop == 0:
            raise OptionError(
                f"drop_last: expected at least one full batch of {budget} tokens, "
                f"got {int(ends[-1])} tokens in all; lower batch_tokens or keep the last batch"
            )
    return _deal(order, ends, budget, stop)


def _deal(order: np.ndarray, ends: np.ndarray, budget: int, stop: int) -> Iterator[np.ndarray]:
    start = 0
    while start < stop:
        end = _end_of_batch(ends, start, budget)
        yield np.sort(order[start:end])
        start = end


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


def _start_of_unfinished(ends: np.ndarray, budget: int, shortest: int) -> int:
    """Where the final batch begins if the shortest sequence would still fit in it, else one past its end."""
    start, end = 0, 0
    while end < ends.size:
        start, end = end, _end_of_batch(ends, end, budget)
    before = int(ends[start - 1]) if start else 0
    return start if int(ends[-1]) - before + shortest <= budget else ends.size
