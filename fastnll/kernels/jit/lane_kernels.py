"""The loops over tiles of rows side by side: softmax and the plain cross entropy (see `lanes`)."""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.access import number_at, put, target_of
from fastnll.kernels.jit.constants import LANES, SEGMENT
from fastnll.kernels.jit.formats import read_float, table, view
from fastnll.kernels.jit.intrinsics import helper, pick, store_f64
from fastnll.kernels.jit.kernels import kernel
from fastnll.kernels.jit.lanes import add_segment, add_terms, load_tile, scale_tile, store_tile, subtract_tile
from fastnll.kernels.jit.rows import lse_pair, nll, target_state
from fastnll.kernels.jit.vecmath import wide

__all__ = ["cross_entropy_lanes", "softmax_lanes"]


@helper
def _scratch(work: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return the tile, a row of it, ten numbers a lane, four float64 and one integer a lane."""
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
    return tile, row, lanes, table(at, 4, LANES, 0.0), view(at + 4 * LANES * 8, LANES, 0)


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
def _lane_lse(task: Any, r: int, j: int, lanes: Any, total: float, like: Any) -> tuple[float, float]:
    """Return the logsumexp of lane j as a pair; totals of 0 and NaN have no distribution."""
    if total > 0.0:
        return lse_pair(wide(lanes[2, j]), wide(lanes[1, j]), total)
    if total == 0.0 or (lanes[0, j] == math.inf and not _has_nan(task, r, like)):
        return wide(lanes[0, j]), 0.0
    return math.nan, 0.0


@kernel
def softmax_lanes(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write softmax, log_softmax, logsumexp of rows start .. stop - 1, `LANES` at a time."""
    task = tasks[0]
    n = task.classes
    tile, row, lanes, state, _ = _scratch(work)
    total = state[0]
    for r in range(start, stop, LANES):
        m = min(LANES, stop - r)
        for j in range(LANES):
            lanes[0, j], total[j] = -math.inf, 0.0
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            load_tile(task, r, m, first, count, tile, row)
            add_segment(tile, count, lanes, total)
        for j in range(m):
            lse, rest = _lane_lse(task, r + j, j, lanes, total[j], work)
            put(task.lse, task.lse_code, r + j, lse)
            if not total[j] > 0.0:
                lse = math.nan
            if task.log != 0:
                lanes[8, j] = lse
                lanes[9, j] = (lse - wide(lanes[8, j])) + rest
            else:
                lanes[8, j] = 1.0 / total[j] if lse == lse else math.nan
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
def _start_lanes(task: Any, r: int, m: int, lanes: Any, targets: Any, weights: Any) -> None:
    """Read targets and weights of m rows, and their targets' logits as first maxima."""
    o = r // task.inner
    i = r - o * task.inner
    for j in range(m):
        weights[j] = number_at(task.row_weight, r + j, 1.0)
        t = target_of(task, r + j) if weights[j] != 0.0 else -1
        targets[j] = t
        if t >= 0:
            x = task.x + o * task.x_outer + i * task.x_inner
            lanes[0, j] = read_float(x + t * task.x_class, task.x_code, lanes)
        else:
            lanes[0, j] = -math.inf
        i += 1
        if i == task.inner:
            i = 0
            o += 1
    for j in range(m, LANES):
        targets[j], weights[j], lanes[0, j] = -1, 0.0, 0.0


@helper
def _leave_targets_out(first: int, count: int, targets: Any, tile: Any) -> None:
    for j in range(LANES):
        v = targets[j] - first
        if 0 <= v < count:
            tile[v * LANES + j] = -math.inf


@helper
def _finish_lanes(task: Any, r: int, m: int, lanes: Any, state: Any, targets: Any, like: Any) -> float:
    """Write the losses of m rows and return their sum; leave gradient factors and target gradients.

    `state` rows: totals without the target, weights, target logits, gradients at the targets.
    """
    others, weights, logits, own = state[0], state[1], state[2], state[3]
    block = 0.0
    for j in range(m):
        loss = factor = 0.0
        if weights[j] == 0.0:
            put(task.lse, task.lse_code, r + j, 0.0)
        else:
            base, k = wide(lanes[2, j]), wide(lanes[1, j])
            r_t, e_t = target_state(logits[j], base, k)
            total = others[j] + e_t
            if total > 0.0 and targets[j] >= 0:
                put(task.lse, task.lse_code, r + j, lse_pair(base, k, total)[0])
                c = number_at(task.target_weight, r + j, 1.0)
                loss = weights[j] * c * nll(others[j], r_t, e_t) if c != 0.0 else 0.0
                factor = task.grad_scale * number_at(task.grad_weight, r + j, weights[j]) * c / total
            else:
                loss = factor = math.nan
                put(task.lse, task.lse_code, r + j, _lane_lse(task, r + j, j, lanes, total, like)[0])
        put(task.loss, task.loss_code, r + j, loss)
        if task.row_loss != 0:
            store_f64(task.row_loss + 8 * (r + j), loss)
        block += loss
        own[j] = -factor * others[j]
        lanes[8, j] = factor
    return block


@kernel
def cross_entropy_lanes(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write loss and gradient of rows start .. stop - 1, `LANES` at a time; start is a multiple of that."""
    task = tasks[0]
    n = task.classes
    tile, row, lanes, state, targets = _scratch(work)
    for r in range(start, stop, LANES):
        m = min(LANES, stop - r)
        _start_lanes(task, r, m, lanes, targets, state[1])
        for j in range(LANES):
            state[0, j], state[2, j] = 0.0, lanes[0, j]
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            load_tile(task, r, m, first, count, tile, row)
            _leave_targets_out(first, count, targets, tile)
            add_segment(tile, count, lanes, state[0])
        block = _finish_lanes(task, r, m, lanes, state, targets, work)
        if task.block_sums != 0:
            store_f64(task.block_sums + 8 * (r // LANES), block)
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
                    tile[v * LANES + j] = state[3, j]
            store_tile(task, r, m, first, count, tile, row)
