"""The two row primitives: the state of a row (reference power, sum of exponentials), and what it writes.

Rows are addresses of contiguous elements of the compute dtype, which `like` (any array of it) names.
The state of a row is (base, k, total): sum_v exp(x_v) = total * exp(base) * 2^k, with base 0 unless the
row is so far from 0 that k would not be exact. total is NaN where the row has no distribution (NaN,
+inf, or -inf alone); base is then its logsumexp.

Any k near the row's level will do (see `vecmath`), so it comes from five elements of the row, and the
row is read once. Only where an element is far above those the sum overflows and is done again with the
true maximum.
"""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.constants import BLOCK
from fastnll.kernels.jit.formats import view
from fastnll.kernels.jit.intrinsics import (
    HAS_FMA,
    fma,
    from_key,
    helper,
    order_key,
    pick,
    round_shifted,
    unshifted,
    widest,
)
from fastnll.kernels.jit.vecmath import LN2, LN2_LOW, exp_from, exp_range, log1p_unit, log_positive, wide

__all__ = [
    "LIMITS",
    "exp64",
    "fill_row",
    "log_row",
    "lse_pair",
    "nll",
    "row_max",
    "row_stats",
    "row_sum",
    "scale_row",
    "target_state",
]

# Largest |x| for which x - n ln 2 is exact to an ulp of the reduced argument, in float32 and float64.
LIMITS = (2.0**19, 2.0**40) if HAS_FMA else (2.0**12, 2.0**19)
# Sums above this are done again: 1 / sum must stay a normal number, with room for small weights.
_TOP = (2.0**60, 2.0**500)
_GROUP = 64


@helper(sums=True)
def _block_sum(x: int, n: int, like: Any) -> float:
    widest()
    row = view(x, n, like)
    total = pick(like, 0.0, 0.0)
    for v in range(n):
        total += row[v]
    return total


@helper
def row_sum(x: int, n: int, like: Any) -> float:
    """Return the sum of n elements, block sums in float64."""
    total = 0.0
    for b in range(0, n, BLOCK):
        total += _block_sum(x + b * like.itemsize, min(BLOCK, n - b), like)
    return total


@helper
def row_max(x: int, n: int, like: Any) -> Any:
    """Return the largest of n elements; with NaN among them, it or NaN."""
    row = view(x, n, like)
    best = order_key(row[0])
    for v in range(n):
        key = order_key(row[v])
        if key > best:
            best = key
    return from_key(best)


@helper(sums=True)
def _sum_exp(x: int, e: int, n: int, low: Any, high: Any, bits: Any, like: Any) -> float:
    """Write exp(x) 2^-k to e and return the sum; vector accumulators of the compute dtype."""
    widest()
    row, terms = view(x, n, like), view(e, n, like)
    total = pick(like, 0.0, 0.0)
    for v in range(n):
        term = exp_from(row[v], low, high, bits)
        terms[v] = term
        total += term
    return total


@helper(sums=True)
def _sum_exp_except(x: int, e: int, n: int, skip: int, low: Any, high: Any, bits: Any, like: Any) -> float:
    """Do the same with element `skip` written, and counted, as 0."""
    row, terms = view(x, n, like), view(e, n, like)
    total = zero = pick(like, 0.0, 0.0)
    for v in range(n):
        term = zero if v == skip else exp_from(row[v], low, high, bits)
        terms[v] = term
        total += term
    return total


@helper
def _exp_sum(x: int, n: int, t: int, e: int, keep: int, k: Any, like: Any) -> float:
    """Return sum_{v != t} exp(x_v) 2^-k in float64, block by block; the terms go to e.

    With ``keep`` 1 the terms of the whole row are kept; with 0 every block overwrites the one before,
    in the first-level cache.
    """
    low, high, bits = exp_range(k)
    size = like.itemsize
    # The element left out costs a comparison per element: only its own group of 64 pays.
    group = t // _GROUP * _GROUP if t >= 0 else -1
    total = 0.0
    b = 0
    while b < n:
        stop = min(b + BLOCK, n)
        if b < group < stop:
            stop = group
        at = e + keep * b * size
        if b == group:
            stop = min(b + _GROUP, n)
            total += _sum_exp_except(x + b * size, at, stop - b, t - b, low, high, bits, like)
        else:
            total += _sum_exp(x + b * size, at, stop - b, low, high, bits, like)
        b = stop
    return total


@helper
def row_stats(x: int, n: int, t: int, e: int, keep: int, like: Any) -> tuple[float, float, float]:
    """Return the state (base, k, total) of a row without its element t (none where negative).

    Parameters
    ----------
    x : int
        Address of the row.
    n, t : int
    e : int
        Address of n elements (`keep` 1) or `BLOCK` (`keep` 0) for the terms; 0 at t.
    """
    row = view(x, n, like)
    ref = row[max(t, 0)]
    if ref != ref:
        return math.nan, 0.0, math.nan  # the one element that no sum below would meet
    for at in (0, n >> 2, n >> 1, 3 * (n >> 2)):
        if row[at] > ref:
            ref = row[at]
    limit = pick(like, LIMITS[0], LIMITS[1])
    top = pick(1.0, _TOP[0], _TOP[0]) if like.itemsize == 4 else pick(1.0, _TOP[1], _TOP[1])
    for attempt in range(2):
        if attempt == 1:
            ref = row_max(x, n, like)
        if abs(ref) <= limit:
            k = unshifted(round_shifted(ref))
            total = _exp_sum(x, n, t, e, keep, k, like)
            if total < top:
                return 0.0, wide(k), total
    return _careful_stats(x, n, t, e, keep, like)


@helper
def _careful_stats(x: int, n: int, t: int, e: int, keep: int, like: Any) -> tuple[float, float, float]:
    """Return the state of a row with NaN, infinity or numbers beyond `LIMITS`."""
    row, terms = view(x, n, like), view(e, n if keep else BLOCK, like)
    top = row[0]
    for v in range(n):
        if row[v] != row[v]:
            return math.nan, 0.0, math.nan
        top = max(top, row[v])
    if math.isinf(top):
        return wide(top), 0.0, math.nan
    low, high, bits = exp_range(pick(like, 0.0, 0.0))
    total = 0.0
    for v in range(n):
        term = pick(like, 0.0, 0.0) if v == t else exp_from(row[v] - top, low, high, bits)
        if keep:
            terms[v] = term
        total += term
    return wide(top), 0.0, total


@helper
def exp64(x: float) -> float:
    """Return exp(x) in float64; 0 below -709."""
    low, high, bits = exp_range(0.0)
    return exp_from(x, low, high, bits)


@helper(inline=True)
def target_state(x_t: float, base: float, k: float) -> tuple[float, float]:
    """Return x_t and exp(x_t) relative to a row's state."""
    r_t = fma(-k, LN2_LOW, fma(-k, LN2, x_t - base))
    return r_t, exp64(r_t)


@helper(inline=True)
def nll(others: float, r_t: float, e_t: float) -> float:
    """Return logsumexp(x) - x_t from the sum of the other terms and the target's own.

    log1p(others / e_t) keeps the relative accuracy of rows that are nearly certain.
    """
    if others < e_t:
        return log1p_unit(others / e_t)
    return log_positive(others + e_t) - r_t


@helper(inline=True)
def lse_pair(base: float, k: float, total: float) -> tuple[float, float]:
    """Return a row's logsumexp as the sum of two float64, the second far below the first."""
    if total != total:
        return base, 0.0
    # base or k is 0.
    a = fma(k, LN2, base)
    rest = fma(k, LN2, base - a) + k * LN2_LOW
    b = log_positive(total)
    high = a + b
    back = high - a
    return high, (a - (high - back)) + (b - back) + rest


@helper
def scale_row(e: int, y: int, n: int, scale: Any, like: Any) -> None:
    """Write y = e * scale."""
    terms, row = view(e, n, like), view(y, n, like)
    if e == y:
        for v in range(n):
            row[v] *= scale
    else:
        for v in range(n):
            row[v] = terms[v] * scale


@helper(inline=True)
def _minus(x: Any, high: Any, low: Any) -> Any:
    return (x - high) - low


@helper
def log_row(x: int, y: int, n: int, lse: float, rest: float, like: Any) -> None:
    """Write y = x - (lse + rest): with both parts, as exact as the compute dtype can say it."""
    row, out = view(x, n, like), view(y, n, like)
    high = pick(like, lse, lse)
    low = pick(like, (lse - high) + rest, (lse - high) + rest)
    if x == y:
        # One array: LLVM compares addresses before it takes the vector loop, and these would overlap.
        for v in range(n):
            out[v] = _minus(out[v], high, low)
    else:
        for v in range(n):
            out[v] = _minus(row[v], high, low)


@helper
def fill_row(y: int, n: int, value: float, like: Any) -> None:
    """Write one value to a whole row."""
    row = view(y, n, like)
    number = pick(like, value, value)
    for v in range(n):
        row[v] = number
