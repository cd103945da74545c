"""Sums whose bits do not depend on who adds, or how much at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["fsum", "ordered_sum"]

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
