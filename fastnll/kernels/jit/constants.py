"""Numbers of the Numba kernels: polynomials fitted by ``benchmarks/fit_elementary.py``, sizes, storage codes."""

from __future__ import annotations

from typing import Final

__all__ = [
    "AHEAD",
    "BLOCK",
    "EXP6_F32",
    "EXP11_F64",
    "FINISH_WORDS",
    "GROUP_BYTES",
    "LANES",
    "LANE_WORDS",
    "LN2_F32",
    "LN2_F64",
    "LN2_SPLIT_F32",
    "LN2_SPLIT_F64",
    "LOG2_E",
    "LOG8_F64",
    "NEAR",
    "POWERS_F32",
    "POWERS_F64",
    "SEGMENT",
    "SMALL_V",
    "STEP",
    "TILE",
]

# exp(r), |r| <= ln(2)/2: 0.87 ulp worst in float32, 0.86 ulp in float64.
EXP6_F32: Final = (1.0, 1.0, 0.49999994, 0.166665211, 0.0416682549, 0.00836866163, 0.00138214533)
EXP11_F64: Final = (
    1.0,
    1.0,
    0.50000000000000111,
    0.16666666666666463,
    0.041666666666528566,
    0.0083333333334706626,
    0.0013888888943773272,
    0.00019841269546529676,
    2.4801493095462626e-05,
    2.755755767704352e-06,
    2.7630220784701751e-07,
    2.5007561474064171e-08,
)

# exp(r) = 1 + r + r^2 P(r), |r| <= ln(2)/32, beside 2^(j/16): 0.99 ulp worst in float32, 1.11 ulp in float64.
POWERS_F32: Final = (0.500016391, 0.166668504)
POWERS_F64: Final = (
    0.499999999999996,
    0.16666666664414226,
    0.041666666693428785,
    0.008333472036765162,
    0.0013888592346683567,
)

# log(m) = s P(s^2) with s = (m - 1) / (m + 1), sqrt(1/2) <= m < sqrt(2).
LOG8_F64: Final = (
    2.0,
    0.66666666666667351,
    0.39999999999409119,
    0.28571428743787008,
    0.22222198413934752,
    0.1818357336939885,
    0.1531380057129699,
    0.1479862838946738,
)

# ln 2 in pieces: with fma the first has all bits; without, its product with n must be exact.
LN2_F32: Final = (0.693147182, -1.90465421e-09)
LN2_F64: Final = (0.69314718055994529, 2.3190468138462996e-17)
LN2_SPLIT_F32: Final = (0.693359375, -0.000212192535, -1.90465421e-09)
LN2_SPLIT_F64: Final = (0.69314718060195446, -4.2009150726810846e-11)
LOG2_E: Final = 1.4426950408889634

# Elements handled in one go where a row is walked in blocks: 8 KB of float32, in the first-level cache.
BLOCK: Final = 2048
# Bytes of logits summed in one go in the compute dtype, such sums being added up in float64.
STEP: Final = 1024
# How far ahead memory is asked for: as far as the second-level cache, and all the way.
AHEAD: Final = 12288
NEAR: Final = 2048
# Rows handled side by side where V is small or the class axis is not last; a row block.
LANES: Final = 64
# Classes of such a tile held at a time: 64 KB of float32.
SEGMENT: Final = 256
# Scratch of the tables in `finish`, in float32: ten numbers a row, and eight of 8 bytes.
FINISH_WORDS: Final = (10 + 2 * 8) * LANES
# Scratch of a tile: those, itself, and a row of it.
LANE_WORDS: Final = FINISH_WORDS + SEGMENT * LANES + SEGMENT
# Bytes of terms of the rows that are finished together: about what the first-level cache has.
GROUP_BYTES: Final = 1 << 15
# Up to here rows go side by side: a row's own overhead is about that of 64 elements.
SMALL_V: Final = 64
# Rows fetched together where the classes of a row lie further apart than neighbouring rows: a cache line.
TILE: Final = 16
