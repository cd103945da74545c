"""The first row primitive: the state of a row, from one read of it.

Rows are addresses of contiguous elements of the compute dtype, which `like` (any array of it) names.
The state of a row is (base, k, total): sum_v exp(x_v) = total * exp(base) * 2^k, with base 0 unless the
row is so far from 0 that k would not be exact. total is NaN where the row has no distribution (NaN,
+inf, or -inf alone); base is then its logsumexp.

Any k near the row's level will do (see `exponential`), and 0 is near that of nearly all logits: the row is read
once. Where its sum says otherwise it is done again with the true maximum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnll.kernels.jit.arithmetic import exp_from, fma, from_key, order_key, pick, round_shifted, unshifted, widest
from fastnll.kernels.jit.compiler import HAS_FMA, helper
from fastnll.kernels.jit.constants import BLOCK, STEP
from fastnll.kernels.jit.memory import view
from fastnll.kernels.jit.sweeps import exp_block, exp_block_except, kept_block, kept_block_except, shifted_block
from fastnll.kernels.jit.vecmath import LN2, LN2_LOW, exp_range, log1p_unit, log_parts, wide

__all__ = [
    "LIMITS",
    "NOTHING_KEPT",
    "NO_CLASS",
    "exp64",
    "lead_stats",
    "lse_pair",
    "nll",
    "row_max",
    "row_stats",
    "row_sum",
    "target_term",
]

# Largest |x| for which x - n ln 2 is exact to an ulp of the reduced argument, in float32 and float64.
LIMITS = (2.0**19, 2.0**40) if HAS_FMA else (2.0**12, 2.0**19)
# Sums below (relative to 2^0) and above these are done again: terms far below the sum must be numbers, and 1 / sum a
# normal one, with room for small weights. The target's logit, which is in no sum, must be below _MOST.
_LEAST = (2.0**-60, 2.0**-500)
_TOP = (2.0**60, 2.0**500)
_MOST = (40.0, 340.0)
# Arguments that are no literals: each of those would be a compilation of its own.
NO_CLASS: Any = np.int64(-1)
NOTHING_KEPT: Any = np.int64(0)


@helper(sums=True)
def _block_sum(x: int, n: int, like: Any) -> Any:
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
    step = STEP // like.itemsize
    for b in range(0, n, step):
        total += _block_sum(x + b * like.itemsize, min(step, n - b), like)
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


@helper
def _exp_sum(x: int, n: int, t: int, e: int, keep: int, like: Any) -> tuple[float, float]:
    """Return sum_{v != t} exp(x_v) in float64, block by block; with ``keep`` 1 the terms go to e, 0 at t.

    Where nothing is left out or kept, the second number is above half of the sum if one term is.
    """
    size = like.itemsize
    zero = pick(like, 0.0, 0.0)
    total = most = 0.0
    for b in range(0, n, BLOCK):
        m = min(BLOCK, n - b)
        x_at, e_at = x + b * size, e + b * size
        if b <= t < b + m:
            if keep:
                total += kept_block_except(x_at, e_at, m, t - b, zero)
            else:
                total += exp_block_except(x_at, e_at, m, t - b, zero)
        elif keep:
            total += kept_block(x_at, e_at, m, -1, zero)
        else:
            part, largest = exp_block(x_at, e_at, m, -1, zero)
            total += part
            most = max(most, largest)
    return total, most


@helper
def _shifted_sum(x: int, n: int, t: int, e: int, keep: int, k: Any, like: Any) -> float:
    """Return the same sum relative to 2^k; without ``keep`` the terms of a block replace those of the one before."""
    size = like.itemsize
    total = 0.0
    for b in range(0, n, BLOCK):
        total += shifted_block(x + b * size, e + keep * b * size, min(BLOCK, n - b), t - b if t >= b else -1, k)
    return total


@helper
def _stats(x: int, n: int, t: int, e: int, keep: int, like: Any) -> tuple[float, float, float, float]:
    """Return `row_stats`, and a number above half of the total if one term is (t negative, `keep` 0)."""
    row = view(x, n, like)
    single = like.itemsize == 4
    least, most = (_LEAST[0], _MOST[0]) if single else (_LEAST[1], _MOST[1])
    top = _TOP[0] if single else _TOP[1]
    total, largest = _exp_sum(x, n, t, e, keep, like)
    own = row[max(t, 0)]  # after the sum: before, nothing would have fetched it yet
    if least <= total < top and own < most and n > 1:
        return 0.0, 0.0, total, largest
    if own != own:
        return math.nan, 0.0, math.nan, 0.0  # the one element that no sum meets
    ref = row_max(x, n, like)
    if n > 1 and abs(ref) <= pick(like, LIMITS[0], LIMITS[1]):
        k = unshifted(round_shifted(ref))
        total = _shifted_sum(x, n, t, e, keep, k, like)
        if total < top:
            return 0.0, wide(k), total, total
    base, k64, total = _careful_stats(x, n, t, e, keep, like)
    return base, k64, total, total


@helper(inline=True)
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
    base, k, total, _ = _stats(x, n, t, e, keep, like)
    return base, k, total


@helper
def lead_stats(x: int, n: int, e: int, like: Any) -> tuple[float, float, float, int, float]:
    """Return the state of a row, and a class that takes more than half of it with its log-probability, or -1.

    That is -log1p(others / its own): a logsumexp, rounded, cannot give it where it is near 0.
    """
    base, k, total, most = _stats(x, n, NO_CLASS, e, NOTHING_KEPT, like)
    if not most > 0.5 * total:
        return base, k, total, -1, 0.0
    top = row_max(x, n, like)
    if not target_term(wide(top), base, k) > 0.5 * total:
        return base, k, total, -1, 0.0
    row, t = view(x, n, like), 0
    while row[t] != top:
        t += 1
    base, k, others = row_stats(x, n, t, e, NOTHING_KEPT, like)
    e_t = target_term(wide(top), base, k)
    return base, k, others + e_t, t, -nll(others, e_t, wide(top), base, k)


@helper
def _careful_stats(x: int, n: int, t: int, e: int, keep: int, like: Any) -> tuple[float, float, float]:
    """Return the state of a row with NaN, infinity or numbers beyond `LIMITS`, or of one element.

    That one's term must be 1 exactly.
    """
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
    result: float = exp_from(x, low, high, bits)
    return result


@helper(inline=True)
def target_term(x_t: float, base: float, k: float) -> float:
    """Return exp(x_t) relative to a row's state."""
    return exp64(fma(-k, LN2_LOW, fma(-k, LN2, x_t - base)))


@helper(inline=True)
def nll(others: float, e_t: float, x_t: float, base: float, k: float) -> float:
    """Return logsumexp(x) - x_t from a row's state without the target, and the target's own term.

    log1p(others / e_t) keeps the relative accuracy of rows that are nearly certain.
    """
    if others < e_t:
        return log1p_unit(others / e_t)
    n, rest = log_parts(others + e_t)
    power = k + n
    loss: float = rest - fma(-power, LN2_LOW, fma(-power, LN2, x_t - base))
    return loss


@helper(inline=True)
def lse_pair(base: float, k: float, total: float) -> tuple[float, float]:
    """Return a row's logsumexp as the sum of two float64, the second far below the first."""
    if total != total:
        return base, 0.0
    n, b = log_parts(total)
    power = k + n
    # base + power ln 2 is a + rest: base is 0, or k is and n is small.
    a = fma(power, LN2, base)
    rest = fma(power, LN2, base - a) + power * LN2_LOW
    high = a + b
    back = high - a
    return high, (a - (high - back)) + (b - back) + rest
