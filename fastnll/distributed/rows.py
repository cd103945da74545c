"""The sum over the rows of a dataset, shared out among the ranks of a communicator."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.distributed.ranks import Ranks, checksum
from fastnll.models.base import Grads, Params, compute_dtype
from fastnll.models.counts import PairCounts
from fastnll.models.spans import Spans
from fastnll.models.sums import fsum
from fastnll.objective.evaluate import RowSum, params_dtype

__all__ = ["SharedRowSum"]

Array = npt.NDArray[Any]

# From this many rows on, counting is shared out: fewer are counted sooner than the counts of others arrive.
_SHARED_COUNT = 1 << 20

# Parameters that drifted apart would give results of no model at all: they are compared at the first call and at
# every so many that follow, since a checksum costs about as much as an update.
_COMPARE_EVERY = 256


class Flat(dict[str, Array]):
    """Gradients by name that lie in one vector, so that they are sent without being packed.

    Attributes
    ----------
    vector : ndarray, shape (P,)
    """

    def __init__(self, vector: Array, shapes: dict[str, tuple[int, ...]]) -> None:
        self.vector = vector
        start = 0
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            self[name] = vector[start:stop].reshape(shape)
            start = stop


class SharedRowSum(RowSum):
    """A `RowSum` whose blocks are evaluated by all ranks, with the same result on each.

    Parameters
    ----------
    rows : RowSum
        The same on every rank.
    ranks : Ranks
    deterministic : bool
        Whether gradients are added in an order that does not depend on the number of ranks.
    rounded : bool
        Whether gradients may travel in the dtype of the parameters once they are summed.
    """

    def __init__(self, rows: RowSum, ranks: Ranks, deterministic: bool, rounded: bool) -> None:
        super().__init__(rows.model, rows.data, rows.spans, rows.loss, rows.counts, rows.block_rows)
        self._ranks, self._deterministic, self._rounded = ranks, deterministic, rounded
        self._calls = [0]
        # What was found out before is not looked for again.
        self.__dict__.update({name: rows.__dict__[name] for name in ("_pairs", "n_live") if name in rows.__dict__})

    def of(self, spans: Spans) -> SharedRowSum:
        """Return the same for other rows of the same data."""
        alone = RowSum(self.model, self.data, spans, self.loss, self.counts, self.block_rows)
        shared = SharedRowSum(alone, self._ranks, self._deterministic, self._rounded)
        shared._spare, shared._calls = self._spare, self._calls
        return shared

    @cached_property
    def _pairs(self) -> PairCounts:
        """The counts of all rows, on every rank; whole numbers have no order of addition."""
        assert self._table is not None
        table, n_rows = self._table, self.spans.n_rows
        if n_rows < _SHARED_COUNT:
            return table.count(self.data, self.spans).without(self._ignored)
        mine = table.count_part(self.data, self.spans, *self._ranks.share(n_rows))
        keys, counts = (self._ranks.gather_ragged(part) for part in mine)
        distinct = np.unique(np.concatenate(keys))
        totals = np.zeros(distinct.size, np.int64)
        for key, count in zip(keys, counts, strict=True):
            totals[np.searchsorted(distinct, key)] += count
        return PairCounts(distinct, totals, table.n_contexts, table.vocab_size).without(self._ignored)

    @cached_property
    def n_live(self) -> int:
        """Rows whose target is not an ignored one."""
        if not self._ignored:
            return self.spans.n_rows
        if self._table is not None:
            return self._pairs.n_rows
        return self._ranks.sum(self._count_live(*self._ranks.share(self.spans.n_rows)))

    def value(self, params: Params) -> float:
        """Return the sum of the losses: its bits do not depend on the number of ranks."""
        self._compare(params)
        if self._table is not None:
            return super().value(params)
        losses = np.fromiter(self._block_losses(params, *self._ranks.share(self._n_blocks)), np.float64)
        return fsum(self._ranks.gather(losses, self._ranks.shares(self._n_blocks)).tolist())

    def value_and_grad(self, params: Params) -> tuple[float, Grads]:
        """Return the sum of the losses and its gradient, on every rank."""
        self._compare(params)
        if self._table is not None or not self._n_blocks:
            # Every rank adds up the same counts: less work than sending a table.
            return super().value_and_grad(params)
        losses, total = (self._in_order if self._deterministic else self._by_rank)(params)
        return fsum(losses), self._gathered(total, params)

    def _in_order(self, params: Params) -> tuple[list[float], Array]:
        """Return all losses, and this rank's slice of the gradient: groups are added one after the other.

        Groups are dealt like cards. In each round every rank sends the others their slices of the gradient of its
        group, and adds the slices it receives to its own part of the total, in the order of the groups: the
        additions, and so the bits, are those of one process, and no rank holds more than two gradients and its slice.
        """
        ranks = self._ranks
        dealt = range(ranks.rank, self.n_groups, ranks.size)
        mine = self._group_sums(params, dealt)
        size = int(ranks.shares(self.model.n_parameters)[ranks.rank])
        received = np.empty((min(ranks.size, self.n_groups), size), compute_dtype(params_dtype(params)))
        total: Array | None = None
        losses: list[float] = []
        for first in range(0, self.n_groups, ranks.size):
            part, grads = next(mine, (None, None))
            senders = min(ranks.size, self.n_groups - first)
            assert grads is None or isinstance(grads, Flat)
            ranks.exchange(None if grads is None else grads.vector, senders, received[:senders])
            for row in received[:senders]:
                if total is None:
                    total = row.astype(np.float64)
                else:
                    total += row
            if part is not None and grads is not None:
                losses += part
                self._clear(grads)
        assert total is not None
        return self._all_losses(losses, dealt), total

    def _by_rank(self, params: Params) -> tuple[list[float], Array]:
        """Return all losses, and this rank's slice of the gradient: each rank adds up neighbouring groups first."""
        low, high = self._ranks.share(self.n_groups)
        total = np.zeros(self.model.n_parameters)
        losses: list[float] = []
        for part, grads in self._group_sums(params, range(low, high)):
            losses += part
            assert isinstance(grads, Flat)
            total += grads.vector
            self._clear(grads)
        return self._all_losses(losses, range(low, high)), self._ranks.reduce_scatter(total)

    def _all_losses(self, mine: list[float], groups: range) -> list[float]:
        """Return the losses of all blocks in order, from those of the groups that each rank had."""
        ranks = self._ranks
        dealt = [groups] * ranks.size
        for rank in range(ranks.size):
            step = range(rank, self.n_groups, ranks.size)
            dealt[rank] = step if self._deterministic else range(*ranks.share(self.n_groups, rank))
        numbers = [self._blocks_of(part) for part in dealt]
        counts = np.array([part.size for part in numbers])
        losses = np.empty(self._n_blocks)
        losses[np.concatenate(numbers)] = ranks.gather(np.array(mine, np.float64), counts)
        return losses.tolist()

    def _blocks_of(self, groups: range) -> Array:
        first = np.arange(groups.start, groups.stop, groups.step, dtype=np.int64)[:, None] * self._group
        numbers = (first + np.arange(self._group)).reshape(-1)
        return numbers[numbers < self._n_blocks]

    def _gathered(self, part: Array, params: Params) -> Grads:
        """Return all of the gradient from the slices of it that the ranks have summed."""
        stored = params_dtype(params)
        # One group's gradient was never more than what it is computed in; else one rounding, that of the objective.
        dtype = compute_dtype(stored) if self.n_groups == 1 else stored if self._rounded else part.dtype
        vector = self._ranks.gather(part.astype(dtype, copy=False), self._ranks.shares(self.model.n_parameters))
        return Flat(vector, self.model.shapes())

    def _zeros(self, params: Params) -> Grads:
        vector = np.zeros(self.model.n_parameters, compute_dtype(params_dtype(params)))
        return Flat(vector, self.model.shapes())

    def per_sequence(self, params: Params) -> Array:
        """Return the sum of the losses of each sequence, (B,) float64, on every rank."""
        self._compare(params)
        starts = [self._first_own(rank) for rank in range(self._ranks.size)] + [self.spans.n_sequences]
        first, stop = starts[self._ranks.rank : self._ranks.rank + 2]
        own, tail = np.zeros(stop - first), []
        for ids, sums in self._sequence_parts(params, *self._ranks.share(self._n_parts)):
            # A sequence that begins in the share of another rank: its parts are added there, in the order of the rows.
            before = int(np.searchsorted(ids, first))
            tail += sums[:before].tolist()
            own[ids[before:] - first] += sums[before:]
        totals = self._ranks.gather(own, np.diff(starts))
        for start, more in zip(starts, self._ranks.gather_ragged(np.array(tail, np.float64)), strict=False):
            for loss in more.tolist():
                totals[start - 1] += loss
        return totals

    def _first_own(self, rank: int) -> int:
        """Return the first sequence that begins in the share of a rank, or in none before it."""
        row = self._ranks.share(self._n_parts, rank)[0] * self._part_rows
        if row == 0:
            return 0
        if row >= self.spans.n_rows:
            return self.spans.n_sequences
        sequence = self.spans.overlapping(row, row + 1)[0]
        return sequence + int(self.spans.ends(sequence, sequence)[0] < row)

    def _compare(self, params: Params) -> None:
        """Raise, on every rank, if the ranks were given different parameters."""
        self._calls[0] += 1
        if self._calls[0] % _COMPARE_EVERY == 1:
            sums = {name: checksum(array) for name, array in params.items()}
            advice = "make them with the same seed on each, or from the same checkpoint"
            self._ranks.check_same("params (checksums)", sums, advice)
