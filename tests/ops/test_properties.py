"""Laws that hold for all logits, tried on drawn ones. Bounds are those of the oracle, doubled where two errors meet."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import fastnll as fn
from tests.cases import DTYPES, Engine
from tests.ops.oracle import Truth, assert_within, truth_of_rows, unit, wide

Array = np.ndarray[Any, Any]


class Drawn(NamedTuple):
    """Logits (N, V), targets (N,), their truth, and a seed for whatever else is needed."""

    x: Array
    t: Array
    truth: Truth
    seed: int


@st.composite
def batches(draw: st.DrawFn, dtypes: tuple[str, ...] = tuple(DTYPES), grid: bool = False, limit: float = 60) -> Drawn:
    """Draw a batch; on a `grid` of 1/64 so that moderate shifts of it are exact."""
    n, v = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    elements = st.integers(-64 * 20, 64 * 20).map(lambda i: i / 64) if grid else st.floats(-limit, limit, width=32)
    x = draw(npst.arrays(np.float64, (n, v), elements=elements)).astype(DTYPES[draw(st.sampled_from(dtypes))])
    t = draw(npst.arrays(np.int64, n, elements=st.integers(0, v - 1)))
    return Drawn(x, t, truth_of_rows(x, t), draw(st.integers(0, 2**32 - 1)))


FULL = ("float64", "float32")


def value_and_grad(x: Array, t: Array, **kw: Any) -> tuple[Array, Array]:
    loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none", **kw)
    return loss, grad


@given(b=batches(FULL, grid=True), shift=st.integers(-1000, 1000))
def test_a_shift_of_all_logits_changes_nothing(engine: Engine, b: Drawn, shift: int) -> None:
    shifted = b.x + np.asarray(shift, b.x.dtype)
    assert np.array_equal(shifted - np.asarray(shift, b.x.dtype), b.x), "test data: the shift is not exact"
    for quantity, function in (("probs", fn.softmax), ("log_probs", fn.log_softmax)):
        units = b.truth.units[quantity]
        assert_within(quantity, function(shifted), wide(function(b.x)), units, b.x.dtype, factor=2)
    for quantity, moved, still in zip(
        ("loss", "grad"), value_and_grad(shifted, b.t), value_and_grad(b.x, b.t), strict=True
    ):
        assert_within(quantity, moved, wide(still), b.truth.units[quantity], b.x.dtype, factor=2)
    units = b.truth.units["lse"] + 2 * abs(shift)
    assert_within("logsumexp", fn.logsumexp(shifted), wide(fn.logsumexp(b.x)) + shift, units, b.x.dtype, factor=2)


@given(b=batches())
def test_probabilities_sum_to_one_and_gradients_to_zero(engine: Engine, b: Drawn) -> None:
    stored = float(ml_dtypes.finfo(b.x.dtype).eps) / 2
    _, grad = value_and_grad(b.x, b.t)
    for name, got, want in (("probs", fn.softmax(b.x), 1.0), ("grad", grad, 0.0)):
        allowed = (
            b.truth.units[name] * unit(b.x.dtype) + stored * np.abs(b.truth[name]) + 1e-7 * (b.x.dtype == np.float16)
        )
        total = wide(got).sum(axis=1)
        assert np.all(np.abs(total - want) <= allowed.sum(axis=1) + 1e-37), f"{name}: rows sum to {total}"


@given(b=batches())
def test_probabilities_are_probabilities(engine: Engine, b: Drawn) -> None:
    assert np.all(fn.log_softmax(b.x) <= 0)
    assert np.all(fn.selected_log_probs(b.x, b.t) <= 0)
    probs = fn.softmax(b.x)
    assert np.all(probs >= 0)
    assert np.all(probs <= 1)
    loss, grad = value_and_grad(b.x, b.t)
    assert np.all(loss >= 0)
    assert np.all(np.abs(grad) <= 1)
    assert np.all(grad[np.arange(len(b.t)), b.t] <= 0)


@given(b=batches())
def test_a_permuted_vocabulary(engine: Engine, b: Drawn) -> None:
    order = np.random.default_rng(b.seed).permutation(b.x.shape[1])
    x, t = np.ascontiguousarray(b.x[:, order]), np.argsort(order)[b.t]
    loss, grad = value_and_grad(x, t)
    assert_within("loss", loss, b.truth.loss, b.truth.units["loss"], x.dtype)
    assert_within("gradient", grad, b.truth.grad[:, order], b.truth.units["grad"][:, order], x.dtype)
    assert_within("logsumexp", fn.logsumexp(x), wide(fn.logsumexp(b.x)), b.truth.units["lse"], x.dtype, factor=2)


@given(b=batches())
def test_rows_do_not_know_each_other(engine: Engine, b: Drawn) -> None:
    """Any order and any company give a row the same bits."""
    order = np.random.default_rng(b.seed).permutation(len(b.x))
    for whole, part in zip(value_and_grad(b.x, b.t), value_and_grad(b.x[order], b.t[order]), strict=True):
        assert whole[order].tobytes() == part.tobytes()
    for function in (fn.softmax, fn.log_softmax, fn.logsumexp):
        assert function(b.x)[order].tobytes() == function(b.x[order]).tobytes()


@given(b=batches(), cut=st.integers(0, 6))
def test_two_halves_add_up(engine: Engine, b: Drawn, cut: int) -> None:
    whole, grad = fn.cross_entropy_value_and_grad(b.x, b.t, reduction="sum")
    parts = [fn.cross_entropy_value_and_grad(b.x[s], b.t[s], reduction="sum") for s in (np.s_[:cut], np.s_[cut:])]
    assert whole == pytest.approx(parts[0][0] + parts[1][0], rel=1e-15, abs=0)
    assert grad.tobytes() == parts[0][1].tobytes() + parts[1][1].tobytes()


@given(b=batches(), ignored=st.integers(0, 5))
def test_the_value_is_the_value_of_value_and_grad(engine: Engine, b: Drawn, ignored: int) -> None:
    b.t[ignored:] = -100
    for reduction in ("mean", "sum", "none"):
        value = fn.cross_entropy(b.x, b.t, reduction=reduction)
        assert np.array_equal(value, fn.cross_entropy_value_and_grad(b.x, b.t, reduction=reduction)[0], equal_nan=True)


@given(b=batches(), ignored=st.integers(1, 6))
def test_the_mean_is_the_sum_over_live_rows(engine: Engine, b: Drawn, ignored: int) -> None:
    live = min(ignored, len(b.t))
    b.t[live:] = -100
    (total, grad_sum), (mean, grad_mean) = (
        fn.cross_entropy_value_and_grad(b.x, b.t, reduction=r) for r in ("sum", "mean")
    )
    assert mean == pytest.approx(total / live, rel=1e-15, abs=0)
    units = b.truth.units["grad"][:live] / live + 3 * np.abs(b.truth.grad[:live]) / live
    assert_within("gradient of the mean", grad_mean[:live], b.truth.grad[:live] / live, units, b.x.dtype)
    assert np.all(grad_mean[live:] == 0)
    assert np.all(grad_sum[live:] == 0)


@given(b=batches(FULL))
def test_softmax_is_exp_of_log_softmax(engine: Engine, b: Drawn) -> None:
    probs, log_probs = wide(fn.softmax(b.x)), wide(fn.log_softmax(b.x))
    units = b.truth.units["probs"] + b.truth.probs * b.truth.units["log_probs"]
    assert_within("exp(log_softmax)", probs.astype(b.x.dtype), np.exp(log_probs), units, b.x.dtype)


@given(b=batches(FULL))
def test_logsumexp_is_what_log_softmax_takes_away(engine: Engine, b: Drawn) -> None:
    rows = np.arange(len(b.t))
    lse = wide(fn.logsumexp(b.x))
    units = b.truth.units["log_probs"] + (b.truth.units["lse"] + np.abs(lse))[:, None] + np.abs(wide(b.x))
    assert_within("x - log_softmax", wide(b.x) - wide(fn.log_softmax(b.x)), lse[:, None] + 0 * units, units, b.x.dtype)
    loss = fn.cross_entropy(b.x, b.t, reduction="none")
    assert_within("lse - x_t", wide(lse) - wide(b.x)[rows, b.t], wide(loss), units[rows, b.t], b.x.dtype)


@given(b=batches(("float64",), limit=15))
def test_gradient_is_the_central_difference(engine: Engine, b: Drawn) -> None:
    """Along a random direction; the step balances h^2 f'''/6 against eps |f| / h."""
    direction = np.random.default_rng(b.seed).standard_normal(b.x.shape)
    h = 1e-4
    up, down = (fn.cross_entropy(b.x + s * h * direction, b.t, reduction="none") for s in (1, -1))
    slope = (value_and_grad(b.x, b.t)[1] * direction).sum(axis=1)
    size = np.abs(direction).max(axis=1)
    allowed = h**2 * (2 * size) ** 3 / 6 + 4 * np.finfo(np.float64).eps * (40 + np.abs(b.truth.loss)) / h
    assert np.all(np.abs((up - down) / (2 * h) - slope) <= allowed.astype(np.float64))


@given(b=batches(FULL))
def test_vector_jacobian_products_chain(engine: Engine, b: Drawn) -> None:
    """The gradient of cross_entropy is log_softmax_vjp of what nll_loss passes back, and softmax_vjp of 1/p."""
    rows = np.arange(len(b.t))
    upstream = np.random.default_rng(b.seed).standard_normal(len(b.t)).astype(b.x.dtype)
    back = np.zeros_like(b.x)
    back[rows, b.t] = -upstream
    through = fn.log_softmax_vjp(fn.log_softmax(b.x), back)
    assert through.dtype == b.x.dtype
    assert through.shape == b.x.shape
    _, grad = value_and_grad(b.x, b.t, grad_output=upstream)
    # exp of a rounded log-probability, then 1 - p rounded: absolute, not relative, at the target.
    size = np.abs(wide(upstream))[:, None]
    units = (b.truth.units["grad"] + b.truth.probs * (b.truth.units["log_probs"] + 8) + 4) * size
    assert_within("log_softmax_vjp of the chain", through, wide(grad), units, b.x.dtype)
    general = np.random.default_rng(b.seed).standard_normal(b.x.shape).astype(b.x.dtype)
    probs = fn.softmax(b.x)
    a = fn.softmax_vjp(probs, (wide(general) * wide(probs)).astype(b.x.dtype))
    p, g = wide(probs), wide(probs) * wide(general)
    want = p * (g - (p * g).sum(axis=1, keepdims=True))
    scale = p * (np.abs(g) + 20 * (p * np.abs(g)).sum(axis=1, keepdims=True))
    assert_within("softmax_vjp", a, want, 4 * scale, b.x.dtype)


@given(b=batches())
def test_selected_log_probs_are_entries_of_log_softmax(engine: Engine, b: Drawn) -> None:
    rows, v = np.arange(len(b.t)), b.x.shape[1]
    ids = np.random.default_rng(b.seed).integers(0, v, (len(b.t), 3))
    one, several = fn.selected_log_probs(b.x, b.t), fn.selected_log_probs(b.x, ids)
    assert_within("one id a row", one, b.truth.log_probs[rows, b.t], b.truth.units["log_probs"][rows, b.t], b.x.dtype)
    picked, units = (a[rows[:, None], ids] for a in (b.truth.log_probs, b.truth.units["log_probs"]))
    assert_within("three ids a row", several, picked, units, b.x.dtype)


@given(b=batches())
def test_nll_loss_takes_the_entries_as_they_are(engine: Engine, b: Drawn) -> None:
    log_probs = fn.log_softmax(b.x)
    rows = np.arange(len(b.t))
    want = -wide(log_probs)[rows, b.t]
    got = fn.nll_loss(log_probs, b.t, reduction="none")
    assert got.dtype == (np.float64 if b.x.dtype == np.float64 else np.float32)
    assert np.array_equal(got.astype(np.float64), want.astype(np.float64))
    assert fn.nll_loss(log_probs, b.t, reduction="sum") == pytest.approx(float(want.sum()), rel=1e-14)
    assert fn.nll_loss(log_probs, b.t) == pytest.approx(float(want.mean()), rel=1e-14)
