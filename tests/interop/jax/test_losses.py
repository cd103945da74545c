"""Values and gradients against optax and jax.nn, over their whole argument space."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, assume, given, settings

from fastnll.interop import jax as ours
from tests.interop.jax.cases import Case, agree, cases, gradient

few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def finite(*arrays: Any) -> bool:
    return all(bool(jnp.isfinite(a).all()) for a in arrays)


@few
@given(cases())
def test_integer_labels(case: Case) -> None:
    def run(module: Any, x: Any) -> Any:
        return module.softmax_cross_entropy_with_integer_labels(x, case.labels, case.axis, case.where)

    found = run(ours, case.logits)
    assert found.dtype == case.logits.dtype
    wanted = run(optax, case.up)
    if not jnp.isposinf(case.logits).any():
        agree(found, wanted)
    else:  # where optax returns inf for a logit of inf, the kernels return NaN: neither is a loss
        bad = ~np.isfinite(np.asarray(wanted))
        assert not np.isfinite(np.asarray(found, np.float32))[bad].any()
        agree(jnp.where(bad, 0, found), jnp.where(bad, 0, wanted))


@few
@given(cases())
def test_gradient_of_integer_labels(case: Case) -> None:
    assume(not jnp.isposinf(case.logits).any())

    def run(module: Any) -> Any:
        return lambda x: module.softmax_cross_entropy_with_integer_labels(x, case.labels, case.axis, case.where)

    found = gradient(run(ours), case.logits, case.upstream)
    # upstream is rounded to the dtype of the loss first, for both
    wanted = gradient(run(optax), case.up, case.upstream.astype(case.logits.dtype))
    assert found.dtype == case.logits.dtype
    # optax divides 0 by 0 in rows that nothing is left of; here an absent row has gradient 0.
    if case.where is not None:
        wanted = jnp.where(jnp.isnan(wanted) & ~jnp.isnan(found), 0 * found, wanted)
    agree(found, wanted)


@few
@given(cases(odd=False))
def test_soft_labels(case: Case) -> None:
    def run(module: Any) -> Any:
        return lambda x, q: module.softmax_cross_entropy(x, q, case.axis, case.where)

    up = case.soft.astype(jnp.float32)
    found, wanted = run(ours)(case.logits, case.soft), run(optax)(case.up, up)
    if case.where is not None:  # optax multiplies -inf with its mask's 0
        wanted = jnp.where(jnp.isnan(wanted), 0, wanted)
    assert found.dtype == case.logits.dtype
    agree(found, wanted)
    value, vjp = jax.vjp(run(ours), case.logits, case.soft)
    _, theirs = jax.vjp(run(optax), case.up, up)
    upstream = case.upstream.astype(value.dtype)
    for a, b in zip(vjp(upstream), theirs(upstream.astype(jnp.float32)), strict=True):
        assert a.dtype == case.logits.dtype
        fine = jnp.isfinite(b)
        assert jnp.isfinite(a).all()
        agree(jnp.where(fine, a, 0), jnp.where(fine, b, 0), a.dtype, 2)


@few
@given(cases())
def test_log_softmax(case: Case) -> None:
    where = case.where if case.where is not None and case.where.ndim == case.logits.ndim else None
    found = ours.log_softmax(case.logits, case.axis, where)
    assert found.dtype == case.logits.dtype
    wanted = jax.nn.log_softmax(case.up, case.axis, where)
    agree(found, wanted)
    if finite(case.logits):
        g = jax.random.normal(jax.random.PRNGKey(0), found.shape).astype(found.dtype)
        # Where nothing is live JAX's own derivative is NaN.
        a = gradient(lambda x: ours.log_softmax(x, case.axis, where), case.logits, g)
        b = gradient(lambda x: jax.nn.log_softmax(x, case.axis, where), case.up, g)
        fine = jnp.isfinite(b)
        # The kernels start from log-probabilities that were rounded to the logits' dtype.
        agree(jnp.where(fine, a, 0), jnp.where(fine, b, 0), a.dtype, 16)


def test_soft_labels_broadcast_and_promote() -> None:
    x = jax.random.normal(jax.random.PRNGKey(0), (4, 6)).astype(jnp.bfloat16)
    for q in (jnp.eye(6)[:4], jnp.full((6,), 1 / 6), jnp.eye(6, dtype=int)[1], jnp.ones((2, 4, 6), bool)):
        found = ours.softmax_cross_entropy(x, q)
        wanted = optax.softmax_cross_entropy(x, q)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        agree(found, optax.softmax_cross_entropy(x.astype(jnp.float32), q), x.dtype)
    assert ours.softmax_cross_entropy(x, x, axis=None).shape == ()


def test_a_soft_label_of_zero_on_an_impossible_class_counts_nothing() -> None:
    x, q = jnp.array([[0.0, 1.0, -jnp.inf]]), jnp.array([[0.5, 0.5, 0.0]])
    found = ours.softmax_cross_entropy(x, q)
    agree(found, optax.safe_softmax_cross_entropy(x, q))
    assert jnp.isfinite(found).all() and jnp.isnan(optax.softmax_cross_entropy(x, q)).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.softmax_cross_entropy_with_integer_labels(jnp.arange(6).reshape(2, 3), jnp.zeros(2, int)),
        lambda m: m.softmax_cross_entropy_with_integer_labels(jnp.ones((2, 3)), jnp.zeros(2)),
        lambda m: m.softmax_cross_entropy_with_integer_labels(jnp.ones((2, 3)), jnp.zeros(2, int), axis=2),
        lambda m: m.softmax_cross_entropy_with_integer_labels(jnp.ones((2, 3)), jnp.zeros(2, int), axis=(0, 0)),
        lambda m: m.softmax_cross_entropy_with_integer_labels(jnp.ones((2, 3)), jnp.zeros(2, int), axis=[1]),
        lambda m: m.softmax_cross_entropy_with_integer_labels(jnp.ones((2, 3)), jnp.zeros((4, 5), int)),
        lambda m: m.softmax_cross_entropy_with_integer_labels(
            jnp.ones((2, 3)), jnp.zeros(2, int), where=jnp.ones((4, 3), bool)
        ),
        lambda m: m.softmax_cross_entropy(jnp.arange(6).reshape(2, 3), jnp.ones((2, 3))),
        lambda m: m.softmax_cross_entropy(jnp.ones((2, 3)), jnp.ones((2, 4))),
    ],
)
def test_what_optax_refuses_is_refused_with_the_same_kind_of_error(call: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as theirs:
        call(optax)
    # JAX's operations refuse shapes with either; dtypes, with a TypeError.
    kinds = TypeError if "dtype" in str(theirs.value) else (TypeError, ValueError)
    with pytest.raises(kinds, match=": expected"):
        call(ours)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 3)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    x = jnp.zeros(shape)
    assert ours.softmax_cross_entropy_with_integer_labels(x, jnp.zeros(shape[:-1], int)).shape == shape[:-1]
    assert ours.softmax_cross_entropy(x, x).shape == shape[:-1]
    assert ours.log_softmax(x).shape == shape


def test_rows_that_are_masked_out_are_never_read() -> None:
    x = jnp.array([[1.0, 2.0, 3.0], [jnp.nan] * 3])
    where = jnp.array([True, False])

    def loss(x: Any) -> Any:
        return ours.softmax_cross_entropy_with_integer_labels(x, jnp.array([0, 7]), where=where).sum()

    value, grad = jax.value_and_grad(loss)(x)
    assert jnp.isfinite(value) and (grad[1] == 0).all() and grad[0, 0] < 0
