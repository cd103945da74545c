"""log-probabilities near 0 keep their relative accuracy in every loop, and neighbours of odd rows are left alone."""

from __future__ import annotations

import numpy as np
import pytest

import fastnll as fn
from fastnll.kernels import registry

KERNELS = [*registry.available_isas(), "numba"]


def _kernels(name: str) -> dict[str, str]:
    return {"backend": name} if name == "numba" else {"isa": name}


def _exact(x: np.ndarray) -> np.ndarray:
    """log p with the largest class' own term left out of the sum."""
    a = x.astype(np.longdouble)
    a = a - a.max(axis=1, keepdims=True)
    others = np.exp(a)
    others[np.arange(len(a)), a.argmax(axis=1)] = 0
    return a - np.log1p(others.sum(axis=1))[:, None]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "v"), [(40, 2), (40, 10), (40, 48), (40, 49), (40, 1000), (20, 5000), (3, 40000)])
def test_log_softmax_of_a_sure_class(kernels: str, dtype: type, n: int, v: int) -> None:
    x = np.random.default_rng(v).standard_normal((n, v)).astype(dtype)
    x[0, v // 2] += 20
    x[1, 0] += 34
    x[2, v - 1] += 12
    want = _exact(x)
    assert -1e-9 < want[1, 0] < 0 and want[2].max() < -1e-7
    with fn.using(**_kernels(kernels)):
        got = {
            "rows": fn.log_softmax(x),
            "in place": (lambda y: fn.log_softmax(y, out=y))(x.copy()),
            "columns": fn.log_softmax(np.ascontiguousarray(x.T), axis=0).T,
            "any strides": fn.log_softmax(np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2]),
        }
    for name, logs in got.items():
        error = np.abs(logs - want) / np.maximum(np.abs(want), np.finfo(dtype).tiny)
        assert error.max() < 16 * np.finfo(dtype).eps, name


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_odd_rows_do_not_touch_their_neighbours_in_columns(kernels: str, dtype: type) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 37, 50)).astype(dtype)
    x[0, 3, 7] = np.inf
    x[1, :, 20] *= 1e13  # beyond what the plain arithmetic takes
    x[1, 5, 30] = np.nan
    t = rng.integers(0, 37, (2, 50))
    rows = np.ascontiguousarray(np.moveaxis(x, 1, 2))
    with fn.using(**_kernels(kernels)):
        for mine, plain in (
            (fn.log_softmax(x, axis=1), fn.log_softmax(rows)),
            (fn.softmax(x, axis=1), fn.softmax(rows)),
            (
                fn.cross_entropy_value_and_grad(x, t, axis=1, reduction="none")[1],
                fn.cross_entropy_value_and_grad(rows, t, reduction="none")[1],
            ),
        ):
            np.testing.assert_allclose(
                np.moveaxis(mine, 1, 2), plain, rtol=40 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps
            )
