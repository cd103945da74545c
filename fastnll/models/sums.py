"""Sums whose bits do not depend on who adds, or how much at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["divergence", "fsum", "ordered_sum"]

# Terms that NumPy adds before math.fsum sees them: few enough to lose nothing, many enough to be fast.
_TERMS = 256


def fsum(terms: Iterable[float]) -> float:
    """Return the exactly rounded sum of some losses; infinite where it is beyond the largest float64.

    Examples
    --------
    >>> fsum([1e16, 1.0, 1.0, -1e16])
    2.0
    >>> fsum([1e308, 1e308])
    inf
    """
    values = list(terms)
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        # fsum refuses sums beyond float64, and inf - inf; float arithmetic says inf and nan.
        return sum(values)


def ordered_sum(terms: npt.NDArray[Any]) -> float:
    """Return the sum of float64 terms: runs of 256 by NumPy, the runs by `fsum`, always the same runs.

    Examples
    --------
    >>> ordered_sum(np.full(1000, 0.25))
    250.0
    """
    if not terms.size:
        return 0.0
    with np.errstate(over="ignore"):
        runs = np.add.reduceat(terms, np.arange(0, terms.size, _TERMS))
    return fsum(runs.tolist())


def divergence(delta: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (1 + d) log(1 + d) - d for every d of at least -1, to full relative accuracy: float64, never below 0.

    With p the one and q the other distribution, ``q * divergence(p / q - 1)`` are terms of sum p log(p / q) that are
    at least 0 each: nothing cancels, and a divergence of 1e-20 has its digits.

    Examples
    --------
    >>> divergence(np.array([-1.0, 0.0, 1e-20])).tolist()
    [1.0, 0.0, 5e-41]
    """
    d = np.asarray(delta, np.float64)
    # Around 0 the difference cancels; there d^k / (k (k - 1)), signs in turn, 13 terms leave 1e-17 at 0.05.
    near = np.abs(d) < 0.05
    small = np.where(near, d, 0.0)
    series = np.zeros_like(small)
    for k in range(14, 1, -1):
        series = (-1.0) ** k / (k * (k - 1)) + small * series
    with np.errstate(divide="ignore", invalid="ignore"):
        direct = np.where(d > -1.0, (1.0 + d) * np.log1p(d) - d, 1.0)
    result: npt.NDArray[Any] = np.where(near, np.square(small) * series, direct)
    return result
