"""The loops over tiles of rows side by side: softmax and the plain cross entropy (see `lanes`)."""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.access import number_at, put, read_integer
from fastnll.kernels.jit.arithmetic import pick, widest
from fastnll.kernels.jit.compiler import helper, kernel
from fastnll.kernels.jit.constants import LANES, SEGMENT
from fastnll.kernels.jit.formats import read_float
from fastnll.kernels.jit.lanes import add_segment, add_terms, load_tile, scale_tile, store_tile, subtract_tile
from fastnll.kernels.jit.memory import store_f64, table, view
from fastnll.kernels.jit.rows import lse_pair, nll, target_term
from fastnll.kernels.jit.vecmath import wide

# Rows of the float64 state: sum of terms, row weight, target's logit, target weight, factor of the
# gradient, weighted loss, gradient at the target.
_TOTAL, _WEIGHT, _LOGIT, _C, _FACTOR, _LOSS, _OWN = range(7)

__all__ = ["cross_entropy_lanes", "softmax_lanes"]


@helper
def _scratch(work: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return the tile, a row of it, ten numbers a lane, seven float64 and one integer a lane."""
    size, at = work.itemsize, work.ctypes.data
    tile = view(at, SEGMENT * LANES, work)
    at += SEGMENT * LANES * size
    row = view(at, SEGMENT, work)
    at += SEGMENT * size
    lanes = table(at, 10, LANES, work)
    at += 10 * LANES * size
    # Lanes beyond the last row compute with what is there: make that numbers.
    for i in range(tile.size):
        tile[i] = pick(work, 0.0, 0.0)
    return tile, row, lanes, table(at, 7, LANES, 0.0), view(at + 7 * LANES * 8, LANES, 0)


@helper
def _has_nan(task: Any, r: int, like: Any) -> bool:
    o = r // task.inner
    x = task.x + o * task.x_outer + (r - o * task.inner) * task.x_inner
    for v in range(task.classes):
        value = read_float(x + v * task.x_class, task.x_code, like)
        if value != value:
            return True
    return False


@helper
def _lone_lse(task: Any, r: int, top: Any, total: float, like: Any) -> float:
    """Return the logsumexp of a lane without a distribution: its total is 0 (only -inf) or NaN."""
    if total == 0.0 or (top == math.inf and not _has_nan(task, r, like)):
        return wide(top)
    return math.nan


@helper
def _finish_softmax(lanes: Any, state: Any, log: int) -> None:
    """Turn totals into logsumexps (NaN where there is no distribution) and what `out` needs of them."""
    widest()
    for j in range(LANES):
        total = state[_TOTAL, j]
        lse, rest = lse_pair(wide(lanes[2, j]), wide(lanes[1, j]), total)
        lse = lse if total > 0.0 else math.nan
        high = lse if log != 0 else lse - lse + 1.0 / total
        lanes[8, j] = high
        lanes[9, j] = (lse - wide(lanes[8, j])) + rest
        state[_LOSS, j] = lse


@kernel
def softmax_lanes(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write softmax, log_softmax, logsumexp of rows start .. stop - 1, `LANES` at a time."""
    task = tasks[0]
    n = task.classes
    tile, row, lanes, state, _ = _scratch(work)
    total = state[_TOTAL]
    for r in range(start, stop, LANES):
        m = min(LANES, stop - r)
        for j in range(LANES):
            lanes[0, j], total[j] = -math.inf, 0.0
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            load_tile(task, r, m, first, count, tile, row)
            add_segment(tile, count, lanes, total, n == 1)
        _finish_softmax(lanes, state, task.log)
        if task.lse != 0:
            for j in range(m):
                lse = state[_LOSS, j]
                if lse != lse:
                    lse = _lone_lse(task, r + j, lanes[0, j], total[j], work)
                put(task.lse, task.lse_code, r + j, lse)
        if task.out == 0:
            continue
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            if task.log != 0 or n > SEGMENT:
                load_tile(task, r, m, first, count, tile, row)
            if task.log != 0:
                subtract_tile(tile, count, lanes[8], lanes[9])
            else:
                if n > SEGMENT:
                    add_terms(tile, count, lanes)
                scale_tile(tile, count, lanes[8])
            store_tile(task, r, m, first, count, tile, row)


@helper
def _start_lanes(task: Any, r: int, m: int, lanes: Any, state: Any, targets: Any) -> None:
    """Read targets, their logits (the first maxima), and the numbers of m rows."""
    o = r // task.inner
    i = r - o * task.inner
    for j in range(LANES):
        t = -1
        weight = 0.0
        if j < m:
            weight = number_at(task.row_weight, r + j, 1.0)
            state[_C, j] = number_at(task.target_weight, r + j, 1.0)
            state[_FACTOR, j] = task.grad_scale * number_at(task.grad_weight, r + j, weight)
            at = task.targets + o * task.targets_outer + i * task.targets_inner
            if weight != 0.0:
                t = read_integer(at, task.targets_code)
            if not 0 <= t < task.classes:
                t = -1
            lanes[0, j] = -math.inf
            if t >= 0:
                x = task.x + o * task.x_outer + i * task.x_inner
                lanes[0, j] = read_float(x + t * task.x_class, task.x_code, lanes)
            i += 1
            if i == task.inner:
                i = 0
                o += 1
        else:
            lanes[0, j] = 0.0
        targets[j] = t
        state[_WEIGHT, j] = weight
        state[_LOGIT, j] = lanes[0, j]
        state[_TOTAL, j] = 0.0


@helper
def _leave_targets_out(first: int, count: int, targets: Any, tile: Any) -> None:
    for j in range(LANES):
        v = targets[j] - first
        if 0 <= v < count:
            tile[v * LANES + j] = -math.inf


@helper
def _finish_lanes(lanes: Any, state: Any, targets: Any) -> None:
    """Turn totals without the target into weighted losses, full totals, factors and target gradients."""
    widest()
    for j in range(LANES):
        others, c, weight = state[_TOTAL, j], state[_C, j], state[_WEIGHT, j]
        x_t, base, k = state[_LOGIT, j], wide(lanes[2, j]), wide(lanes[1, j])
        e_t = target_term(x_t, base, k)
        total = others + e_t
        valid = total > 0.0 and targets[j] >= 0
        loss = weight * c * nll(others, e_t, x_t, base, k) if c != 0.0 else 0.0
        factor = state[_FACTOR, j] * c / total
        loss = loss if valid else math.nan
        factor = factor if valid else math.nan
        state[_LOSS, j] = loss if weight != 0.0 else 0.0
        factor = factor if weight != 0.0 else 0.0
        lanes[8, j] = factor
        state[_OWN, j] = -factor * others
        state[_TOTAL, j] = total


@helper
def _put_losses(task: Any, r: int, m: int, lanes: Any, state: Any, like: Any) -> None:
    block = 0.0
    for j in range(m):
        block += state[_LOSS, j]
        put(task.loss, task.loss_code, r + j, state[_LOSS, j])
        if task.row_loss != 0:
            store_f64(task.row_loss + 8 * (r + j), state[_LOSS, j])
        if task.lse != 0:
            total, lse = state[_TOTAL, j], 0.0
            if total > 0.0 and state[_WEIGHT, j] != 0.0:
                lse = lse_pair(wide(lanes[2, j]), wide(lanes[1, j]), total)[0]
            elif state[_WEIGHT, j] != 0.0:
                lse = _lone_lse(task, r + j, lanes[0, j], total, like)
            put(task.lse, task.lse_code, r + j, lse)
    if task.block_sums != 0:
        store_f64(task.block_sums + 8 * (r // LANES), block)


@kernel
def cross_entropy_lanes(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write loss and gradient of rows start .. stop - 1, `LANES` at a time; start is a multiple of that."""
    task = tasks[0]
    n = task.classes
    tile, row, lanes, state, targets = _scratch(work)
    for r in range(start, stop, LANES):
        m = min(LANES, stop - r)
        _start_lanes(task, r, m, lanes, state, targets)
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            load_tile(task, r, m, first, count, tile, row)
            _leave_targets_out(first, count, targets, tile)
            add_segment(tile, count, lanes, state[_TOTAL], n == 1)
        _finish_lanes(lanes, state, targets)
        _put_losses(task, r, m, lanes, state, work)
        if task.out == 0:
            continue
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            if n > SEGMENT:
                load_tile(task, r, m, first, count, tile, row)
                add_terms(tile, count, lanes)
            scale_tile(tile, count, lanes[8])
            for j in range(m):
                v = targets[j] - first
                if 0 <= v < count:
                    tile[v * LANES + j] = state[_OWN, j]
            store_tile(task, r, m, first, count, tile, row)
