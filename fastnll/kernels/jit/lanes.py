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

from fastnll.kernels.jit.constants import LANES
from fastnll.kernels.jit.formats import read_row, view, write_row
from fastnll.kernels.jit.intrinsics import as_float, as_int, bits_of, helper, pick, round_shifted, unshifted, widest
from fastnll.kernels.jit.rows import LIMITS, exp64
from fastnll.kernels.jit.vecmath import LN2, exp_from, exp_range, wide

__all__ = ["add_segment", "add_terms", "load_tile", "scale_tile", "store_tile", "subtract_tile"]


@helper
def load_tile(task: Any, r: int, m: int, first: int, n: int, tile: Any, row: Any) -> None:
    """Fetch classes first .. first + n - 1 of rows r .. r + m - 1; further lanes keep what they hold."""
    size, step = tile.itemsize, task.x_class
    o = r // task.inner
    i = r - o * task.inner
    lane = 0
    while lane < m:
        # A run of rows at equal distances.
        count = min(m - lane, task.inner - i)
        x = task.x + o * task.x_outer + i * task.x_inner + first * step
        if abs(task.x_inner) < abs(step):
            at = tile.ctypes.data + lane * size
            for v in range(n):
                read_row(x + v * step, task.x_inner, task.x_code, view(at + v * LANES * size, count, tile))
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
    o = r // task.inner
    i = r - o * task.inner
    lane = 0
    while lane < m:
        count = min(m - lane, task.inner - i)
        out = task.out + o * task.out_outer + i * task.out_inner + first * step
        if abs(task.out_inner) < abs(step):
            at = tile.ctypes.data + lane * size
            for v in range(n):
                write_row(view(at + v * LANES * size, count, tile), out + v * step, task.out_inner, task.out_code)
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
def _set_reference(lanes: Any) -> None:
    m, k, base, low, bits = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    zero, limit = pick(lanes, 0.0, 0.0), pick(lanes, LIMITS[0], LIMITS[1])
    for j in range(LANES):
        near = abs(m[j]) <= limit
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
    """Replace logits by exp(x - base) 2^-k and add them to row 7; no term is above 1.5."""
    widest()
    base, low, bits, s = lanes[2], lanes[3], lanes[4], lanes[7]
    top = pick(lanes, math.inf, math.inf)
    for v in range(n):
        for j in range(LANES):
            term = exp_from(tile[v * LANES + j] - base[j], low[j], top, as_int(bits[j]))
            tile[v * LANES + j] = term
            s[j] += term


@helper
def add_segment(tile: Any, n: int, lanes: Any, total: Any) -> None:
    """Add a segment's terms to the lane totals and leave them in the tile.

    Before the first segment the caller sets m, and `total` to 0.
    """
    _raise_maximum(tile, n, lanes[0])
    for j in range(LANES):
        lanes[5, j] = lanes[1, j]
        lanes[6, j] = lanes[2, j]
        lanes[7, j] = pick(lanes, 0.0, 0.0)
    _set_reference(lanes)
    _rescale(lanes, total)
    add_terms(tile, n, lanes)
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


@helper(inline=True)
def _minus(x: Any, high: Any, low: Any) -> Any:
    return (x - high) - low


@helper
def subtract_tile(tile: Any, n: int, high: Any, low: Any) -> None:
    """Subtract each lane's (high + low)."""
    widest()
    for v in range(n):
        for j in range(LANES):
            tile[v * LANES + j] = _minus(tile[v * LANES + j], high[j], low[j])
