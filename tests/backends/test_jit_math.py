"""The elementary functions of the Numba kernels, and their 16-bit formats."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest

from fastnll.kernels.jit import arithmetic, formats, vecmath

Array = np.ndarray[Any, Any]


@numba.njit(error_model="numpy")
def _elementary(x: Array, k: Any, exp: Array, tanh: Array) -> None:
    low, high, bits = vecmath.exp_range(k)
    for i in range(x.size):
        exp[i] = arithmetic.exp_from(x[i], low, high, bits)
        tanh[i] = vecmath.tanh(x[i])


@numba.njit(error_model="numpy")
def _logarithms(x: Array, log: Array, log1p: Array) -> None:
    for i in range(x.size):
        n, rest = vecmath.log_parts(x[i])
        log[i] = n * vecmath.LN2 + rest
        log1p[i] = vecmath.log1p_unit(min(x[i], 1.0))


def ulps(got: Array, want: Array) -> float:
    return float(np.max(np.abs(got - want) / np.spacing(np.abs(want).astype(got.dtype)).astype(np.longdouble)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_and_tanh(dtype: type[np.floating[Any]]) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-60, 60, 100_000), rng.uniform(-1, 1, 50_000) * 1e-3]).astype(dtype)
    exp, tanh = np.empty_like(x), np.empty_like(x)
    for k in (0, 17, -40):
        _elementary(x, dtype(k), exp, tanh)
        wide = x.astype(np.longdouble)
        assert ulps(exp, np.exp(wide) * np.longdouble(2) ** -k) < 1.0
        assert ulps(tanh, np.tanh(wide)) < 3.5
    ends = np.array([-np.inf, -1e30, np.inf, 1e30, np.nan, 0.0], dtype)
    exp, tanh = np.empty_like(ends), np.empty_like(ends)
    _elementary(ends, dtype(0), exp, tanh)
    np.testing.assert_array_equal(exp, [0, 0, np.inf, np.inf, np.nan, 1])
    np.testing.assert_array_equal(tanh, [-1, -1, 1, 1, np.nan, 0])


def test_logarithms() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([np.exp(rng.uniform(-300, 300, 100_000)), 1 + rng.uniform(-0.3, 0.5, 50_000)])
    log, log1p = np.empty_like(x), np.empty_like(x)
    _logarithms(x, log, log1p)
    wide = x.astype(np.longdouble)
    assert ulps(log, np.log(wide)) < 1.5
    assert ulps(log1p, np.log1p(np.minimum(wide, 1))) < 2.0
    _logarithms(np.full(1, np.nan), log[:1], log1p[:1])
    assert np.isnan(log[0])


@numba.njit
def _read(address: int, code: int, row: Array) -> None:
    formats.read_row(address, 2, code, row)


@numba.njit
def _write(row: Array, address: int, code: int) -> None:
    formats.write_row(row, address, 2, code)


@pytest.mark.parametrize(("dtype", "code"), [(ml_dtypes.bfloat16, 2), (np.float16, 3)])
def test_the_16_bit_formats_are_exact(dtype: Any, code: int) -> None:
    words = np.arange(65536, dtype=np.uint16)
    every = words.view(dtype).astype(np.float32)
    row = np.empty(65536, np.float32)
    _read(words.ctypes.data, code, row)
    np.testing.assert_array_equal(row, every)
    np.testing.assert_array_equal(np.signbit(row), np.signbit(every))

    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        halfway = np.concatenate([every * np.float32(1 + 2.0**-p) for p in (8, 9, 11, 12)])
        x = np.concatenate([every, bits, halfway, np.nextafter(halfway, np.float32(0))])
        want = x.astype(dtype)
    out = np.empty(x.size, np.uint16)
    _write(x, out.ctypes.data, code)
    np.testing.assert_array_equal(np.isnan(x), np.isnan(out.view(dtype).astype(np.float32)))
    np.testing.assert_array_equal(out[~np.isnan(x)], want.view(np.uint16)[~np.isnan(x)])
