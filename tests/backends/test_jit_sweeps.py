"""The loops in explicit vectors: every length, every place left out, every address, and what no vector may touch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from fastnll.kernels import jit
from fastnll.kernels.jit import compiler, records, sweeps
from fastnll.kernels.spec import CrossEntropyTask, SoftmaxTask

Array = np.ndarray[Any, Any]
GUARD = 777.0


@numba.njit(error_model="numpy")
def _sums(x: int, e: int, n: int, skip: int, zero: Any, k: Any) -> Any:
    return (
        sweeps.exp_block(x, e, n, -1, zero)[0],
        sweeps.exp_block_except(x, e, n, skip, zero),
        sweeps.kept_block(x, e, n, -1, zero),
        sweeps.kept_block_except(x, e, n, skip, zero),
        sweeps.shifted_block(x, e, n, skip, k),
    )


@numba.njit(error_model="numpy")
def _written(x: int, y: int, n: int, first: Any, second: Any, which: int) -> None:
    if which == 0:
        sweeps.scale(x, y, n, first, second)
    elif which == 1:
        sweeps.scale_past_caches(x, y, n, first, second)
    elif which == 2:
        sweeps.subtract(x, y, n, first, second)
    else:
        sweeps.subtract_past_caches(x, y, n, first, second)
    sweeps.stores_done()


def guarded(n: int, offset: int, dtype: Any) -> tuple[Array, Array]:
    """Return n elements that begin `offset` elements after a cache line, and all of the memory around them."""
    memory = np.full(n + 96, GUARD, dtype)
    start = (-memory.ctypes.data % 64) // memory.itemsize + 16 + offset
    return memory[start : start + n], memory


def untouched(memory: Array, part: Array) -> bool:
    start = (part.ctypes.data - memory.ctypes.data) // memory.itemsize
    return bool((memory[:start] == GUARD).all() and (memory[start + part.size :] == GUARD).all())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_of_every_length(dtype: Any) -> None:
    unit = float(np.finfo(dtype).eps)
    rng = np.random.default_rng(0)
    zero, k = dtype(0), dtype(7)
    for n in [*range(1, 150), 2048]:
        for skip in (-1, 0, n // 2, n - 1, n):
            x, around = guarded(n, n % 7, dtype)
            e, memory = guarded(n, n % 5, dtype)
            x[...] = 3 * rng.standard_normal(n)
            terms = np.exp(x.astype(np.longdouble))
            rest = terms.copy()
            rest[skip : skip + 1] = 0 if skip >= 0 else rest[skip : skip + 1]
            every, without, kept, kept_without, shifted = _sums(x.ctypes.data, e.ctypes.data, n, skip, zero, k)
            bound = (2 + n / 64) * unit
            assert every == kept == pytest.approx(float(terms.sum()), rel=bound)
            assert without == kept_without == pytest.approx(float(rest.sum()), rel=bound)
            assert shifted == pytest.approx(float(rest.sum()) / 128, rel=bound)
            np.testing.assert_allclose(e, (rest / 128).astype(dtype), rtol=1.2 * unit, atol=0)
            assert untouched(memory, e)
            assert untouched(around, x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_of_what_is_no_ordinary_number(dtype: Any) -> None:
    x = np.full(70, -np.inf, dtype)
    e = np.empty_like(x)
    sums = _sums(x.ctypes.data, e.ctypes.data, 70, 3, dtype(0), dtype(-5))
    assert sums == (0, 0, 0, 0, 0)
    np.testing.assert_array_equal(e, 0)
    for value, place in ((np.nan, 2), (np.nan, 69), (np.inf, 2), (np.inf, 69)):
        x[...] = 0
        x[place] = value
        sums = _sums(x.ctypes.data, e.ctypes.data, 70, 3, dtype(0), dtype(0))
        assert not any(np.isfinite(sums)), "such a row is not summed as if it were ordinary"
        without = _sums(x.ctypes.data, e.ctypes.data, 70, place, dtype(0), dtype(0))
        assert without[1] == without[3] == without[4] == 69
    x[...] = 0
    x[:2] = -1e30, -(2.0**60)
    assert _sums(x.ctypes.data, e.ctypes.data, 70, 3, dtype(0), dtype(0))[0] == 68


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("which", range(4), ids=["scale", "scale past caches", "subtract", "subtract past caches"])
def test_what_is_written(which: int, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    first, second = dtype(1.7), dtype(1e-9)
    for n in [*range(1, 150), 1000]:
        for offset in (0, 1, 5, 15):
            x, _ = guarded(n, n % 3, dtype)
            y, memory = guarded(n, offset, dtype)
            x[...] = 2 * rng.standard_normal(n)
            x[n // 2] = np.nan
            want = x * first if which < 2 else np.minimum((x - first) - second, dtype(0))
            _written(x.ctypes.data, y.ctypes.data, n, first, second, which)
            np.testing.assert_array_equal(y, want)
            assert untouched(memory, y)
            if which % 2 == 0:
                _written(x.ctypes.data, x.ctypes.data, n, first, second, which)
                np.testing.assert_array_equal(x, want, "in place")


@pytest.mark.parametrize("v", [100, 300, 4096, 5000, 9000])
def test_results_past_the_caches_are_those_in_them(v: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 67, v)).astype(np.float32)
    x[0, 5, 7], x[0, 6] = np.nan, -np.inf
    t = rng.integers(0, v, (1, 67))
    weight = np.ones(67)
    weight[::5] = 0

    def everything() -> list[Array]:
        results = []
        for log in (False, True):
            y = np.empty(x.size + 3, np.float32)[3:].reshape(x.shape)
            jit.softmax(SoftmaxTask(x, y, log=log, threads=2))
            results.append(y)
        grad = np.empty(x.size + 3, np.float32)[3:].reshape(x.shape)
        jit.cross_entropy(CrossEntropyTask(x, t, grad=grad, row_weight=weight, threads=2))
        apart = np.empty((1, 67, v + 9), np.float32)[..., :v]
        jit.softmax(SoftmaxTask(x, apart))
        return [*results, grad, apart]

    plain = everything()
    monkeypatch.setattr(records, "_BYPASS_BYTES", 0)
    for got, want in zip(everything(), plain, strict=True):
        np.testing.assert_array_equal(got, want)


OTHER_CPU = """
import numpy as np
from fastnll.kernels import jit, reference
from fastnll.kernels.jit import compiler, records
from fastnll.kernels.spec import CrossEntropyTask
records._BYPASS_BYTES = {bypass}
rng = np.random.default_rng(0)
for dtype, unit in ((np.float32, 1e-6), (np.float64, 1e-14)):
    for v in (70, 300, 5001):
        x = 3 * rng.standard_normal((1, 70, v)).astype(dtype)
        x[0, 3] -= 300
        t = rng.integers(0, v, (1, 70))
        got, want = ((np.empty(70), np.empty_like(x)) for _ in range(2))
        for backend, (loss, grad) in ((jit, got), (reference, want)):
            backend.cross_entropy(CrossEntropyTask(x, t, loss=loss, grad=grad))
        np.testing.assert_allclose(got[0], want[0], rtol=unit)
        np.testing.assert_allclose(got[1], want[1], rtol=40 * unit, atol=unit)
print(compiler.VECTOR_BYTES, compiler.HAS_FMA, compiler.HAS_AVX512)
"""


@pytest.mark.skipif(not compiler.IS_X86, reason="names processors of the x86 family")
@pytest.mark.parametrize(
    ("cpu", "features", "found"),
    [("haswell", "+avx,+avx2,+fma", "32 True False"), ("nehalem", "+sse4.2", "16 False False")],
)
def test_other_processors(cpu: str, features: str, found: str, tmp_path: Path) -> None:
    names = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OTHER_CPU.format(bypass=0)],
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == found
