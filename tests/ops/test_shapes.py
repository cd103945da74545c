"""Every op, engine and dtype on the shapes around the vector widths, against the longhand truth."""

from __future__ import annotations

import numpy as np
import pytest

import fastnll as fn
from tests.cases import DTYPES, OP_DTYPES, OPS, ROWS, WIDE, WIDTHS, Engine, Op, make_case, result_dtype
from tests.ops.oracle import assert_within


def check(op: Op, dtype: str, n: int, v: int, kind: str = "normal", **kw: object) -> None:
    """Compare one call with the truth, and hold shapes, dtypes and layout of the results."""
    case = make_case(n, v, dtype, kind)
    for quantity, got in op.run(case.x, case.t, **kw).items():
        name = f"{op.name} {quantity} {dtype} {kind} N={n} V={v}"
        assert got.dtype == result_dtype(quantity, dtype), f"{name}: dtype {got.dtype}"
        assert got.flags.c_contiguous, f"{name}: not contiguous"
        assert got.flags.writeable, f"{name}: not a fresh array"
        assert_within(name, got, case.truth[quantity], case.truth.units[quantity], DTYPES[dtype])


@pytest.mark.parametrize(("op", "dtype"), OP_DTYPES)
def test_widths(engine: Engine, op: Op, dtype: str) -> None:
    for v in WIDTHS:
        for n in ROWS:
            check(op, dtype, n, v)


@pytest.mark.parametrize(("op", "dtype"), OP_DTYPES)
def test_wide_rows(engine: Engine, op: Op, dtype: str) -> None:
    for v in WIDE:
        for n in (1, 3) if v > 2048 else (2, 17):
            check(op, dtype, n, v)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_without_a_row_axis(engine: Engine, dtype: str) -> None:
    case = make_case(1, 33, dtype)
    x, t = case.x[0], case.t[0]
    for op in OPS.values():
        for quantity, got in op.run(x, t).items():
            want, units = case.truth[quantity][0], case.truth.units[quantity][0]
            assert_within(f"{op.name} {quantity}", got, want, units, DTYPES[dtype])
    assert isinstance(fn.cross_entropy(x, t), float)
    assert isinstance(fn.cross_entropy(x, int(t)), float)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_logsumexp_keepdims(engine: Engine, axis: int, keepdims: bool) -> None:
    x = np.random.default_rng(1).standard_normal((3, 4, 5))
    want = np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))
    got = fn.logsumexp(x, axis, keepdims=keepdims)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize("integers", ["int8", "uint8", "int64", "list"])
def test_integers_and_lists_become_float64(engine: Engine, integers: str) -> None:
    rows = [[3, 0, 1], [2, 2, 7]]
    x = rows if integers == "list" else np.array(rows, dtype=integers)
    t = np.array([0, 1])
    for op in OPS.values():
        exact = op.run(np.array(rows, dtype=np.float64), t)
        for quantity, got in op.run(x, t).items():
            assert got.dtype == np.float64
            np.testing.assert_array_equal(got, exact[quantity])


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_batches(engine: Engine, dtype: str) -> None:
    for shape in ((0, 5), (4, 0, 5), (0, 0, 5)):
        x, t = np.zeros(shape, DTYPES[dtype]), np.zeros(shape[:-1], np.int64)
        assert fn.softmax(x).shape == fn.log_softmax(x).shape == shape
        assert fn.logsumexp(x).shape == fn.cross_entropy(x, t, reduction="none").shape == shape[:-1]
        assert fn.cross_entropy(x, t, reduction="sum") == 0.0
        assert np.isnan(fn.cross_entropy(x, t, reduction="mean"))
        assert fn.cross_entropy(x, t, empty="zero") == 0.0
        loss, grad = fn.cross_entropy_value_and_grad(x, t)
        assert np.isnan(loss)
        assert grad.shape == shape
        assert grad.dtype == DTYPES[dtype]
        with pytest.raises(fn.errors.FastnllError):
            fn.cross_entropy(x, t, empty="raise")


@pytest.mark.parametrize("n", [0, 1, 4])
def test_no_classes_is_an_error(engine: Engine, n: int) -> None:
    x, t = np.zeros((n, 0)), np.zeros(n, np.int64)
    with pytest.raises(fn.errors.ShapeError):
        fn.cross_entropy(x, t)
    with pytest.raises(fn.errors.ShapeError):
        fn.cross_entropy_value_and_grad(x, t)
