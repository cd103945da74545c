"""Row formulas of softmax, its vector-Jacobian product and the gather, and one loop an op.

Only the loops at the end are compiled as kernels of their own and cached; each takes the record, a
range of rows and scratch memory, and holds no lock while it runs.
"""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.access import put, row_loop
from fastnll.kernels.jit.arithmetic import exp_from, pick, widest
from fastnll.kernels.jit.compiler import helper, kernel
from fastnll.kernels.jit.constants import BLOCK, LANES, STEP
from fastnll.kernels.jit.emit import fill_row, log_row, minus_pair, scale_row
from fastnll.kernels.jit.finish import TOTAL, WEIGHT, finish_softmax, put_logsumexps, tables
from fastnll.kernels.jit.formats import read_float
from fastnll.kernels.jit.groups import sum_rows, write_rows
from fastnll.kernels.jit.memory import load_i64, view
from fastnll.kernels.jit.rows import NO_CLASS, NOTHING_KEPT, lead_stats, lse_pair, row_stats, row_sum
from fastnll.kernels.jit.sweeps import stores_done
from fastnll.kernels.jit.vecmath import exp_range, wide

__all__ = ["gather_normalised", "gather_rows", "softmax_rows", "vjp_rows"]


@helper
def softmax_row(task: Any, r: int, o: int, i: int, x: int, second: int, y: int, terms: int, like: Any) -> float:
    """Write softmax(x) or log_softmax(x) and the logsumexp of one row."""
    n = task.classes
    keep = 1 if task.out != 0 else 0
    t, own = -1, 0.0
    if task.log != 0:
        base, k, total, t, own = lead_stats(x, n, terms, like)
    else:
        base, k, total = row_stats(x, n, NO_CLASS, terms, keep, like)
    lse, rest = lse_pair(base, k, total)
    put(task.lse, task.lse_code, r, lse)
    if task.out != 0:
        if total != total:
            fill_row(y, n, math.nan, like)
        elif task.log != 0:
            high = pick(like, lse, lse)
            log_row(x, y, n, high, pick(like, (lse - high) + rest, (lse - high) + rest), False)
            if t >= 0:
                view(y, n, like)[t] = pick(like, own, own)
        else:
            scale_row(terms, y, n, pick(like, 1.0 / total, 1.0 / total), False)
    return 0.0


@helper(sums=True)
def _dot(g: int, y: int, n: int, like: Any) -> Any:
    widest()
    row, other = view(g, n, like), view(y, n, like)
    total = pick(like, 0.0, 0.0)
    for v in range(n):
        total += row[v] * other[v]
    return total


@helper
def _vjp_block(y: int, g: int, out: int, n: int, total: Any, log: int, buffer: int, like: Any) -> None:
    """Write one block of the product; by way of the buffer, as `out` may be `y` or `g`."""
    widest()
    ys, gs, results, block = view(y, n, like), view(g, n, like), view(out, n, like), view(buffer, n, like)
    if log != 0:
        low, high, bits = exp_range(pick(like, 0.0, 0.0))
        for v in range(n):
            block[v] = gs[v] - exp_from(ys[v], low, high, bits) * total
    else:
        for v in range(n):
            block[v] = ys[v] * (gs[v] - total)
    for v in range(n):
        results[v] = block[v]


@helper
def vjp_row(task: Any, r: int, o: int, i: int, y: int, g: int, out: int, terms: int, like: Any) -> float:
    """Write g - exp(y) sum(g), or y (g - sum(g y)), of one row."""
    n, size = task.classes, like.itemsize
    total = 0.0
    if task.log != 0:
        total = row_sum(g, n, like)
    else:
        step = STEP // size
        for b in range(0, n, step):
            total += _dot(g + b * size, y + b * size, min(step, n - b), like)
    factor = pick(like, total, total)
    for b in range(0, n, BLOCK):
        at = b * size
        _vjp_block(y + at, g + at, out + at, min(BLOCK, n - b), factor, task.log, terms, like)
    return 0.0


@helper
def gather_row(task: Any, r: int, o: int, i: int, x: int, second: int, y: int, terms: int, like: Any) -> float:
    """Write x at each id minus the row's logsumexp; 0 at absent ids."""
    base, k, total = row_stats(x, task.classes, NO_CLASS, terms, NOTHING_KEPT, like)
    lse, rest = lse_pair(base, k, total)
    row = view(x, task.classes, like)
    for j in range(task.ids_count):
        at = r * task.ids_count + j
        v = load_i64(task.ids + 8 * at)
        value = 0.0
        if 0 <= v < task.classes:
            value = math.nan if total != total else minus_pair(wide(row[v]), lse, rest)
        put(task.picked, task.picked_code, at, value)
    return 0.0


_vjp_loop = row_loop(vjp_row)
_gather_loop = row_loop(gather_row)


@kernel
def softmax_rows(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write softmax, log_softmax, logsumexp of rows start .. stop - 1."""
    task = tasks[0]
    lanes, state, targets = tables(work, task.lanes_at)
    for j in range(LANES):
        targets[j], state[WEIGHT, j], state[TOTAL, j] = -1, 1.0, 0.0
        lanes[1, j] = lanes[2, j] = pick(work, 0.0, 0.0)
    for r in range(start, stop, task.group):
        m = min(task.group, stop - r)
        sum_rows(task, r, m, lanes, state, targets, work)
        finish_softmax(m, lanes, state, task.log)
        put_logsumexps(task, r, m, lanes, state, work)
        if task.out != 0:
            write_rows(task, r, m, lanes, state, targets, work)
    if task.bypass:
        stores_done()


@kernel
def vjp_rows(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Run `vjp_row` over a range of rows."""
    _vjp_loop(tasks, start, stop, work)


@kernel
def gather_rows(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Run `gather_row` over a range of rows."""
    _gather_loop(tasks, start, stop, work)


@kernel
def gather_normalised(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write x at each id, 0 at absent ids: rows are not walked."""
    task = tasks[0]
    for r in range(start, stop):
        o = r // task.inner
        i = r - o * task.inner
        x = task.x + o * task.x_outer + i * task.x_inner
        for at in range(r * task.ids_count, (r + 1) * task.ids_count):
            v = load_i64(task.ids + 8 * at)
            present = 0 <= v < task.classes
            value = wide(read_float(x + v * task.x_class, task.x_code, work)) if present else 0.0
            put(task.picked, task.picked_code, at, value)
