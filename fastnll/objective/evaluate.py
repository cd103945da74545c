"""The sum of a loss over the rows of a dataset: from counts where they say it all, else block by block.

The grid of blocks is cut by the sizes of the model alone. It does not depend on threads, on free memory or on how many
blocks one call evaluates, and neither do the results, to the bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.config import resolve_threads
from fastnll.losses import CrossEntropy
from fastnll.models.base import Grads, Model, Params, compute_dtype
from fastnll.models.counts import PairCounts
from fastnll.models.spans import Data, Spans
from fastnll.models.sums import fsum
from fastnll.models.tables import TableModel
from fastnll.objective.checks import counts_suffice
from fastnll.objective.parallel import ordered_map

__all__ = ["RowSum", "default_block_rows"]

Array = npt.NDArray[Any]

# The grid of blocks. What a block works on should stay in the second-level cache (2**18 numbers, 1 MiB of float32), but
# fewer than 512 rows slow BLAS down, fewer than 1024 where V is large, and above 4096 nothing is left to gain. The
# logits of a block never exceed 2**24 numbers, 64 MiB of float32.
_CACHE, _ROWS, _LARGE_V, _FLOATS, _LEAST = 1 << 18, (512, 4096), 2048, 1 << 24, 16

# Rows whose losses are looked up at a time: 2 MiB of positions.
_LOOKUP_ROWS = 1 << 18

# Gradients that threads hold at the same time: at most this many bytes, or one thread.
_GRADIENTS = 1 << 30


def default_block_rows(model: Model) -> int:
    """Return the rows of a block: a power of two that depends on the sizes of the model alone.

    Examples
    --------
    >>> from fastnll.models import Bigram, NGram, SoftmaxRegression
    >>> [default_block_rows(m) for m in (SoftmaxRegression(64, 10), NGram(103), NGram(50257), Bigram(10**7))]
    [2048, 512, 256, 16]
    """
    low, high = _ROWS
    rows = min(high, max(low if model.vocab_size < _LARGE_V else 2 * low, _CACHE // model.row_size))
    rows = max(_LEAST, min(rows, _FLOATS // model.vocab_size))
    return 1 << (rows.bit_length() - 1)


def _group_size(n_blocks: int) -> int:
    """Return how many blocks add their gradients up before the sum joins the total, a function of the grid alone.

    Groups are what threads share out: at least 32 where there are that many blocks. Inside a group gradients are
    added in the dtype of the parameters, groups in float64, so that the rounding error of a float32 gradient over 10**9
    tokens stays that of a few additions.
    """
    return max(1, min(16, n_blocks // 32))


class _Block(NamedTuple):
    """Some consecutive rows."""

    low: int
    inputs: Array
    targets: Array


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

    def of(self, spans: Spans) -> RowSum:
        """Return the same for other rows of the same data."""
        return RowSum(self.model, self.data, spans, self.loss, self.counts, self.block_rows)

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
        n_live = 0
        for low in range(0, self.spans.n_rows, _LOOKUP_ROWS):
            positions, _ = self.spans.rows(low, min(low + _LOOKUP_ROWS, self.spans.n_rows))
            n_live += int(np.isin(self.data.tokens[positions], self._ignored, invert=True).sum())
        return n_live

    def value(self, params: Params) -> float:
        """Return the sum of the losses."""
        if self._table is not None:
            return self._table.counted_value(params, self._pairs)
        logits = self._logits_of(params)
        return fsum(ordered_map(lambda block: self._sum(logits(block), block.targets), self._blocks(), self._threads()))

    def value_and_grad(self, params: Params) -> tuple[float, Grads]:
        """Return the sum of the losses and its gradient, float32 or float64."""
        if self._table is not None:
            into = self.model.zeros(params)
            return self._table.counted_value_and_grad(params, self._pairs, into), into
        size = _group_size(self._n_blocks)
        groups = range(0, self._n_blocks, size)
        spare: list[Grads] = []
        workspace = threading.local()

        def add_up(first: int) -> tuple[list[float], Grads]:
            grads = spare.pop() if spare else self.model.zeros(params)
            buffer = self._buffer(params, workspace)
            losses = []
            for number in range(first, min(first + size, self._n_blocks)):
                block = self._block(number)
                logits, vjp = self.model.logits_and_vjp(params, block.inputs, out=buffer[: block.targets.size])
                loss, grad = self._sum.value_and_grad(logits, block.targets, out=logits)
                losses.append(loss)
                vjp(grad, grads)
            return losses, grads

        total: Grads | None = None
        losses: list[float] = []
        for part, grads in ordered_map(add_up, groups, min(self._threads(params), max(1, len(groups)))):
            losses += part
            if len(groups) == 1:
                return fsum(losses), grads
            total = _add(grads, total)
            spare.append(grads)
        return fsum(losses), self.model.zeros(params) if total is None else total

    def per_sequence(self, params: Params) -> Array:
        """Return the sum of the losses of each sequence, (B,) float64."""
        ends = self.spans.row_ends
        totals = np.zeros(ends.size - 1)
        for low, losses in self._losses(params):
            a, b = self.spans.overlapping(low, low + losses.size)
            # reduceat gives an empty segment the element it starts at: sequences without rows are left out.
            present = np.flatnonzero(ends[a + 1 : b + 1] > ends[a:b])
            starts = np.maximum(ends[a:b][present], low) - low
            totals[a + present] += np.add.reduceat(losses, starts)
        return totals

    def _losses(self, params: Params) -> Iterator[tuple[int, Array]]:
        """Yield the first row and the float64 losses of some rows, in order."""
        if self._table is not None:
            find = self._pairs.lookup(self._table.counted_nll(params, self._pairs))
            for low in range(0, self.spans.n_rows, _LOOKUP_ROWS):
                rows = self.spans.rows(low, min(low + _LOOKUP_ROWS, self.spans.n_rows))
                yield low, find(self._table.keys(self.data, *rows))
            return
        logits = self._logits_of(params)

        def losses_of(block: _Block) -> tuple[int, Array]:
            losses = self._sum(logits(block), block.targets, reduction="none")
            return block.low, losses.astype(np.float64, copy=False)

        yield from ordered_map(losses_of, self._blocks(), self._threads())

    def _blocks(self) -> Iterator[_Block]:
        return map(self._block, range(self._n_blocks))

    def _block(self, number: int) -> _Block:
        low = number * self.block_rows
        positions, depth = self.spans.rows(low, min(low + self.block_rows, self.spans.n_rows))
        return _Block(low, self.model.inputs(self.data, positions, depth), self.data.tokens[positions])

    def _logits_of(self, params: Params) -> Callable[[_Block], Array]:
        """Return a function from a block to its logits, which lie in an array that each thread uses again and again."""
        workspace = threading.local()

        def logits(block: _Block) -> Array:
            out = self._buffer(params, workspace)[: block.targets.size]
            return self.model.logits_and_vjp(params, block.inputs, out=out)[0]

        return logits

    def _buffer(self, params: Params, workspace: threading.local) -> Array:
        # Fresh pages for every block would cost more than the loss.
        if not hasattr(workspace, "logits"):
            dtype = compute_dtype(next(iter(params.values())).dtype)
            rows = min(self.block_rows, self.spans.n_rows)
            workspace.logits = np.empty((rows, self.model.vocab_size), dtype)
        buffer: Array = workspace.logits
        return buffer

    def _threads(self, params: Params | None = None) -> int:
        """Return how many threads share the blocks; fewer where each holds large gradients of `params`."""
        threads = min(resolve_threads(self.loss.options.threads), max(1, self._n_blocks))
        if params is None:
            return threads
        held = 8 * self.model.n_parameters
        return max(1, min(threads, _GRADIENTS // held))


def _add(grads: Grads, total: Grads | None) -> Grads:
    """Add a group's gradients to the float64 total, and clear them."""
    if total is None:
        total = {name: grad.astype(np.float64) for name, grad in grads.items()}
    else:
        for name, grad in grads.items():
            total[name] += grad
    for grad in grads.values():
        grad.fill(0)
    return total
