"""Rows side by side: for few classes, and for a class axis that is not the last.

A tile holds `LANES` rows and up to `SEGMENT` classes as [class][row], so that every step is a loop over
rows without a sum across a vector, and a class axis with rows next to each other is read as it lies in
memory. Logits are fetched segment by segment; where one segment is the whole row, it is fetched once.

Lane state: an (8, LANES) array of m (largest element so far), k and base (reference, as in `rows`), low
and bits (what `exp_from` takes for k) and three work rows; and a float64 total for each lane.
"""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.arithmetic import as_float, as_int, bits_of, exp_from, pick, round_shifted, unshifted, widest
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.constants import LANES
from fastnll.kernels.jit.emit import minus_pair
from fastnll.kernels.jit.formats import read_row, write_row
from fastnll.kernels.jit.memory import prefetch_read, prefetch_write, start_of, view
from fastnll.kernels.jit.rows import LIMITS, exp64
from fastnll.kernels.jit.vecmath import LN2, exp_range, wide

__all__ = ["add_all_but_largest", "add_segment", "add_terms", "load_tile", "scale_tile", "store_tile", "subtract_tile"]

# Terms added one after the other in the compute dtype; such sums are added in float64.
_ADDED = 32
# Classes asked for in advance where each is a piece of memory of its own.
_AHEAD = 16


@helper
def load_tile(task: Any, r: int, m: int, first: int, n: int, tile: Any, row: Any) -> None:
    """Fetch classes first .. first + n - 1 of rows r .. r + m - 1; further lanes keep what they hold."""
    size, step = tile.itemsize, task.x_class
    code = 1 if size == 4 else 0  # of the compute dtype
    o = r // task.inner
    i = r - o * task.inner
    lane = 0
    while lane < m:
        # A run of rows at equal distances.
        count = min(m - lane, task.inner - i)
        x = task.x + o * task.x_outer + i * task.x_inner + first * step
        if abs(task.x_inner) < abs(step):
            at = start_of(tile) + lane * size
            for v in range(n):
                for line in range(0, count * task.x_inner, 64):
                    prefetch_read(x + (v + _AHEAD) * step + line)
                read_row(x + v * step, task.x_inner, task.x_code, view(at + v * LANES * size, count, tile))
        elif step == size and task.x_code == code:
            for j in range(lane, lane + count):
                source = view(x + (j - lane) * task.x_inner, n, tile)
                for v in range(n):
                    tile[v * LANES + j] = source[v]
        else:
            for j in range(lane, lane + count):
                read_row(x + (j - lane) * task.x_inner, step, task.x_code, row[:n])
                for v in range(n):
                    tile[v * LANES + j] = row[v]
        lane += count
        i = 0
        o += 1


@helper
def store_tile(task: Any, r: int, m: int, first: int, n: int, tile: Any, row: Any) -> None:
    """Write a tile to the same classes of the same rows of the output."""
    size, step = tile.itemsize, task.out_class
    code = 1 if size == 4 else 0
    o = r // task.inner
    i = r - o * task.inner
    lane = 0
    while lane < m:
        count = min(m - lane, task.inner - i)
        out = task.out + o * task.out_outer + i * task.out_inner + first * step
        if abs(task.out_inner) < abs(step):
            at = start_of(tile) + lane * size
            for v in range(n):
                for line in range(0, count * task.out_inner, 64):
                    prefetch_write(out + (v + _AHEAD) * step + line)
                write_row(view(at + v * LANES * size, count, tile), out + v * step, task.out_inner, task.out_code)
        elif step == size and task.out_code == code:
            for j in range(lane, lane + count):
                target = view(out + (j - lane) * task.out_inner, n, tile)
                for v in range(n):
                    target[v] = tile[v * LANES + j]
        else:
            for j in range(lane, lane + count):
                for v in range(n):
                    row[v] = tile[v * LANES + j]
                write_row(row[:n], out + (j - lane) * task.out_inner, step, task.out_code)
        lane += count
        i = 0
        o += 1


@helper
def _raise_maximum(tile: Any, n: int, m: Any) -> None:
    widest()
    for v in range(n):
        for j in range(LANES):
            x = tile[v * LANES + j]
            m[j] = x if x > m[j] else m[j]


@helper
def _set_reference(lanes: Any, alone: bool) -> None:
    m, k, base, low, bits = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    zero, limit = pick(lanes, 0.0, 0.0), pick(lanes, LIMITS[0], LIMITS[1])
    for j in range(LANES):
        near = abs(m[j]) <= limit and not alone
        base[j] = zero if near or m[j] == -math.inf else m[j]
        power = unshifted(round_shifted(m[j] if near else zero))
        k[j] = power
        low[j] = exp_range(power)[0]
        bits[j] = as_float(bits_of(power))


@helper
def _rescale(lanes: Any, total: Any) -> None:
    """Bring totals from the references kept in rows 5 and 6 to the current ones."""
    for j in range(LANES):
        change = wide(lanes[6, j] - lanes[2, j]) + wide(lanes[5, j] - lanes[1, j]) * LN2
        if change != 0.0 and total[j] != 0.0:
            total[j] *= exp64(change)


@helper
def add_terms(tile: Any, n: int, lanes: Any) -> None:
    """Replace the logits of n classes by exp(x - base) 2^-k and write their sums to row 7.

    No term is above 1.5.
    """
    widest()
    base, low, bits, s = lanes[2], lanes[3], lanes[4], lanes[7]
    zero, top = pick(lanes, 0.0, 0.0), pick(lanes, math.inf, math.inf)
    for j in range(LANES):
        s[j] = zero
    for v in range(n):
        for j in range(LANES):
            term = exp_from(tile[v * LANES + j] - base[j], low[j], top, as_int(bits[j]))
            tile[v * LANES + j] = term
            s[j] += term


@helper
def add_segment(tile: Any, n: int, lanes: Any, total: Any, alone: bool) -> None:
    """Add a segment's terms to the lane totals and leave them in the tile.

    Before the first segment the caller sets m, and `total` to 0. `alone`: there is one class only, whose
    term must be 1 exactly.
    """
    _raise_maximum(tile, n, lanes[0])
    for j in range(LANES):
        lanes[5, j] = lanes[1, j]
        lanes[6, j] = lanes[2, j]
    _set_reference(lanes, alone)
    _rescale(lanes, total)
    for first in range(0, n, _ADDED):
        add_terms(tile[first * LANES :], min(_ADDED, n - first), lanes)
        for j in range(LANES):
            total[j] += lanes[7, j]


@helper
def scale_tile(tile: Any, n: int, factor: Any) -> None:
    """Multiply each lane by its factor; a factor of 0 gives 0 whatever the lane holds."""
    widest()
    zero = pick(tile, 0.0, 0.0)
    for v in range(n):
        for j in range(LANES):
            tile[v * LANES + j] = zero if factor[j] == zero else tile[v * LANES + j] * factor[j]


@helper
def add_all_but_largest(tile: Any, n: int, lanes: Any, others: Any) -> None:
    """Add each lane's terms but the largest so far, which is in row 6, to `others`."""
    widest()
    zero = pick(lanes, 0.0, 0.0)
    s, largest = lanes[7], lanes[6]
    for first in range(0, n, _ADDED):
        for j in range(LANES):
            s[j] = zero
        for v in range(first, min(first + _ADDED, n)):
            for j in range(LANES):
                term, top = tile[v * LANES + j], largest[j]
                s[j] += term if term < top else top
                largest[j] = top if term < top else term
        for j in range(LANES):
            others[j] += s[j]


@helper
def subtract_tile(tile: Any, n: int, high: Any, low: Any, top: Any, own: Any) -> None:
    """Subtract each lane's (high + low); where a lane's element is `top`, the result is `own`."""
    widest()
    for v in range(n):
        for j in range(LANES):
            x = tile[v * LANES + j]
            tile[v * LANES + j] = own[j] if x == top[j] else minus_pair(x, high[j], low[j])
