"""Large outputs bypass the caches, row by row or joined: the bits of small ones, wherever rows start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import Engine

Array = np.ndarray[Any, Any]
# Output of 32 MB and more is streamed: rows below and above 4 KB, on line boundaries and not, of one block and more.
LEAST = 34 << 20
WIDTHS = (51, 64, 100, 255, 256, 1000, 1024, 1025, 2047, 3000)
CALLS: dict[str, Callable[[Array, Array, Array], Any]] = {
    "softmax": lambda x, _, out: fn.softmax(x, out=out),
    "log_softmax": lambda x, _, out: fn.log_softmax(x, out=out),
    "gradient": lambda x, t, out: fn.cross_entropy_value_and_grad(x, t, out=out, reduction="none")[0],
}


def at(n: int, v: int, dtype: Any, offset: int) -> Array:
    """Return an uninitialised array that starts `offset` bytes behind a cache line, between two guards."""
    size = n * v * np.dtype(dtype).itemsize
    raw = np.full(size + 256, 0xA5, np.uint8)
    start = -raw.ctypes.data % 64 + 64 + offset
    return raw[start : start + size].view(dtype).reshape(n, v)


def guarded(a: Array) -> bool:
    raw = a
    while isinstance(raw.base, np.ndarray):
        raw = raw.base
    start = a.ctypes.data - raw.ctypes.data
    return bool((raw[:start] == 0xA5).all() and (raw[start + a.nbytes :] == 0xA5).all())


def logits(n: int, v: int, dtype: Any) -> tuple[Array, Array]:
    """Return rows of which some take every other way: ignored, infinite, NaN, huge, masked, all but certain."""
    rng = np.random.default_rng(v)
    x = np.resize(rng.standard_normal((min(n, 1000), v)), (n, v)).astype(dtype)
    t = rng.integers(0, v, n)
    for i, value in ((3, np.inf), (50, np.nan), (51, -np.inf), (120, 3e6), (121, -3e6), (200, 95.0), (n - 1, np.nan)):
        x[i, i % v] = value
    x[300], x[301] = -np.inf, -300.0
    x[302] += 100
    t[[7, 8, n - 2]] = -100
    x[7] = np.nan
    x[400, t[400]] = 60
    return x, t


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("v", WIDTHS)
def test_streamed_rows_have_the_bits_of_others(engine: Engine, v: int, dtype: Any) -> None:
    if engine.backend != "native":
        pytest.skip(f"{engine.name}: has one way for all sizes")
    n = -(-LEAST // (v * np.dtype(dtype).itemsize)) + 5
    x, t = logits(n, v, dtype)
    small = np.empty_like(x)
    for name, call in CALLS.items():
        parts = [call(x[i : i + 1024], t[i : i + 1024], small[i : i + 1024]) for i in range(0, n, 1024)]
        for offset in (0, 16, 40):
            out = at(n, v, dtype, offset)
            with fn.using(threads=3):
                losses = call(x, t, out)
            kind = np.int32 if dtype == np.float32 else np.int64
            same = (out.view(kind) == small.view(kind)) | (np.isnan(out) & np.isnan(small))
            assert same.all(), (name, offset, np.argwhere(~same)[:3])
            assert guarded(out), (name, offset)
            if name == "gradient":
                np.testing.assert_array_equal(losses, np.concatenate(parts))


def test_rows_of_three_axes(engine: Engine) -> None:
    """Joined rows over two axes; rows apart are not joined; the class axis first."""
    if engine.backend != "native":
        pytest.skip(f"{engine.name}: has one way for all sizes")
    x, t = logits(36000, 257, np.float32)
    want = np.empty_like(x)
    for i in range(0, 36000, 1000):
        fn.cross_entropy_value_and_grad(x[i : i + 1000], t[i : i + 1000], out=want[i : i + 1000], reduction="sum")
    cube, targets = x.reshape(6, 6000, 257), t.reshape(6, 6000)
    out = np.empty_like(cube)
    fn.cross_entropy_value_and_grad(cube, targets, out=out, reduction="sum")
    np.testing.assert_array_equal(out.reshape(want.shape), want)
    apart = np.full((6, 6001, 259), 7.0, np.float32)
    fn.cross_entropy_value_and_grad(cube, targets, out=apart[:, 1:, 1:-1], reduction="sum")
    np.testing.assert_array_equal(apart[:, 1:, 1:-1].reshape(want.shape), want)
    assert (apart[:, 0] == 7).all()
    assert (apart[:, :, [0, -1]] == 7).all()
