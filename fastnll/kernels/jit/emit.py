"""The second row primitive: what is written once the state of a row is known.

Rows are addresses of contiguous elements of the compute dtype, as in `rows`. Results are written a step
at a time, with the lines of a later step asked for in advance: a store to a line that is not there waits
for it (0.45 instead of 0.60 ns an element).
"""

from __future__ import annotations

from typing import Any

from fastnll.kernels.jit.arithmetic import pick, widest
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.constants import STEP
from fastnll.kernels.jit.memory import own_ahead, view

__all__ = ["fill_row", "log_row", "minus_pair", "scale_row"]


@helper
def _scale(e: int, y: int, n: int, scale: Any, like: Any) -> None:
    widest()
    terms, row = view(e, n, like), view(y, n, like)
    for v in range(n):
        row[v] = terms[v] * scale


@helper
def scale_row(e: int, y: int, n: int, scale: float, like: Any) -> None:
    """Write y = e * scale; the two do not overlap."""
    size = like.itemsize
    step = STEP // size
    for b in range(0, n, step):
        own_ahead(y + b * size)
        _scale(e + b * size, y + b * size, min(step, n - b), pick(like, scale, scale), like)


@helper(inline=True)
def minus_pair(x: Any, high: Any, low: Any) -> Any:
    """Return x - (high + low), the large part first, and at most 0: the logarithm of a probability."""
    zero = pick(x, 0.0, 0.0)
    result = (x - high) - low
    return zero if result > zero else result


@helper
def _subtract(x: int, y: int, n: int, high: Any, low: Any, like: Any) -> None:
    widest()
    row, out = view(x, n, like), view(y, n, like)
    if x == y:
        # One array: LLVM compares addresses before it takes the vector loop, and these would overlap.
        for v in range(n):
            out[v] = minus_pair(out[v], high, low)
    else:
        for v in range(n):
            out[v] = minus_pair(row[v], high, low)


@helper
def log_row(x: int, y: int, n: int, lse: float, rest: float, like: Any) -> None:
    """Write y = x - (lse + rest): with both parts, as exact as the compute dtype can say it."""
    high = pick(like, lse, lse)
    low = pick(like, (lse - high) + rest, (lse - high) + rest)
    size = like.itemsize
    step = STEP // size
    for b in range(0, n, step):
        own_ahead(y + b * size)
        _subtract(x + b * size, y + b * size, min(step, n - b), high, low, like)


@helper
def fill_row(y: int, n: int, value: float, like: Any) -> None:
    """Write one value to a whole row."""
    row = view(y, n, like)
    number = pick(like, value, value)
    for v in range(n):
        row[v] = number
