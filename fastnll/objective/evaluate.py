"""The sum of a loss over the rows of a dataset: from counts where they say it all, else block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fastnll import events
from fastnll.config import resolve_threads
from fastnll.losses import CrossEntropy
from fastnll.models.base import Grads, Model, Params, compute_dtype
from fastnll.models.counts import PairCounts
from fastnll.models.heads import HeadModel
from fastnll.models.spans import Data, Spans
from fastnll.models.sums import fsum
from fastnll.models.tables import TableModel
from fastnll.models.walking import Walk
from fastnll.objective.checks import counts_suffice
from fastnll.objective.grid import default_block_rows, group_size, is_wide
from fastnll.objective.narrow import HeldLogits, params_dtype
from fastnll.objective.parallel import ordered_map
from fastnll.objective.spare import Spare
from fastnll.objective.wide import WideHead

__all__ = ["RowSum", "add_group", "default_block_rows", "params_dtype"]

Array = npt.NDArray[Any]
Result = TypeVar("Result")

# Rows whose losses are looked up at a time: 512 KiB of positions, which stay in the cache.
_LOOKUP_ROWS = 1 << 16

# Gradients that threads hold at the same time: at most this many bytes, or one thread.
_GRADIENTS = 1 << 30


class _Block(NamedTuple):
    """Some consecutive rows."""

    low: int
    inputs: Array
    targets: Array


class SequencePart(NamedTuple):
    """What one block of rows adds to the losses of sequences.

    Attributes
    ----------
    ids : ndarray of int64, shape (K,)
        Ascending, each once.
    sums : ndarray of float64, shape (K,)
    """

    ids: Array
    sums: Array


class RowSum:
    """Loss and gradient of a model, summed over some rows.

    Parameters
    ----------
    model : Model
    data : object with ``tokens``
    spans : Spans
        Which rows.
    loss : CrossEntropy
        Its reduction is not used.
    counts : bool
        Whether counts may stand for the rows of a table model.
    block_rows : int

    Notes
    -----
    Rows are evaluated in blocks. Some consecutive blocks are a group, whose gradients are added in the dtype of the
    parameters; groups are added in order, in float64. What is shared out, among threads and among processes, is whole
    groups, so that who computes them changes no bit.
    """

    def __init__(
        self, model: Model, data: Data, spans: Spans, loss: CrossEntropy, counts: bool, block_rows: int
    ) -> None:
        self.model, self.data, self.spans, self.loss = model, data, spans, loss
        self.counts, self.block_rows = counts, block_rows
        self._table = model if counts and isinstance(model, TableModel) and counts_suffice(loss) else None
        self._ignored = tuple(i for i in loss.options.ignore_index if 0 <= i < model.vocab_size)
        # Blocks share out the threads, so a block's own loss has one, whatever the options say.
        self._sum = loss.replace(reduction="sum", threads=None)
        self._n_blocks = -(-spans.n_rows // block_rows)
        self._group = group_size(self._n_blocks)
        self._spare = Spare()

    def of(self, spans: Spans) -> RowSum:
        """Return the same for other rows of the same data."""
        rows = type(self)(self.model, self.data, spans, self.loss, self.counts, self.block_rows)
        rows._spare = self._spare
        return rows

    @property
    def n_groups(self) -> int:
        """Number of groups that the gradient is added up from."""
        return -(-self._n_blocks // self._group)

    @cached_property
    def _pairs(self) -> PairCounts:
        """The counts of these rows, made at the first use and kept."""
        assert self._table is not None
        return self._table.count(self.data, self.spans).without(self._ignored)

    @cached_property
    def n_live(self) -> int:
        """Rows whose target is not an ignored one."""
        if not self._ignored:
            return self.spans.n_rows
        if self._table is not None:
            return self._pairs.n_rows
        return self._count_live(0, self.spans.n_rows)

    def _count_live(self, start: int, stop: int) -> int:
        n_live = 0
        for low, high in Walk(self.data, self.spans, start, stop).steps(_LOOKUP_ROWS):
            positions, _ = self.spans.rows(low, high)
            n_live += int(np.isin(self.data.tokens[positions], self._ignored, invert=True).sum())
        return n_live

    @events.framed("objective.value")
    def value(self, params: Params) -> float:
        """Return the sum of the losses."""
        if self._table is not None:
            return self._table.counted_value(params, self._pairs)
        return fsum(self._block_losses(params, 0, self._n_blocks))

    @events.framed("objective.value_and_grad")
    def value_and_grad(self, params: Params) -> tuple[float, Grads]:
        """Return the sum of the losses and its gradient, float32 or float64."""
        if self._table is not None:
            into = self.model.zeros(params)
            return self._table.counted_value_and_grad(params, self._pairs, into), into
        total: Grads | None = None
        losses: list[float] = []
        for part, grads in self._group_sums(params, range(self.n_groups)):
            losses += part
            if self.n_groups == 1:
                return fsum(losses), grads
            total = add_group(grads, total)
            self._clear(grads)
        return fsum(losses), self.model.zeros(params) if total is None else total

    @events.framed("objective.per_sequence")
    def per_sequence(self, params: Params) -> Array:
        """Return the sum of the losses of each sequence, (B,) float64."""
        totals = np.zeros(self.spans.n_sequences)
        for ids, sums in self._sequence_parts(params, 0, self._n_parts):
            totals[ids] += sums
        return totals

    def _evaluator(self) -> HeldLogits | WideHead:
        """Return what computes blocks; asked for outside of the threads that do, which see only one of them."""
        if is_wide(self.model):
            return WideHead(cast(HeadModel, self.model), self._sum, resolve_threads(self.loss.options.threads))
        return HeldLogits(self.model, self._sum, self._spare)

    def _block_losses(self, params: Params, start: int, stop: int) -> Iterator[float]:
        """Yield the sum of the losses of each of some blocks, in order."""
        evaluator = self._evaluator()

        def loss_of(block: _Block) -> float:
            return float(evaluator.losses(params, block.inputs, block.targets, "sum"))

        yield from self._over_blocks(params, loss_of, start, stop)

    def _group_sums(self, params: Params, groups: range) -> Iterator[tuple[list[float], Grads]]:
        """Yield the losses of the blocks of each group, and its gradients, for `_clear` when they have been read."""
        evaluator = self._evaluator()

        def add_up(group: int) -> tuple[list[float], Grads]:
            grads: Grads = self._spare.take(("grads", compute_dtype(params_dtype(params)))) or self._zeros(params)
            losses = []
            first = group * self._group
            for number in range(first, min(first + self._group, self._n_blocks)):
                block = events.timed(events.WAIT, "data: rows", self._block, number)
                losses.append(evaluator.value_and_grad(params, block.inputs, block.targets, grads))
            return losses, grads

        rows = self._group * self.block_rows
        walk = Walk(self.data, self.spans, groups.start * rows, min(groups.stop * rows, self.spans.n_rows))

        def announced() -> Iterator[int]:
            for group in groups:
                walk.at(group * rows)
                yield group

        threads = min(self._threads(params), max(1, len(groups)))
        for group, result in zip(groups, ordered_map(add_up, announced(), threads), strict=True):
            yield result
            walk.done(min((group + 1) * rows, self.spans.n_rows))

    def _zeros(self, params: Params) -> Grads:
        """Return the gradients of a group before its first block."""
        return self.model.zeros(params)

    def _clear(self, grads: Grads) -> None:
        """Take the gradients of a group back, for the next one."""
        for grad in grads.values():
            grad.fill(0)
        self._spare.give(("grads", params_dtype(grads)), grads)

    @property
    def _n_parts(self) -> int:
        """How many parts `_sequence_parts` has."""
        return -(-self.spans.n_rows // self._part_rows)

    @property
    def _part_rows(self) -> int:
        return self.block_rows if self._table is None else _LOOKUP_ROWS

    def _sequence_parts(self, params: Params, start: int, stop: int) -> Iterator[SequencePart]:
        """Yield what each of some parts of the rows adds to the losses of sequences, in order."""
        for low, losses in self._losses(params, start, stop):
            a, b = self.spans.overlapping(low, low + losses.size)
            ends = self.spans.ends(a, b)
            # reduceat gives an empty segment the element it starts at: sequences without rows are left out.
            present = np.flatnonzero(ends[1:] > ends[:-1])
            starts = np.maximum(ends[:-1][present], low) - low
            yield SequencePart(a + present, np.add.reduceat(losses, starts))

    def _losses(self, params: Params, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield the first row and the float64 losses of some parts of the rows, in order."""
        if self._table is not None:
            find = self._pairs.lookup(self._table.counted_nll(params, self._pairs))
            first, last = start * _LOOKUP_ROWS, min(stop * _LOOKUP_ROWS, self.spans.n_rows)
            for low, high in Walk(self.data, self.spans, first, last).steps(_LOOKUP_ROWS):
                yield low, find(self._table.keys(self.data, *self.spans.rows(low, high)))
            return

        evaluator = self._evaluator()

        def losses_of(block: _Block) -> tuple[int, Array]:
            losses = evaluator.losses(params, block.inputs, block.targets, "none")
            return block.low, losses.astype(np.float64, copy=False)

        yield from self._over_blocks(params, losses_of, start, stop)

    def _over_blocks(
        self, params: Params, function: Callable[[_Block], Result], start: int, stop: int
    ) -> Iterator[Result]:
        """Yield ``function(block)`` of some blocks, in order."""
        last = min(stop * self.block_rows, self.spans.n_rows)
        walk = Walk(self.data, self.spans, start * self.block_rows, last)

        def announced() -> Iterator[_Block]:
            for number in range(start, stop):
                walk.at(number * self.block_rows)
                yield events.timed(events.WAIT, "data: rows", self._block, number)

        for number, result in enumerate(ordered_map(function, announced(), self._threads()), start):
            yield result
            walk.done(min((number + 1) * self.block_rows, last))

    def _block(self, number: int) -> _Block:
        low = number * self.block_rows
        positions, depth = self.spans.rows(low, min(low + self.block_rows, self.spans.n_rows))
        return _Block(low, self.model.inputs(self.data, positions, depth), self.data.tokens[positions])

    def _threads(self, params: Params | None = None) -> int:
        """Return how many threads share the blocks; fewer where each holds large gradients of `params`."""
        if is_wide(self.model):
            return 1  # they share the work inside of each block
        threads = min(resolve_threads(self.loss.options.threads), max(1, self._n_blocks))
        if params is None:
            return threads
        held = 8 * self.model.n_parameters
        return max(1, min(threads, _GRADIENTS // held))


def add_group(grads: Grads, total: Grads | None) -> Grads:
    """Add the gradients of a group to the float64 total of those before it; None for the first."""
    if total is None:
        return {name: grad.astype(np.float64) for name, grad in grads.items()}
    for name, grad in grads.items():
        total[name] += grad
    return total
