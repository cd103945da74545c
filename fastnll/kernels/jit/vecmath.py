"""exp, log and tanh in plain arithmetic, so that LLVM puts them into vectors.

The exponential is relative to a power of two: exp(x) = 2^n p(r) with n = round(x log2 e) and
r = x - n ln 2, and what comes out is 2^(n - k) p(r) for an integer k. Integers subtract exactly, so the
relative error is that of p wherever k lies, and sums with other k merge by an exact power of two.
"""

from __future__ import annotations

from typing import Any

from fastnll.kernels.jit.arithmetic import (
    as_float,
    as_int,
    bits_of,
    expm1_polynomial,
    fma,
    pick,
    power,
    reduce_by_ln2,
    round_shifted,
    unshifted,
)
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.constants import LN2_F64, LOG8_F64

__all__ = ["exp_range", "log1p_unit", "log_parts", "tanh", "wide"]

LN2, LN2_LOW = LN2_F64
_SQRT_HALF = 0x3FE6A09E667F3BCD
_SHIFT = 6755399441055744.0  # 1.5 * 2^52
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = LOG8_F64[1:]


@helper(inline=True)
def wide(x: Any) -> float:
    """Return a number as float64; Numba's ``float`` leaves a float32 what it is."""
    number: float = pick(1.0, x, x)
    return number


@helper(inline=True)
def exp_range(k: Any) -> Any:
    """Return (low, high, bits) for `exp_from` relative to 2^k, in the type of the float k."""
    ln2 = pick(k, LN2, LN2)
    return (k - pick(k, 127.0, 1023.0)) * ln2, (k + pick(k, 128.0, 1024.0)) * ln2, bits_of(k)


@helper(inline=True)
def tanh(x: Any) -> Any:
    """Return tanh(x) = -m / (2 + m) with m = exp(-2 |x|) - 1, to a few ulp for any x."""
    zero, one, low = pick(x, 0.0, 0.0), pick(x, 1.0, 1.0), pick(x, -40.0, -40.0)
    y = pick(x, -2.0, -2.0) * (-x if x < zero else x)
    y = low if y < low else y
    t = round_shifted(y)
    r = reduce_by_ln2(unshifted(t), y)
    p = power(t, bits_of(zero))
    # exp(y) - 1 = 2^n (exp(r) - 1) + (2^n - 1): the second part is exactly 0 where the first is small.
    m = fma(p, r * expm1_polynomial(r), p - one)
    result = -m / (one + one + m)
    return -result if x < zero else result


@helper(inline=True)
def _log_near_one(u: float) -> float:
    # log(1 + u) = 2s + s z Q(z) with s = u / (2 + u), z = s^2, and 2s = u - u^2/2 + s u^2/2: written so, the
    # large term u is exact, and the rounding of the rest is small beside it.
    s = u / (2.0 + u)
    z = s * s
    q = fma(fma(fma(_C7, z, _C6), z, _C5), z, _C4)
    q = z * fma(fma(fma(q, z, _C3), z, _C2), z, _C1)
    half = 0.5 * u * u
    result: float = u - (half - s * (half + q))
    return result


@helper(inline=True)
def log_parts(x: float) -> tuple[float, float]:
    """Return (n, l) with log(x) = n ln 2 + l and |l| <= ln(2) / 2, x a positive normal float64.

    For whoever has other multiples of ln 2 to add: n + k is exact, and l is small. NaN gives a NaN.
    """
    bits = as_int(x)
    n = (bits - _SQRT_HALF) >> 52
    exponent = as_float(n + as_int(_SHIFT)) - _SHIFT
    m = as_float(bits - (n << 52))
    return exponent, _log_near_one(m - 1.0) + (x - x)


@helper(inline=True)
def log1p_unit(q: float) -> float:
    """Return log(1 + q) for 0 <= q <= 1 in float64, with its relative accuracy; NaN for NaN."""
    # From sqrt(2) - 1 on: 1 + q = 2 (1 + (q - 1) / 2), exactly.
    big = q > 0.41421356237309503
    u = (q - 1.0) * 0.5 if big else q
    return _log_near_one(u) + (LN2 if big else 0.0)
