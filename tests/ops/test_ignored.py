"""Ignored rows: never read, never counted, gradient exactly 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.errors import FastnllError, LabelError
from tests.cases import DTYPES, FULL, Engine, make_case
from tests.ops.losses import by_loss, losses_and_grad
from tests.ops.oracle import assert_same_bits, assert_within

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("poison", ["nan", "inf", "-inf", "mixed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ignored_rows_are_never_read(engine: Engine, dtype: str, poison: str) -> None:
    """Whatever an ignored row holds, loss and gradient are those of the others, and its gradient 0."""
    for v in (1, 2, 9, 33, 257):
        check_ignored(dtype, v, poison)


def check_ignored(dtype: str, v: int, poison: str) -> None:
    case = make_case(70, v, dtype)
    x, t = case.x.copy(), case.t.copy()
    ignored = np.random.default_rng(v).random(70) < 0.4
    ignored[[0, 69]] = True
    t[ignored] = -100
    values = [np.nan, np.inf, -np.inf] if poison == "mixed" else [float(poison)]
    x[ignored] = np.resize(values, (int(ignored.sum()), v))
    live = ~ignored
    loss, grad = losses_and_grad(x, t)
    assert np.all(loss[ignored] == 0)
    assert np.all(grad[ignored] == 0)
    kept = losses_and_grad(case.x[live], case.t[live])
    assert_same_bits("loss of the live rows", loss[live], kept[0])
    assert_same_bits("gradient of the live rows", grad[live], kept[1])
    total = float(case.truth.loss[live].sum())
    allowed = float(case.truth.units["loss"][live].sum())
    for reduction, count in (("sum", 1), ("mean", int(live.sum()))):
        value, grad = fn.cross_entropy_value_and_grad(x, t, reduction=reduction)
        assert value == fn.cross_entropy(x, t, reduction=reduction)
        want, units = np.float64(total / count), allowed / count + 1 / count
        assert_within(f"{reduction} over live rows", value, want, units, x.dtype)
        assert np.all(grad[ignored] == 0)
        truth, units = case.truth.grad[live] / count, case.truth.units["grad"][live] / count
        assert_within("gradient", grad[live], truth, units + 2 * np.abs(truth), x.dtype)
    in_place = x.copy()
    loss, grad = fn.cross_entropy_value_and_grad(in_place, t, reduction="none", out=in_place)
    assert np.all(in_place[ignored] == 0)
    assert_same_bits("gradient in place", in_place[live], kept[1])


@pytest.mark.parametrize("dtype", FULL)
def test_ignored_rows_in_any_layout(engine: Engine, dtype: str) -> None:
    case = make_case(60, 17, dtype)
    for axis in (0, 1, 2):
        x = np.moveaxis(case.x.reshape(6, 10, 17), -1, axis).copy()
        t = case.t.reshape(6, 10).copy()
        t[::2, 3] = -100
        np.moveaxis(x, axis, -1)[t == -100] = np.nan
        for order in ("C", "F"):
            loss, grad = losses_and_grad(x.copy(order), t.copy(order), axis=axis)
            grad = np.moveaxis(grad, axis, -1)
            live = t != -100
            assert np.all(loss[~live] == 0)
            assert np.all(grad[~live] == 0)
            rows = live.ravel()
            assert_within("loss", loss[live], case.truth.loss[rows], case.truth.units["loss"][rows], x.dtype)
            assert_within("gradient", grad[live], case.truth.grad[rows], case.truth.units["grad"][rows], x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_rows_ignored(engine: Engine, dtype: str) -> None:
    x = np.full((5, 33), np.nan, DTYPES[dtype])
    t = np.full(5, -100)
    for reduction, empty, want in (
        ("mean", "nan", np.nan),
        ("mean", "zero", 0.0),
        ("sum", "nan", 0.0),
        ("sum", "zero", 0.0),
    ):
        value, grad = fn.cross_entropy_value_and_grad(x, t, reduction=reduction, empty=empty)
        assert_same_bits(f"{reduction} {empty}", value, want)
        assert_same_bits("value alone", fn.cross_entropy(x, t, reduction=reduction, empty=empty), want)
        assert np.all(grad == 0), "an ignored row's gradient is 0, also where the mean is nan"
    assert np.isnan(fn.cross_entropy(x, t))
    loss, grad = losses_and_grad(x, t)
    assert np.all(loss == 0)
    assert np.all(grad == 0)
    for function in (fn.cross_entropy, fn.cross_entropy_value_and_grad):
        with pytest.raises(FastnllError):
            function(x, t, empty="raise")
    y = x.copy()
    with pytest.raises(FastnllError):
        fn.cross_entropy_value_and_grad(y, t, empty="raise", out=y)
    assert np.isnan(y.astype(np.float64)).all(), "refused, yet written"


@by_loss
@pytest.mark.parametrize(
    ("ignore_index", "target_dtype", "ignored_values"),
    [
        (-100, "int64", [-100]),
        (2, "int64", [2]),
        (0, "uint8", [0]),
        (255, "uint8", [255]),
        (65535, "uint16", [65535]),
        (-1, "int8", [-1]),
        (-(2**40), "int64", [-(2**40)]),
        ([1, 3], "int32", [1, 3]),
        ((-100, 4), "int16", [-100, 4]),
        ({0, 1, -1}, "int64", [0, 1, -1]),
        (np.array([2, 200]), "uint8", [2, 200]),
        (np.int32(3), "int64", [3]),
        ([], "int64", []),
        (None, "int64", []),
        ([-100, 2**63, 3], "uint64", [3, 2**63]),
        (list(range(-3, 2)), "int64", [-3, -2, -1, 0, 1]),
    ],
    ids=str,
)
def test_ignore_index(
    engine: Engine, loss: Callable[..., Any], ignore_index: Any, target_dtype: str, ignored_values: list[int]
) -> None:
    """One id, several, or none; ids that are classes stay in the denominator of the softmax."""
    case = make_case(70, 5, "float64")
    t = case.t.astype(target_dtype)
    for i, value in enumerate(ignored_values):
        t[i * 7 % 70] = value
    live = ~np.isin(t, np.array(ignored_values, t.dtype))
    assert live.any()
    got = loss(case.x, t, reduction="none", ignore_index=ignore_index)
    plain = np.where(live, t, 0).astype(np.int64)
    want = loss(case.x, plain, reduction="none", ignore_index=None)
    got, want = (got, want) if isinstance(got, tuple) else ((got,), (want,))
    for a, b in zip(got, want, strict=True):
        assert_same_bits("live rows", a[live], b[live])
        assert np.all(a[~live] == 0)
    mean = loss(case.x, t, ignore_index=ignore_index)
    mean = mean[0] if isinstance(mean, tuple) else mean
    assert mean == pytest.approx(float(want[0][live].mean()), rel=1e-14)


@by_loss
def test_values_that_are_ignored_only_by_default(engine: Engine, loss: Callable[..., Any]) -> None:
    x, t = make_case(3, 5, "float32").x, np.array([0, -100, 4])
    loss(x, t)
    for other in (None, -1, [], [-1, 3]):
        with pytest.raises(LabelError, match="-100"):
            loss(x, t, ignore_index=other)
    for nonsense in (1.5, "a", [1.5], object()):
        with pytest.raises((FastnllError, TypeError)):
            loss(x, t, ignore_index=nonsense)
