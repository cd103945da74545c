"""The linear head against optax over logits that are held."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastnll.interop.jax import linear_cross_entropy
from tests.interop.jax.cases import DTYPES, agree


def theirs(
    hidden: Any, weight: Any, labels: Any, bias: Any = None, *, where: Any = None, reduction: str = "none"
) -> Any:
    up = [a if a is None else a.astype(jnp.float32) for a in (hidden, weight, bias)]
    logits = jnp.matmul(up[0], up[1].T, precision="highest") + (0 if bias is None else up[2])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if where is not None:
        loss = jnp.where(where, loss, 0.0)
    if reduction == "none":
        return loss
    n = loss.size if where is None else jnp.broadcast_to(where, loss.shape).sum()
    return loss.sum() / (n if reduction == "mean" else 1)


def problem(seed: int, rows: tuple[int, ...], d: int, v: int, dtype: Any) -> Any:
    k = jax.random.split(jax.random.PRNGKey(seed), 4)
    hidden = jax.random.normal(k[0], (*rows, d)).astype(dtype)
    weight = jax.random.normal(k[1], (v, d)).astype(dtype)
    return hidden, weight, jax.random.randint(k[2], rows, -v, v), jax.random.normal(k[3], (v,)).astype(dtype)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 5), max_size=3).map(tuple),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from(["none", "mean", "sum"]),
    st.sampled_from([None, 1.0, 0.6]),
)
def test_values_and_gradients(
    seed: int, rows: tuple[int, ...], d: int, v: int, dtype: Any, biased: bool, reduction: str, share: float | None
) -> None:
    hidden, weight, labels, bias = problem(seed, rows, d, v, dtype)
    where = None if share is None else jax.random.bernoulli(jax.random.PRNGKey(seed), share, rows)
    if where is not None and not where.any():
        where = jnp.ones(rows, bool)
    given = (hidden, weight, bias) if biased else (hidden, weight)

    def run(function: Any) -> Any:
        def total(*parts: Any) -> Any:
            h, w, *b = parts
            loss = function(h, w, labels, *b, where=where, reduction=reduction)
            return (loss * jnp.cos(jnp.arange(loss.size)).reshape(loss.shape)).sum(), loss

        (_, loss), grads = jax.value_and_grad(total, tuple(range(len(given))), has_aux=True)(*given)
        return loss, grads

    (a, found), (b, wanted) = run(linear_cross_entropy), run(theirs)
    assert a.dtype == jnp.float32
    agree(a, b, dtype, 1 if dtype == jnp.float32 else 0.05)
    for x, y, g in zip(given, found, wanted, strict=True):
        assert y.dtype == x.dtype
        agree(y, g, dtype, 4)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_transforms(reduction: str) -> None:
    hidden, weight, labels, bias = problem(0, (4, 3), 5, 11, jnp.float32)

    def run(function: Any) -> Any:
        def loss(h: Any, w: Any, t: Any, b: Any) -> Any:
            return (function(h, w, t, b, reduction=reduction) ** 2).sum()

        many = jax.vmap(jax.value_and_grad(loss, (0, 1, 3)), in_axes=(0, None, 0, None))
        stacked = jnp.stack([weight, weight[::-1], 2 * weight])
        weights = jax.vmap(jax.grad(loss, (0, 1, 3)), in_axes=(None, 0, None, None))
        second = jax.jacrev(jax.jacrev(loss, (0, 1)), (0, 1, 3))
        return (
            jax.jit(many)(hidden, weight, labels, bias),
            weights(hidden, stacked, labels, bias),
            second(hidden[0], weight, labels[0], bias),
        )

    for a, b in zip(jax.tree.leaves(run(linear_cross_entropy)), jax.tree.leaves(run(theirs)), strict=True):
        agree(a, b, scale=10)


def test_logits_are_never_held() -> None:
    n, d, v = 512, 8, 20000
    hidden, weight, labels, _ = problem(0, (n,), d, v, jnp.float32)
    f = jax.jit(jax.grad(lambda h, w: linear_cross_entropy(h, w, labels, reduction="mean"), (0, 1)))
    compiled = f.lower(hidden, weight).compile()
    held = compiled.memory_analysis().temp_size_in_bytes
    assert held < n * v
    for a, b in zip(
        compiled(hidden, weight),
        jax.grad(lambda h, w: theirs(h, w, labels, reduction="mean"), (0, 1))(hidden, weight),
        strict=True,
    ):
        agree(a, b, scale=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "max"}, "reduction: expected one of"),
        ({"weight": jnp.ones((3, 4))}, r"weight: expected shape \(V, 5\)"),
        ({"labels": jnp.zeros(3, int)}, r"labels: expected shape \(2,\)"),
        ({"labels": jnp.zeros(2)}, "labels: expected class ids"),
        ({"bias": jnp.zeros(4)}, r"bias: expected shape \(3,\)"),
        ({"where": jnp.zeros(3, bool)}, r"where: expected a shape that broadcasts to \(2,\)"),
        ({"hidden": jnp.zeros((2, 5), int)}, "hidden: expected floating-point"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"hidden": jnp.ones((2, 5)), "weight": jnp.ones((3, 5)), "labels": jnp.zeros(2, int)}
    with pytest.raises((TypeError, ValueError), match=message):
        linear_cross_entropy(**{**given, **change})
