"""Fit the polynomials of exp that the machine probes use, and print them with their error (needs mpmath).

``python benchmarks/fit_exp.py`` prints, for float32 and float64, the coefficients of the polynomial of the given degree
whose largest relative error on [-ln2/2, ln2/2] is smallest (Remez exchange, 50 digits), rounded to the format, and that
error before the rounding.
"""

from __future__ import annotations

import numpy as np


def remez(degree: int, dtype: type[np.floating]) -> tuple[list[str], str]:
    """Coefficients from degree 0 up as hexadecimal floats, and the largest relative error."""
    import mpmath as mp

    mp.mp.dps = 50
    half, count = mp.log(2) / 2, degree + 2
    points = [-half * mp.cos(mp.pi * (i + mp.mpf(1) / 2) / count) for i in range(count)]
    grid = [-half + 2 * half * mp.mpf(i) / 2000 for i in range(2001)]
    coefficients: list[mp.mpf] = []
    errors: list[mp.mpf] = []
    for _ in range(20):
        # sum_k c_k x^k exp(-x) +- E = 1 at every point: the error in relative terms, of alternating sign
        system = mp.matrix(count, count)
        for i, x in enumerate(points):
            for k in range(degree + 1):
                system[i, k] = x**k * mp.exp(-x)
            system[i, degree + 1] = (-1) ** i
        solved = mp.lu_solve(system, mp.matrix([1] * count))
        coefficients = [solved[k] for k in range(degree + 1)]
        errors = [mp.polyval(coefficients[::-1], x) * mp.exp(-x) - 1 for x in grid]
        inner = [i for i in range(1, 2000) if (errors[i] - errors[i - 1]) * (errors[i + 1] - errors[i]) <= 0]
        moved = [grid[i] for i in (0, *inner, 2000)]
        if len(moved) != count or max(abs(a - b) for a, b in zip(moved, points, strict=True)) < mp.mpf(10) ** -8:
            break
        points = moved
    rounded = [float(dtype(mp.nstr(c, 30))).hex() for c in coefficients]
    return rounded, mp.nstr(max(map(abs, errors)), 3)


if __name__ == "__main__":
    for degree, dtype in ((5, np.float32), (10, np.float64)):
        coefficients, error = remez(degree, dtype)
        print(f"{dtype.__name__}, degree {degree}, largest relative error {error}")
        print("\n".join(f"  C{k} {c}" for k, c in enumerate(coefficients)))
