"""The second row primitive: what is written once the state of a row is known.

Rows are addresses of contiguous elements of the compute dtype, as in `rows`. ``bypass`` asks for stores past the
caches: for results larger than those, whose lines would be read before they are written.
"""

from __future__ import annotations

from typing import Any

from fastnll.kernels.jit.arithmetic import pick
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.memory import view
from fastnll.kernels.jit.sweeps import scale, scale_past_caches, subtract, subtract_past_caches

__all__ = ["fill_row", "log_row", "minus_pair", "scale_row"]


@helper
def scale_row(e: int, y: int, n: int, factor: Any, bypass: bool) -> None:
    """Write y = e * factor, whose type is that of the elements; y is e or apart from it."""
    if bypass:
        scale_past_caches(e, y, n, factor, factor)
    else:
        scale(e, y, n, factor, factor)


@helper(inline=True)
def minus_pair(x: Any, high: Any, low: Any) -> Any:
    """Return x - (high + low), the large part first, and at most 0: the logarithm of a probability."""
    zero = pick(x, 0.0, 0.0)
    result = (x - high) - low
    return zero if result > zero else result


@helper
def log_row(x: int, y: int, n: int, high: Any, low: Any, bypass: bool) -> None:
    """Write y = x - (high + low), the two being a logsumexp: as exact as the compute dtype can say it."""
    if bypass:
        subtract_past_caches(x, y, n, high, low)
    else:
        subtract(x, y, n, high, low)


@helper
def fill_row(y: int, n: int, value: float, like: Any) -> None:
    """Write one value to a whole row."""
    row = view(y, n, like)
    number = pick(like, value, value)
    for v in range(n):
        row[v] = number
