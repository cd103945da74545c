"""The filter keeps its word: what it leaves out is summed, and the gradients are as near as its report proves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import Engine
from tests.linear.problems import Head, make_head, truth

Array = np.ndarray[Any, Any]


def peaked_head(n: int, d: int, v: int, dtype: str = "float32", seed: int = 0, noise: float = 0.01) -> Head:
    """Return rows as peaked as a large model's: a power law over a random order of the classes, one order a feature.

    The targets are drawn from the distribution itself.
    """
    rng = np.random.default_rng([n, d, v, seed])
    weight = np.empty((v, d))
    for k in range(d):
        weight[rng.permutation(v), k] = -2.1 * np.log(np.arange(1, v + 1))
    hidden = np.eye(d)[rng.integers(0, d, n)] + noise * rng.standard_normal((n, d))
    head = make_head(n, d, v, dtype)
    kind = head.hidden.dtype
    x = hidden @ weight.T
    targets = (x + rng.gumbel(size=x.shape)).argmax(axis=1)
    targets[::11] = -100
    return Head(hidden.astype(kind), weight.astype(kind), np.zeros(v, kind), targets)


def entropy(x: Array) -> float:
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return float(-(p * np.log(p)).sum(axis=1).mean())


def relative(a: Any, b: Array) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("allowed", [0.03, 5e-3])
@pytest.mark.parametrize("d", [32, 45])
def test_the_bound_holds(engine: Engine, d: int, allowed: float, dtype: str) -> None:
    head = peaked_head(200, d, 6000, dtype)
    assert 1.0 < entropy(head.logits) < 2.5
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    want = truth(head)
    loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments, filter=allowed)
    plain, _ = fn.linear_cross_entropy_value_and_grad(*arguments)
    report = grads.filtered
    assert report is not None
    assert loss == plain
    assert max(report.weight_error, report.hidden_error) <= allowed
    rounding = 1e-4 if dtype != "float64" else 1e-12
    for found, right, bound in (
        (grads.weight, want.weight, report.weight_error),
        (grads.hidden, want.hidden, report.hidden_error),
    ):
        assert relative(found, right) <= bound + rounding
    assert relative(grads.bias, want.bias) <= rounding
    if engine.backend == "native":
        assert report.kept < 0.15
        assert report.dropped_mass > 0.0
        # The sum of what was left out cannot be more than there is, nor than what the threshold lets pass.
        assert report.dropped_mass < np.abs(want.grad).sum() * allowed * 3
        assert relative(grads.weight, want.weight) > rounding / 100, "something was left out"
    else:
        assert report.kept == 1.0


def test_a_flat_distribution_is_computed_in_full(engine: Engine) -> None:
    head = make_head(200, 32, 6000, "float32")
    hidden = (head.hidden * np.float32(0.02)).astype(np.float32)
    arguments = (hidden, head.weight, head.targets)
    want = fn.linear_cross_entropy_value_and_grad(*arguments)
    loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments, filter=1e-3)
    assert loss == want[0]
    for name in ("hidden", "weight"):
        np.testing.assert_array_equal(getattr(grads, name), getattr(want[1], name))
    assert grads.filtered == fn.FilterReport(1e-3, 0.0, 0.0, 0.0, 1.0, False)
    assert want[1].filtered is None


@pytest.mark.parametrize("wrt", ["hidden", "weight", "bias"])
def test_of_one_gradient(wrt: str) -> None:
    head = peaked_head(200, 32, 6000)
    with fn.using(backend="native"):
        _, grads = fn.linear_cross_entropy_value_and_grad(
            head.hidden, head.weight, head.targets, head.bias, filter=0.01, wrt=wrt
        )
    want = truth(head)
    report = grads.filtered
    assert report is not None
    bound = {"hidden": report.hidden_error, "weight": report.weight_error, "bias": 0.0}[wrt]
    assert relative(getattr(grads, wrt), getattr(want, wrt)) <= bound + 1e-5
    assert report.weight_error == 0.0 or wrt == "weight"


@pytest.mark.parametrize("name", ["label_smoothing", "z_loss", "softcap", "grad_output", "token_weight"])
def test_under_options(name: str) -> None:
    """Smoothing leaves no element small; token weights and upstream gradients scale rows, negative ones included."""
    head = peaked_head(200, 32, 6000, "float64")
    rng = np.random.default_rng(3)
    values: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 30.0, "grad_output": -1e-6}
    values["token_weight"] = rng.normal(size=200) * 10.0 ** rng.uniform(-6, 0, 200)
    o = {name: values[name]}
    want = truth(head, **o)
    with fn.using(backend="native"):
        _, grads = fn.linear_cross_entropy_value_and_grad(
            head.hidden, head.weight, head.targets, head.bias, filter=1e-3, **o
        )
    report = grads.filtered
    assert report is not None
    assert relative(grads.weight, want.weight) <= report.weight_error + 1e-11
    assert relative(grads.hidden, want.hidden) <= report.hidden_error + 1e-11
    assert max(report.weight_error, report.hidden_error) <= 1e-3


def test_gradients_that_cancel_are_computed_again() -> None:
    """Two rows of opposite weight, whose gradients cancel in dW: no estimate can know, the final check must."""
    head = peaked_head(60, 32, 6000, "float64", noise=0.0)
    hidden = np.concatenate([head.hidden, head.hidden])
    targets = np.concatenate([head.targets, head.targets])
    weight = np.concatenate([np.ones(60), -np.ones(60) * (1 - 1e-7)])
    big = Head(hidden, head.weight, head.bias, targets)
    want = truth(big, token_weight=weight, reduction="sum")
    with fn.using(backend="native"):
        _, grads = fn.linear_cross_entropy_value_and_grad(
            hidden, head.weight, targets, head.bias, token_weight=weight, reduction="sum", filter=3e-3
        )
    report = grads.filtered
    assert report is not None
    assert report.repeated
    assert report.dropped_mass == report.weight_error == 0.0
    assert relative(grads.weight, want.weight) <= 1e-7
    assert relative(grads.hidden, want.hidden) <= 1e-10


def test_nan_in_a_live_row_is_not_filtered_away(engine: Engine) -> None:
    head = peaked_head(40, 32, 3000)
    hidden = head.hidden.copy()
    hidden[3, 5] = np.nan
    loss, grads = fn.linear_cross_entropy_value_and_grad(
        hidden, head.weight, np.where(head.targets < 0, 0, head.targets), head.bias, filter=0.01
    )
    assert np.isnan(loss)
    assert grads.hidden is not None
    assert np.isnan(grads.hidden[3]).all()
    assert np.isfinite(np.delete(grads.hidden, 3, axis=0)).all()
