"""Every option, and every two together, in every engine, against the longhand formula and its central differences."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import DTYPES, Engine
from tests.loss import longhand
from tests.loss.tables import batch, option_table, pairs, soft_targets

Array = np.ndarray[Any, Any]
SMALL = pairs(option_table())
KINDS = ("ids", "dense", "sparse")
# What the storage dtype may cost: logits are rounded before both sides see them, the arithmetic is float32's.
TOLERANCE = {"float64": 1e-12, "float32": 4e-6, "float16": 4e-6, "bfloat16": 4e-6}
GRADIENT = {"float64": 1e-12, "float32": 4e-6, "float16": 2e-3, "bfloat16": 1e-2}


def targets_of(kind: str, n: int, v: int) -> Any:
    dense, sparse = soft_targets(n, v)
    return {"ids": batch(n, v)[1], "dense": dense, "sparse": sparse}[kind]


def total(value: Any) -> float:
    """Return what the gradient is the gradient of; a sequence without a row has none."""
    return float(np.nansum(value))


@cache
def expected(kind: str) -> list[tuple[Any, Array]]:
    """Return longhand loss and gradient (central differences) of every pair; computed once for all engines."""
    x, _ = batch()
    targets = targets_of(kind, *x.shape)
    found = []
    for _, o in SMALL:
        if kind != "ids" and "shift" in o:
            found.append((None, x))
            continue
        grad = longhand.numeric_gradient(lambda z, o=o: total(longhand.loss(z, targets, o)), x)
        found.append((longhand.loss(x, targets, o), grad))
    return found


def test_the_table_names_every_option() -> None:
    from dataclasses import fields

    from fastnll.options import LossOptions

    used = {key for _, o in SMALL for key in o}
    assert used | {"axis"} == {f.name for f in fields(LossOptions)}, "axis has its own test"
    assert len(SMALL) > 250


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_of_options(engine: Engine, kind: str) -> None:
    x, _ = batch()
    targets = targets_of(kind, *x.shape)
    for (name, o), (want, want_grad) in zip(SMALL, expected(kind), strict=True):
        if want is None:
            with pytest.raises(fn.OptionError, match="shift"):
                fn.cross_entropy(x, targets, **o)
            continue
        loss, grad = fn.cross_entropy_value_and_grad(x, targets, **o)
        np.testing.assert_allclose(loss, want, rtol=1e-12, atol=1e-13, err_msg=name)
        np.testing.assert_allclose(grad, want_grad, rtol=1e-6, atol=2e-9, err_msg=name)
        np.testing.assert_array_equal(fn.cross_entropy(x, targets, **o), loss, err_msg=name)
        in_place = x.copy()
        fn.cross_entropy_value_and_grad(in_place, targets, out=in_place, **o)
        np.testing.assert_array_equal(in_place, grad, err_msg=f"{name}, in place")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_of_options_against_the_reference(engine: Engine, kind: str, dtype: str) -> None:
    """In every dtype, and rows longer than a native block; the reference works in float64."""
    for n, v, table in ((6, 11, SMALL), (6, 2100, pairs(option_table(6, 2100))[::9])):
        x = batch(n, v)[0].astype(DTYPES[dtype])
        targets = targets_of(kind, n, v)
        for name, o in table:
            if kind != "ids" and "shift" in o:
                continue
            with fn.using(backend="reference"):
                want, want_grad = fn.cross_entropy_value_and_grad(x.astype(np.float64), targets, **o)
            loss, grad = fn.cross_entropy_value_and_grad(x, targets, **o)
            assert grad.dtype == x.dtype
            message = f"{name}, {dtype}, V={v}"
            np.testing.assert_allclose(loss, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=message)
            np.testing.assert_allclose(
                grad.astype(np.float64), want_grad, rtol=GRADIENT[dtype], atol=GRADIENT[dtype] / 8, err_msg=message
            )


@pytest.mark.parametrize("name", option_table())
def test_long_rows_longhand(engine: Engine, name: str) -> None:
    """V = 2100 crosses the blocks of a row; central differences at some elements, block borders among them."""
    n, v = 6, 2100
    x, t = batch(n, v)
    o = option_table(n, v)[name]
    loss, grad = fn.cross_entropy_value_and_grad(x, t, **o)
    np.testing.assert_allclose(loss, longhand.loss(x, t, o), rtol=1e-12, err_msg=name)
    probe = np.zeros(x.shape, bool)
    probe[0, [0, 2, 2047, 2099]] = True
    numeric = longhand.numeric_gradient(lambda z: total(fn.cross_entropy(z, t, **o)), x, probe, 1e-4)
    np.testing.assert_allclose(grad[probe], numeric[probe], rtol=1e-6, atol=3e-9, err_msg=name)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_class_axis_with_every_option(engine: Engine, axis: int) -> None:
    x, t = batch()
    for name, o in option_table().items():
        moved = np.moveaxis(x, -1, axis)
        other = dict(o)
        if name == "class_mask by row":
            other["class_mask"] = np.moveaxis(o["class_mask"], -1, axis)
        want, want_grad = fn.cross_entropy_value_and_grad(x, t, **o)
        loss, grad = fn.cross_entropy_value_and_grad(moved, t, axis=axis, **other)
        np.testing.assert_allclose(loss, want, rtol=1e-13, err_msg=name)
        np.testing.assert_allclose(np.moveaxis(grad, axis, -1), want_grad, rtol=1e-12, atol=1e-15, err_msg=name)
