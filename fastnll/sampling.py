"""Which tokens a step sees: an epoch as batches of nearly equal size that cover every prediction once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.data import SequenceDataset
from fastnll.data.batches import sized_batches
from fastnll.data.checks import chunks, integer
from fastnll.data.prefetching import Ahead
from fastnll.objective import Objective

__all__ = ["Sampler"]

Ids = npt.NDArray[np.int64]

# A sequence is cut at this share of the budget. Whole documents would make batches of very unequal size (one fills
# the budget ten times over, the next leaves most of it empty), and a mean over few tokens under a learning rate
# made for many is a jump; pieces of 1/16 leave at most 1/16 of a batch empty. Nothing is lost at a cut: a piece
# repeats the tokens that its first predictions look back on.
_SHARE = 16


class Sampler:
    """Batches of an objective's dataset, the same for the same seed on every machine.

    Parameters
    ----------
    objective : Objective
    batch_tokens : int or None
        Tokens of a batch; None for all of the dataset.
    seed : int
        Chooses the order in every epoch.

    Attributes
    ----------
    objective : Objective
        What the ids of a batch refer to: the given one, or the same sum over pieces of its sequences.

    Raises
    ------
    OptionError
        A budget below 1 or a negative seed.

    Examples
    --------
    >>> from fastnll.models import Bigram
    >>> text = SequenceDataset(np.arange(1000) % 7)
    >>> sampler = Sampler(Objective(Bigram(7), text), 100, seed=0)
    >>> sizes = [sampler.objective.batch_value_and_grad(Bigram(7).init(), ids)[1] for ids, last in sampler.epoch(0)]
    >>> sum(sizes), max(sizes)
    (999, 84)
    """

    def __init__(self, objective: Any, batch_tokens: int | None, *, seed: int = 0) -> None:
        self._budget, self._seed, self.objective = batch_tokens, seed, objective
        if batch_tokens is None:
            return
        # Options are looked at now, not at the first batch.
        integer("batch_tokens", batch_tokens, 1)
        integer("seed", seed, 0)
        dataset, model = objective.dataset, objective.model
        limit = max(1, batch_tokens // _SHARE)
        if isinstance(dataset, SequenceDataset) and _any_longer(dataset, limit):
            context = max(model.context, model.skip)
            self.objective = _over(objective, dataset.pieces(limit + context, context=context))

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[tuple[Ids | None, bool]]:
        """The batches of an epoch, from number `skip` on, each with whether it is the last.

        Yields
        ------
        ids : ndarray of int64, shape (K,), or None
            For ``sampler.objective.batch_value_and_grad``; None for the whole dataset. A last batch of less than half
            the budget is joined to the one before it.
        last : bool
        """
        for number, batch in enumerate(self._joined(epoch)):
            if number >= skip:
                yield batch

    def _joined(self, epoch: int) -> Iterator[tuple[Ids | None, bool]]:
        if self._budget is None:
            yield None, True
            return
        dataset = self.objective.dataset
        data = getattr(dataset, "dataset", dataset)
        ahead = None if getattr(data, "mapping", None) is None else Ahead(data)
        held: tuple[Ids, int] | None = None
        for ids, n_tokens in sized_batches(dataset, self._budget, seed=self._seed, epoch=epoch):
            if held is None:
                held = ids, n_tokens
            elif 2 * n_tokens < self._budget:
                # Only the last batch is that small: pieces of 1/16 fill the others.
                held = np.concatenate([held[0], ids]), held[1] + n_tokens
            else:
                # While a batch is computed the pages of the next one are fetched.
                self._fetch(ahead, ids)
                yield held[0], False
                held = ids, n_tokens
        if held is not None:
            yield held[0], True

    def _fetch(self, ahead: Ahead | None, ids: Ids) -> None:
        if ahead is None or not ahead.wanted():
            return
        dataset = self.objective.dataset
        if hasattr(dataset, "bounds"):
            starts, stops, _ = dataset.bounds(ids)
        else:
            starts, stops = dataset.offsets[ids], dataset.offsets[ids + 1]
        ahead.fetch(starts, stops)

    def steps_per_epoch(self, epoch: int) -> int:
        """How many batches an epoch has; it may differ by one between epochs."""
        return sum(1 for _ in self._joined(epoch))


def _over(objective: Any, dataset: Any) -> Any:
    """Return the same objective of another form of its dataset."""
    if hasattr(objective, "over"):
        return objective.over(dataset)
    return Objective(
        objective.model,
        dataset,
        objective.loss,
        l2=objective.l2,
        counts=objective.counts,
        block_rows=objective.block_rows,
    )


def _any_longer(dataset: SequenceDataset, limit: int) -> bool:
    """Whether some sequence has more than `limit` tokens, without an array of all lengths."""
    for low, high in chunks(0, len(dataset)):
        lengths = np.diff(dataset.offsets[low : high + 1])
        dataset.note_read(8 * lengths.size)
        if lengths.max() > limit:
            return True
    return False
