"""Fit the polynomials of the exponential, the logarithm and tanh that the kernel backends use, and measure them.

``python benchmarks/fit_elementary.py`` (needs mpmath; some ten seconds) prints the constants as C and Python
source, with the errors measured. Nothing is read at run time.

The method. exp(x) = 2^n exp(r), with n = round(x log2 e), r = x - n ln 2 and |r| <= ln(2)/2. On that
interval p(r) minimises the largest |p(r) - e^r| / e^r (Remez exchange in 50 digits). A polynomial rounded
coefficient by coefficient loses up to half an ulp; so the coefficients are rounded one at a time from the
constant term up, each time fitting the remaining ones again to what is left.

log(m) = 2 atanh(s), s = (m - 1) / (m + 1), for m in [sqrt(1/2), sqrt(2)): s P(s^2), the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import mpmath as mp
import numpy as np
import numpy.typing as npt

Real = Any  # mpmath has no type stubs: an mpf
Floats = npt.NDArray[Any]

HALF_LN2 = "0.3466"  # just above ln(2)/2: n is rounded in floating point and may be off by a hair


def remez(f: Callable[[Real], Real], weight: Callable[[Real], Real], terms: int, lo: Real, hi: Real) -> list[Real]:
    """Return the coefficients of the polynomial minimising max weight * |p - f| over [lo, hi].

    Parameters
    ----------
    f, weight : callable
        The weight may vanish at 0; no point is put there.
    terms : int
        Number of coefficients.
    lo, hi : mpf

    Returns
    -------
    list of mpf
        The constant term first.
    """
    points = [lo + (hi - lo) * (1 - mp.cos(mp.pi * (k + mp.mpf(1) / 3) / (terms + 0.5))) / 2 for k in range(terms + 1)]
    coefficients: list[Real] = []
    for _ in range(30):
        matrix, rhs = mp.matrix(terms + 1, terms + 1), mp.matrix(terms + 1, 1)
        for i, x in enumerate(points):
            for j in range(terms):
                matrix[i, j] = x**j
            matrix[i, terms] = (-1) ** i / weight(x)
            rhs[i] = f(x)
        solution = mp.lu_solve(matrix, rhs)
        coefficients, level = [solution[j] for j in range(terms)], abs(solution[terms])

        def error(x: Real, c: Sequence[Real] = coefficients) -> Real:
            return weight(x) * (mp.polyval(list(reversed(c)), x) - f(x))

        points, peak = _extrema(error, points, lo, hi)
        if peak <= level * mp.mpf("1.0001"):
            break
    return coefficients


def _extrema(error: Callable[[Real], Real], points: list[Real], lo: Real, hi: Real) -> tuple[list[Real], Real]:
    """Return one extremum of the error between each pair of its sign changes, and the largest."""
    grid = [lo + (hi - lo) * (1 - mp.cos(mp.pi * (k + mp.mpf(1) / 2) / 400)) / 2 for k in range(400)]
    grid = [lo, *grid, hi]
    values = [error(x) for x in grid]
    groups: list[tuple[Real, Real]] = []
    for x, value in zip(grid, values, strict=True):
        if groups and (groups[-1][1] > 0) == (value > 0):
            if abs(value) > abs(groups[-1][1]):
                groups[-1] = (x, value)
        else:
            groups.append((x, value))
    while len(groups) > len(points):
        # Drop the smallest; inside, that joins two neighbours of one sign, of which the larger stays.
        smallest = min(range(len(groups)), key=lambda i: abs(groups[i][1]))
        if smallest in (0, len(groups) - 1) or len(groups) == len(points) + 1:
            groups.pop(0 if abs(groups[0][1]) < abs(groups[-1][1]) else -1)
        else:
            pair = (groups[smallest - 1], groups[smallest + 1])
            groups[smallest - 1 : smallest + 2] = [max(pair, key=lambda g: abs(g[1]))]
    if len(groups) < len(points):
        raise ArithmeticError(f"remez: expected {len(points)} alternations, got {len(groups)}")
    return [x for x, _ in groups], max(abs(value) for _, value in groups)


def rounded_fit(
    f: Callable[[Real], Real],
    weight: Callable[[Real], Real],
    fixed: list[float],
    terms: int,
    interval: tuple[Real, Real],
    dtype: type[np.floating[Any]],
) -> list[float]:
    """Return `terms` coefficients representable in `dtype`; the first ones are given by `fixed`."""
    done = [mp.mpf(c) for c in fixed]
    while len(done) < terms:
        k = len(done)

        def rest(x: Real, k: int = k, known: tuple[Real, ...] = tuple(done)) -> Real:
            return (f(x) - mp.polyval(list(reversed(known)), x)) / x**k

        def rest_weight(x: Real, k: int = k) -> Real:
            return weight(x) * abs(x) ** k

        exact = remez(rest, rest_weight, terms - k, *interval)[0]
        done.append(mp.mpf(float(dtype(mp.nstr(exact, 25)))))
    return [float(c) for c in done]


def two_product(a: Floats, b: Floats | float) -> tuple[Floats, Floats]:
    """Return p, e with p + e = a b exactly in float64 (Dekker 1971)."""

    def split(v: Floats) -> tuple[Floats, Floats]:
        t = v * 134217729.0
        high = t - (t - v)
        return high, v - high

    b = np.asarray(b, np.float64)
    p = a * b
    (ah, al), (bh, bl) = split(a), split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def fma(a: Floats, b: Floats | float, c: Floats | float) -> Floats:
    """Return a * b + c with one rounding (but for ties, which two roundings may break the other way)."""
    if a.dtype == np.float32:
        return (a.astype(np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)).astype(np.float32)
    p, e = two_product(a, b)
    c = np.asarray(c, np.float64)
    s = p + c
    t = s - p
    return s + (((p - (s - t)) + (c - t)) + e)


def horner(coefficients: Sequence[float], r: Floats) -> Floats:
    """Return p(r) with one fma a coefficient."""
    value = np.full_like(r, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = fma(value, r, r.dtype.type(c))
    return value


def reduce_exp(x: Floats, hi: float, lo: float) -> tuple[Floats, Floats]:
    """Return r and n with x = n ln 2 + r, in the arithmetic of the kernels."""
    kind = x.dtype.type
    magic = kind(1.5 * 2.0 ** (23 if x.dtype == np.float32 else 52))
    n = fma(x, kind(1.4426950408889634), magic) - magic
    return fma(n, kind(-lo), fma(n, kind(-hi), x)), n


def exp_errors(coefficients: Sequence[float], hi: float, lo: float, dtype: Any, scale: float) -> tuple[float, float]:
    """Return the worst and the root-mean-square error in ulp of e^x for |x| up to `scale`, 2^n kept apart."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-scale, scale, 1_000_000).astype(dtype)
    r, n = reduce_exp(x, hi, lo)
    got = horner(coefficients, r)
    wide = np.longdouble
    # The reference reduces by ln 2 to 53 + 64 bits with an exact product, so that large n costs it nothing.
    p, e = two_product(n.astype(np.float64), float(mp.log(2)))
    tail = wide(mp.nstr(mp.log(2) - mp.mpf(float(mp.log(2))), 25))
    exact = np.exp((x.astype(wide) - p) - e - n.astype(wide) * tail)
    ulps = np.abs(got.astype(wide) - exact) / np.spacing(np.abs(exact).astype(dtype)).astype(wide)
    return float(ulps.max()), float(np.sqrt((ulps**2).mean()))


def log_errors(coefficients: Sequence[float], dtype: Any) -> tuple[float, float]:
    """Return the worst and the rms relative error, in units of eps / 2, of log(m) near 1, m - 1 given exactly."""
    rng = np.random.default_rng(1)
    u = rng.uniform(-0.2928, 0.4142, 500_000).astype(dtype)
    u = np.concatenate([u, (rng.choice([-1.0, 1.0], 200_000) * 2.0 ** rng.uniform(-60, -2, 200_000)).astype(dtype)])
    s = u / (dtype(2) + u)
    got = s * horner(coefficients, s * s)
    exact = np.log1p(u.astype(np.longdouble))
    error = np.abs((got.astype(np.longdouble) - exact) / exact) / (np.finfo(dtype).eps / 2)
    return float(error.max()), float(np.sqrt((error**2).mean()))


def show(name: str, values: Sequence[float], dtype: Any, note: str) -> None:
    """Print constants as C and as Python source: hexadecimal, so that no digit is lost."""
    suffix = "f" if dtype is np.float32 else ""
    short = [float(v).hex() for v in values]
    print(f"/* {note} */")
    print(f"static const {'float' if suffix else 'double'} {name.upper()}[{len(values)}] = {{")
    print("    " + ", ".join(h + suffix for h in short) + "\n};")
    digits = 9 if suffix else 17
    print(f"# {note}")
    print(f"{name.upper()} = (" + ", ".join(f"{v:.{digits}g}" for v in values) + ",)\n")


def split_ln2(bits: int, dtype: Any, pieces: int) -> list[float]:
    """Return ln 2 as a sum: every piece but the last has `bits` significant bits."""
    left, out = mp.log(2), []
    for _ in range(pieces - 1):
        quantum = mp.mpf(2) ** (mp.floor(mp.log(abs(left), 2)) + 1 - bits)
        piece = mp.nint(left / quantum) * quantum
        out.append(float(piece))
        left -= piece
    return [*out, float(dtype(mp.nstr(left, 25)))]


def show_exponentials() -> None:
    """Fit, measure and print the exponentials."""
    half = mp.mpf(HALF_LN2)
    for dtype, degree, fixed in (
        (np.float32, 4, [1.0]),
        (np.float32, 5, [1.0]),
        (np.float32, 6, [1.0, 1.0]),
        (np.float64, 11, [1.0, 1.0]),
        (np.float64, 12, [1.0, 1.0]),
    ):
        c = rounded_fit(mp.exp, lambda x: mp.exp(-x), fixed, degree + 1, (-half, half), dtype)
        grid = [half * mp.mpf(k) / 2000 for k in range(-2000, 2001)]
        truncation = max(abs(mp.polyval(c[::-1], x) * mp.exp(-x) - 1) for x in grid)
        hi, lo = split_ln2(24 if dtype is np.float32 else 53, dtype, 2)
        notes = [f"exp degree {degree}: coefficients of r^0, r^1, ...; polynomial alone {mp.nstr(truncation, 3)}"]
        for scale in (0.34, 80.0, 2.0**19 if dtype is np.float32 else 2.0**40):
            worst, rms = exp_errors(c, hi, lo, dtype, scale)
            notes.append(f"|x| <= {scale:g}: worst {worst:.3f} ulp, rms {rms:.3f}")
        show(f"exp{degree}_{'f32' if dtype is np.float32 else 'f64'}", c, dtype, "; ".join(notes))


def show_powers() -> None:
    """Fit, print and measure the exponential that takes powers from a table: exp(x) = 2^floor(n) 2^(j/16) e^r."""
    for dtype, terms, bound in ((np.float32, 4, "0.0218"), (np.float64, 7, "0.02167")):
        edge = mp.mpf(bound)
        c = rounded_fit(mp.exp, lambda x: mp.exp(-x), [1.0, 1.0], terms, (-edge, edge), dtype)
        powers = np.array([float(mp.mpf(2) ** (mp.mpf(j) / 16)) for j in range(16)]).astype(dtype)
        hi, lo = split_ln2(24 if dtype is np.float32 else 53, dtype, 2)
        notes = [f"e^r for 16 powers of two: coefficients of r^0, r^1, ...; |r| <= {bound}"]
        for scale in (0.34, 80.0, 2.0**17 if dtype is np.float32 else 2.0**40):
            x = np.random.default_rng(0).uniform(-scale, scale, 1_000_000).astype(dtype)
            magic = dtype(1.5 * 2.0 ** (19 if dtype is np.float32 else 48))
            k = fma(x, dtype(1.4426950408889634), magic) - magic
            r = fma(k, dtype(-lo), fma(k, dtype(-hi), x))
            power = powers[np.rint((k - np.floor(k)) * 16).astype(int)]
            got = fma(power, fma(r * r, horner(c[2:], r), r), power).astype(np.longdouble)
            wide = np.longdouble
            p, e = two_product(np.floor(k).astype(np.float64), float(mp.log(2)))
            tail = wide(mp.nstr(mp.log(2) - mp.mpf(float(mp.log(2))), 25))
            exact = np.exp((x.astype(wide) - p) - e - np.floor(k).astype(wide) * tail)
            ulps = np.abs(got - exact) / np.spacing(np.abs(exact).astype(dtype)).astype(wide)
            notes.append(f"|x| <= {scale:g}: worst {ulps.max():.3f} ulp, rms {np.sqrt((ulps**2).mean()):.3f}")
        name = "f32" if dtype is np.float32 else "f64"
        show(f"powers_{name}", list(powers), dtype, "2^(j/16)")
        show(f"exp_of_powers_{name}", c, dtype, "; ".join(notes))


def show_ln2() -> None:
    """Print ln 2 in pieces, with and without fma."""
    for dtype, bits in ((np.float32, 24), (np.float64, 53)):
        name = "f32" if dtype is np.float32 else "f64"
        show(f"ln2_{name}", split_ln2(bits, dtype, 2), dtype, "ln 2, for fma: hi has every bit, so x - n hi is exact")
    # Without fma, n * hi must be exact: 13 bits of n leave float32 eleven.
    note = "ln 2 without fma: n hi"
    show("ln2_nofma_f32", split_ln2(11, np.float32, 3), np.float32, f"{note}, n mid exact for |n| < 2^13")
    show("ln2_nofma_f64", split_ln2(33, np.float64, 2), np.float64, f"{note} exact for |n| < 2^20")


def show_logarithms() -> None:
    """Fit, measure and print the logarithms."""
    top = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.001")

    def atanh_series(z: Real) -> Real:
        s = mp.sqrt(z)
        return 2 * mp.atanh(s) / s

    interval = (mp.mpf("1e-9"), top)
    for dtype, terms in ((np.float32, 4), (np.float64, 8), (np.float64, 9)):
        c = rounded_fit(atanh_series, lambda z: 1 / atanh_series(z), [2.0], terms, interval, dtype)
        grid = [top * mp.mpf(k) / 2000 for k in range(1, 2001)]
        truncation = max(abs(mp.polyval(c[::-1], z) / atanh_series(z) - 1) for z in grid)
        worst, rms = log_errors(c, dtype)
        note = (
            f"log(m) = s P(s^2), s = (m-1)/(m+1): coefficients of z^0, z^1, ...; polynomial alone "
            f"{mp.nstr(truncation, 3)}; relative, in eps/2: worst {worst:.3f}, rms {rms:.3f}"
        )
        show(f"log{terms}_{'f32' if dtype is np.float32 else 'f64'}", c, dtype, note)


def show_tanh() -> None:
    """Fit and print the polynomial of tanh(u) / u = 1 + u^2 P(u^2) for |u| up to 5/8, float32."""

    def tail(z: Real) -> Real:
        return (mp.tanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z if z > mp.mpf("1e-20") else mp.mpf(-1) / 3

    def weight(z: Real) -> Real:
        return z * mp.sqrt(z) / mp.tanh(mp.sqrt(z))

    values = rounded_fit(tail, weight, [], 5, (mp.mpf("1e-12"), mp.mpf("0.625") ** 2), np.float32)
    u = np.linspace(1e-4, 0.625, 400001).astype(np.float32)
    exact = np.tanh(u.astype(np.float64))
    error = np.abs(fma(u * (u * u), horner(values, u * u), u) - exact) / np.spacing(exact.astype(np.float32))
    show("tanh", values, np.float32, f"tanh(u) = u + u^3 P(u^2): worst {error.max():.2f} ulp")


def main() -> int:
    """Print every table."""
    mp.mp.dps = 50
    show_exponentials()
    show_powers()
    show_ln2()
    show_logarithms()
    show_tanh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
