"""Products on tile registers: any size, chunks of 64 rows and more, numbers that are no sum of parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnll as fn
from fastnll.kernels import registry

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes")
pytestmark = pytest.mark.skipif("amx" not in registry.available_isas(), reason="this machine has no AMX")

Array = np.ndarray[Any, Any]
DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def head(n: int, d: int, v: int, dtype: str, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n, d)).astype(DTYPES[dtype])
    weight = (3 / d**0.5 * rng.standard_normal((v, d))).astype(DTYPES[dtype])
    return hidden, weight, rng.integers(0, v, n), rng.standard_normal(v).astype(np.float32)


def longhand(hidden: Array, weight: Array, targets: Array, bias: Array) -> tuple[float, list[Array]]:
    h, w = hidden.astype(np.float64), weight.astype(np.float64)
    x = h @ w.T + bias
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    live = targets >= 0
    loss = -np.log(p[live, targets[live]]).mean()
    p[live, targets[live]] -= 1
    p[~live] = 0
    p /= live.sum()
    return float(loss), [p @ w, p.T @ h, p.sum(axis=0)]


def close(got: Any, want: Any, eps: float = 3e-6) -> None:
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0, atol=eps * max(np.abs(b).max(), 1e-30))


@settings(max_examples=60)
@given(
    n=st.integers(60, 150),
    d=st.integers(1, 140),
    v=st.integers(1, 500),
    dtype=st.sampled_from(list(DTYPES)),
    seed=st.integers(0, 99),
)
def test_any_size(n: int, d: int, v: int, dtype: str, seed: int) -> None:
    hidden, weight, targets, bias = head(n, d, v, dtype, seed)
    targets[3 : 3 + seed % 20] = -100
    live = int((targets >= 0).sum())
    loss, grads = longhand(hidden, weight, targets, bias)
    with fn.using(isa="amx"):
        found, ours = fn.linear_cross_entropy_value_and_grad(hidden, weight, targets, bias)
        assert fn.linear_cross_entropy(hidden, weight, targets, bias) == pytest.approx(loss, rel=1e-6)
    assert found == pytest.approx(loss, rel=1e-6)
    assert live > 0
    close(ours, grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_as_exact_as_those_of_vectors(dtype: str) -> None:
    """float32 in three parts: the error is that of sums in float32, and no larger than that of the other table."""
    hidden, weight, targets, bias = head(300, 700, 900, dtype)
    _, grads = longhand(hidden, weight, targets, bias)
    worst = {}
    for isa in ("avx512", "amx"):
        with fn.using(isa=isa):
            _, ours = fn.linear_cross_entropy_value_and_grad(hidden, weight, targets, bias, grad_dtype="float32")
        worst[isa] = [
            float(np.sqrt(np.mean(np.square(np.asarray(a, np.float64) - b))))
            for a, b in zip(ours[:2], grads[:2], strict=True)
        ]
    assert worst["amx"][0] <= 1.5 * worst["avx512"][0]
    assert worst["amx"][1] <= 1.5 * worst["avx512"][1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_ranges_lose_nothing(dtype: str) -> None:
    """Features of sizes from 1e-15 to 1e15, whose products are alike: each has to keep its leading 24 bits."""
    hidden, weight, targets, bias = head(80, 64, 300, dtype)
    size = 10.0 ** np.linspace(-15, 15, 64)
    hidden, weight = (hidden.astype(np.float64) * size).astype(hidden.dtype), (weight / size).astype(weight.dtype)
    loss, grads = longhand(hidden, weight, targets, bias)
    with fn.using(isa="amx"):
        found, ours = fn.linear_cross_entropy_value_and_grad(hidden, weight, targets, bias, grad_dtype="float32")
    assert found == pytest.approx(loss, rel=1e-6)
    for a, b in zip(ours[:2], grads[:2], strict=True):
        np.testing.assert_allclose(a / np.abs(b).max(axis=0), b / np.abs(b).max(axis=0), rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 3.3e38, -2e38])
@pytest.mark.parametrize("where", ["hidden", "weight"])
def test_numbers_beyond_parts_spoil_what_they_would_anyway(dtype: str, bad: float, where: str) -> None:
    hidden, weight, targets, bias = head(100, 40, 500, dtype)
    array = hidden if where == "hidden" else weight
    array[37, 5] = bad
    results = {}
    for isa in ("avx512", "amx"):
        with fn.using(isa=isa):
            losses = fn.linear_cross_entropy(hidden, weight, targets, bias, reduction="none")
            _, grads = fn.linear_cross_entropy_value_and_grad(
                hidden, weight, targets, bias, reduction="sum", grad_dtype="float32"
            )
        results[isa] = (losses, *grads)
    for a, b in zip(results["amx"], results["avx512"], strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        ok = np.isfinite(a) & (np.abs(b) < 1e30)
        np.testing.assert_allclose(a[ok], b[ok], rtol=1e-5, atol=1e-5)


def test_a_gradient_that_is_not_finite_stays_in_its_rows() -> None:
    hidden, weight, targets, bias = head(100, 40, 500, "float32")
    upstream = np.ones(100)
    upstream[37] = np.nan
    with fn.using(isa="amx"):
        _, grads = fn.linear_cross_entropy_value_and_grad(
            hidden, weight, targets, bias, reduction="none", grad_output=upstream
        )
    assert np.isnan(grads.hidden[37]).all()
    assert np.isfinite(np.delete(grads.hidden, 37, axis=0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_for_any_number_of_threads(dtype: str) -> None:
    hidden, weight, targets, bias = head(333, 96, 2000, dtype)
    with fn.using(isa="amx"):
        one, *others = (
            fn.linear_cross_entropy_value_and_grad(hidden, weight, targets, bias, threads=threads)
            for threads in (1, 2, 3, 7)
        )
    for other in others:
        assert other[0] == one[0]
        for a, b in zip(other[1], one[1], strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_accumulation_and_the_filter(dtype: str) -> None:
    hidden, weight, targets, bias = head(200, 50, 700, dtype)
    apart = np.repeat(weight, 2, axis=0)[::2]
    loss, grads = longhand(hidden, weight, targets, bias)
    out = [np.full(g.shape, 0.5, np.float32) for g in grads]
    with fn.using(isa="amx"):
        found, _ = fn.linear_cross_entropy_value_and_grad(
            hidden[::-1], apart, targets[::-1], bias, out=tuple(out), accumulate=True
        )
        _, filtered = fn.linear_cross_entropy_value_and_grad(
            hidden * 8, weight, targets, bias, filter=1e-3, grad_dtype="float32"
        )
        _, whole = fn.linear_cross_entropy_value_and_grad(hidden * 8, weight, targets, bias, grad_dtype="float32")
    assert found == pytest.approx(loss, rel=1e-6)
    close([out[0][::-1] - 0.5, out[1] - 0.5, out[2] - 0.5], grads, 3e-5)
    assert filtered.filtered is not None
    off = np.linalg.norm(filtered.weight - whole.weight) / np.linalg.norm(whole.weight)
    assert off <= 1e-3


def test_few_rows_go_to_vectors() -> None:
    """63 of them, and 64 to tiles: alike to rounding."""
    hidden, weight, targets, bias = head(64, 33, 225, "float32")
    with fn.using(isa="amx"):
        few = fn.linear_cross_entropy(hidden[:63], weight, targets[:63], bias, reduction="none")
        many = fn.linear_cross_entropy(hidden, weight, targets, bias, reduction="none")
    np.testing.assert_allclose(many[:63], few, rtol=1e-6, atol=1e-6)
