"""Reductions, options that mean nothing, and the upstream gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.errors import FastnllError, OptionError, ShapeError
from fastnll.options import LossOptions
from tests.cases import DTYPES, FULL, Engine, make_case
from tests.ops.losses import by_loss
from tests.ops.oracle import assert_same_bits, assert_within

Array = np.ndarray[Any, Any]


@by_loss
@pytest.mark.parametrize("dtype", FULL)
def test_reductions(engine: Engine, loss: Callable[..., Any], dtype: str) -> None:
    case = make_case(70, 33, dtype)

    def value(**kw: Any) -> Any:
        result = loss(case.x, case.t, **kw)
        return result[0] if isinstance(result, tuple) else result

    rows = value(reduction="none").astype(np.float64)
    assert value(reduction="none").dtype == DTYPES[dtype]
    assert rows.shape == (70,)
    for reduction, want in (("sum", rows.sum()), ("mean", rows.mean())):
        assert type(value(reduction=reduction)) is float
        assert value(reduction=reduction) == pytest.approx(want, rel=2e-7 if dtype == "float32" else 1e-14)
    assert value() == value(reduction="mean")


@by_loss
def test_options_that_mean_nothing(engine: Engine, loss: Callable[..., Any]) -> None:
    x, t = make_case(3, 5, "float32").x, np.array([0, 1, 4])
    with pytest.raises(OptionError, match=r"reduction.*average"):
        loss(x, t, reduction="average")
    with pytest.raises(OptionError, match=r"empty.*one"):
        loss(x, t, empty="one")
    with pytest.raises(OptionError, match="threads"):
        loss(x, t, threads=0)
    with pytest.raises((OptionError, TypeError), match="threads"):
        loss(x, t, threads="two")
    with pytest.raises((OptionError, TypeError), match="reductoin"):
        loss(x, t, reductoin="sum")


# ---- grad_output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalar_grad_output_scales_the_gradient_alone(engine: Engine, dtype: str) -> None:
    case = make_case(70, 33, dtype)
    t = case.t.copy()
    t[5] = -100
    for factor, reduction in itertools.product((0.5, -3.0, 1e-3, 0.0, 1), ("mean", "sum", "none")):
        loss, grad = fn.cross_entropy_value_and_grad(case.x, t, reduction=reduction, grad_output=factor)
        assert_same_bits("loss", loss, fn.cross_entropy(case.x, t, reduction=reduction))
        scale = factor / 69 if reduction == "mean" else factor
        want, units = (
            case.truth.grad * scale,
            case.truth.units["grad"] * abs(scale) + 2 * np.abs(case.truth.grad * scale),
        )
        want[5] = units[5] = 0
        assert_within(f"gradient of {reduction}", grad, want, units, case.x.dtype)


@pytest.mark.parametrize("grad_dtype", ["float64", "float32", "same"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_grad_output_per_token(engine: Engine, dtype: str, grad_dtype: str) -> None:
    """An upstream gradient of 0 stops the gradient of a row, not its loss; of an ignored row nothing is read."""
    case = make_case(70, 33, dtype)
    t = case.t.copy()
    t[[7, 8]] = -100
    upstream = np.random.default_rng(0).standard_normal(70)
    upstream = upstream.astype(DTYPES[dtype if grad_dtype == "same" else grad_dtype])
    upstream[3] = 0
    upstream[7] = np.nan
    loss, grad = fn.cross_entropy_value_and_grad(case.x, t, reduction="none", grad_output=upstream)
    assert_same_bits("loss", loss, fn.cross_entropy(case.x, t, reduction="none"))
    factor = upstream.astype(np.float64)[:, None]
    want, units = case.truth.grad * factor, case.truth.units["grad"] * np.abs(factor)
    units = units + 2 * np.abs(want)
    want[[7, 8]] = units[[7, 8]] = 0
    assert_within("gradient", grad, want, units, case.x.dtype)
    assert np.all(grad[[3, 7, 8]] == 0)
    strided = np.repeat(upstream.reshape(7, 10), 2, axis=1)[:, ::2]
    again = fn.cross_entropy_value_and_grad(
        case.x.reshape(7, 10, 33), t.reshape(7, 10), reduction="none", grad_output=strided
    )[1]
    assert_same_bits("gradient with strided upstream", again.reshape(70, 33), grad)


def test_wrong_grad_output(engine: Engine) -> None:
    x, t = make_case(3, 5, "float64").x, np.array([0, 1, 4])
    for upstream in (np.ones(2), np.ones((3, 1)), np.ones((3, 5))):
        with pytest.raises(ShapeError, match="grad_output"):
            fn.cross_entropy_value_and_grad(x, t, reduction="none", grad_output=upstream)
    for reduction in ("mean", "sum"):
        with pytest.raises((ShapeError, OptionError), match="grad_output"):
            fn.cross_entropy_value_and_grad(x, t, reduction=reduction, grad_output=np.ones(3))
    with pytest.raises(FastnllError, match="grad_output"):
        fn.cross_entropy_value_and_grad(x, t, grad_output="one")
    with pytest.raises(FastnllError, match="grad_output"):
        fn.cross_entropy_value_and_grad(x, t, grad_output=1j)


def test_options_are_remembered_by_value_and_type() -> None:
    first = LossOptions.make({"reduction": "sum", "label_smoothing": 0.25})
    assert LossOptions.make({"reduction": "sum", "label_smoothing": 0.25}) is first
    assert LossOptions.make({"shift": 1}).shift == 1
    # Equal to what was allowed a moment ago, and not allowed.
    for wrong in (True, 1.0):
        with pytest.raises(fn.OptionError, match="shift"):
            LossOptions.make({"shift": wrong})
    with pytest.raises(fn.OptionError, match="label_smoothing"):
        LossOptions.make({"label_smoothing": True})
    for _ in range(2):  # what was refused is refused again
        with pytest.raises(fn.OptionError, match="temperature"):
            LossOptions.make({"temperature": 0.0})
        with pytest.raises(TypeError, match="unexpected option 'smoothing'"):
            LossOptions.make({"smoothing": 0.1})
    for step in range(1000):  # a schedule
        assert LossOptions.make({"temperature": 1.0 + step}).temperature == 1.0 + step


def test_options_that_can_change_are_not_remembered() -> None:
    weight = np.array([1.0, 1.0, 1.0])
    x, t = np.zeros((1, 3)), np.array([0])
    assert fn.cross_entropy(x, t, weight=weight, reduction="sum") == pytest.approx(np.log(3))
    weight[0] = 2.0
    assert fn.cross_entropy(x, t, weight=weight, reduction="sum") == pytest.approx(2 * np.log(3))
