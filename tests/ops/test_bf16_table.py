"""The table with the processor's instructions for bfloat16 gives the bits of the one without."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastnll as fn
from fastnll.kernels import registry

pytestmark = pytest.mark.skipif(
    not {"avx512", "avx512_bf16"} <= set(registry.available_isas()), reason="this machine has no AVX-512 for bfloat16"
)
Array = np.ndarray[Any, Any]


def results(x: Array, t: Array) -> dict[str, Any]:
    """Return what every function makes of the logits, in place too."""
    n = t.size
    gradient = {"reduction": "none", "grad_output": np.linspace(-2, 2, n)}
    inplace = x.copy()
    fn.cross_entropy_value_and_grad(inplace, t, out=inplace, **gradient)
    y = fn.softmax(x)
    return {
        "lse": fn.logsumexp(x),
        "softmax": y,
        "log_softmax": fn.log_softmax(x),
        "softmax of another axis": fn.softmax(np.ascontiguousarray(x.T), axis=0),
        "loss": fn.cross_entropy_value_and_grad(x, t, **gradient)[0],
        "grad": fn.cross_entropy_value_and_grad(x, t, **gradient)[1],
        "in place": inplace,
        "options": fn.cross_entropy_value_and_grad(x, t, label_smoothing=0.1, z_loss=1e-3, softcap=20.0)[1],
        "dense": fn.cross_entropy_value_and_grad(x, np.nan_to_num(y.astype(np.float32)))[1],
        "details": fn.cross_entropy_details(x, t).entropy,
    }


@pytest.mark.parametrize(("n", "v"), [(70, 7), (40, 100), (33, 256), (9, 1999), (17, 5000), (2, 40_000), (1, 150_001)])
def test_rows_have_the_same_bits(n: int, v: int) -> None:
    rng = np.random.default_rng(v)
    x = (3 * rng.standard_normal((n, v))).astype(ml_dtypes.bfloat16)
    x[0, :2] = -np.inf, 80
    x[n // 2, v // 2] = np.inf if n > 5 else 1
    x[n // 3, 0] = np.nan if n > 5 else 1
    x[-1, 1::2] = 1e-39  # subnormal
    t = rng.integers(0, v, n)
    t[0] = -100 if n > 1 else 0
    with fn.using(isa="avx512"):
        want = results(x, t)
    with fn.using(isa="avx512_bf16"):
        got = results(x, t)
    for name in want:
        a, b = np.asarray(want[name]), np.asarray(got[name])
        assert a.dtype == b.dtype
        same = (a.view(f"u{a.itemsize}") == b.view(f"u{a.itemsize}")) | (np.isnan(a) & np.isnan(b))
        assert same.all(), (name, np.argwhere(~same)[:3])


def test_parameters_keep_subnormal_numbers() -> None:
    param = np.full(100, 2e-39, ml_dtypes.bfloat16)
    with fn.using(isa="avx512_bf16"):
        fn.sgd_update(param, np.zeros_like(param), lr=0.1)
    assert (param.astype(np.float32) == np.float32(ml_dtypes.bfloat16(2e-39))).all()
    assert param[0] != 0
