"""Axis anywhere, every kind of stride, and what is not an array of logits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.errors import DTypeError, FastnllError, ShapeError
from tests.cases import DTYPES, FULL, Case, Engine, Op, make_case
from tests.ops.layouts import (
    ALL_OPS,
    Layout,
    all_reversed,
    axes_reversed_in_memory,
    by_layout,
    check,
    every_second,
    first_two_axes_swapped_in_memory,
)
from tests.ops.oracle import assert_same_bits, assert_within, truth_of_rows

Array = np.ndarray[Any, Any]


@by_layout
@pytest.mark.parametrize("op", ALL_OPS)
def test_any_axis_of_any_layout(engine: Engine, op: Op, layout: Layout) -> None:
    shapes = (((3, 5), 17), ((4, 6), 33), ((5, 2), 3), ((2, 3), 300))
    for dtype, (rows, v) in itertools.product(DTYPES, shapes):
        case = make_case(rows[0] * rows[1], v, dtype)
        t = case.t.reshape(rows)
        for axis in (-1, 0, 1, -3):
            x = layout(np.moveaxis(case.x.reshape(*rows, v), -1, axis))
            before = x.copy()
            check(op, x, t, case, rows, axis)
            assert_same_bits("the logits afterwards", x, before)


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("op", ALL_OPS)
def test_four_axes(engine: Engine, op: Op, dtype: str) -> None:
    """More row axes than two strides can describe, once they cannot be merged."""
    case = make_case(2 * 3 * 4, 17, dtype)
    for axis in range(-4, 4):
        x = np.moveaxis(case.x.reshape(2, 3, 4, 17), -1, axis)
        check(op, x, case.t.reshape(2, 3, 4), case, (2, 3, 4), axis)
        for layout in (axes_reversed_in_memory, first_two_axes_swapped_in_memory, every_second, all_reversed):
            check(op, layout(x), case.t.reshape(2, 3, 4), case, (2, 3, 4), axis)
        x = every_second(x.swapaxes(0, 2)).swapaxes(0, 2)[:, ::-1]
        rows = case.t.reshape(2, 3, 4)
        if axis in (1, -3):
            x = x[:, ::-1]
        else:
            rows = np.flip(rows, axis=1 if axis not in (0, -4) else 0)
        flipped = Case(x, rows, truth_of_rows(np.moveaxis(x, axis, -1).reshape(24, 17), rows.ravel()))
        check(op, x, rows, flipped, (2, 3, 4), axis)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("op", ALL_OPS)
def test_matrix_with_the_classes_first(engine: Engine, op: Op, axis: int) -> None:
    for n, v in ((70, 100), (5, 257), (257, 3), (1, 33), (33, 1), (17, 2049)):
        case = make_case(n, v, "float32")
        x = case.x if axis else case.x.T
        check(op, x, case.t, case, (n,), axis)
        check(op, np.ascontiguousarray(x), case.t, case, (n,), axis)


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("op", ALL_OPS)
def test_broadcast_rows(engine: Engine, op: Op, dtype: str) -> None:
    """Stride 0 along the rows, and along the classes."""
    rng = np.random.default_rng(0)
    row = rng.standard_normal(33).astype(DTYPES[dtype])
    x = np.broadcast_to(row, (5, 33))
    t = rng.integers(0, 33, 5)
    check(op, x, t, Case(x, t, truth_of_rows(x, t)), (5,), -1)
    column = rng.standard_normal((5, 1)).astype(DTYPES[dtype])
    x = np.broadcast_to(column, (5, 33))
    check(op, x, t, Case(x, t, truth_of_rows(x, t)), (5,), -1)


@pytest.mark.parametrize("op", ALL_OPS)
def test_foreign_byte_order_is_right_or_refused(engine: Engine, op: Op) -> None:
    case = make_case(5, 33, "float32")
    try:
        results = op.run(case.x.astype(case.x.dtype.newbyteorder()), case.t)
    except DTypeError:
        return
    for quantity, got in results.items():
        assert_within(quantity, got, case.truth[quantity], case.truth.units[quantity], np.float32)


# ---- what is not an array of logits ------------------------------------------------------------------


@pytest.mark.parametrize("op", ALL_OPS)
def test_logits_of_other_dtypes_are_refused(engine: Engine, op: Op) -> None:
    for dtype in (np.bool_, np.complex64, np.complex128, object, "U3", "M8[s]", np.longdouble):
        if np.dtype(dtype) == np.float64:
            continue  # platforms whose long double is a double
        with pytest.raises(DTypeError) as caught:
            op.run(np.zeros((2, 3), dtype=dtype), np.array([0, 1]))
        assert str(np.dtype(dtype)) in str(caught.value)


@pytest.mark.parametrize("op", ALL_OPS)
def test_axes_that_do_not_exist(engine: Engine, op: Op) -> None:
    x, t = np.zeros((2, 3)), np.array([0, 1])
    for axis in (2, -3, 17):
        with pytest.raises(ShapeError, match="axis"):
            op.run(x, t, axis=axis)
    for axis in (None, 1.0, "1", (0, 1)):
        with pytest.raises((FastnllError, TypeError), match="axis"):
            op.run(x, t, axis=axis)
    with pytest.raises(ShapeError):
        op.run(np.float64(1.0), np.array(0))


def test_ragged_lists_are_refused(engine: Engine) -> None:
    with pytest.raises((FastnllError, ValueError)):
        fn.softmax([[1.0, 2.0], [3.0]])
