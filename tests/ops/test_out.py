"""`out=`: fresh, strided, in place, wrong, and memory that overlaps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.errors import DTypeError, FastnllError, ShapeError
from tests.cases import DTYPES, FULL, Engine, Op, make_case
from tests.ops.layouts import (
    WITH_OUT,
    Layout,
    all_reversed,
    by_layout,
    check,
    every_second,
    fortran,
    one_element_off,
    read_only,
)
from tests.ops.oracle import assert_same_bits, assert_within

Array = np.ndarray[Any, Any]


@by_layout
@pytest.mark.parametrize("op", WITH_OUT)
def test_out_of_any_layout(engine: Engine, op: Op, layout: Layout) -> None:
    """The answer is in `out`, which is returned, and nothing beside it is written."""
    if layout is read_only:
        with pytest.raises(FastnllError):
            op.run(np.zeros((3, 5)), np.zeros(3, int), out=layout(np.zeros((3, 5))))
        return
    for dtype, (n, v) in itertools.product(DTYPES, ((17, 33), (5, 300), (70, 3))):
        case = make_case(n, v, dtype)
        out = layout(np.full((n, v), 7, DTYPES[dtype]))
        around = out.base if isinstance(out.base, np.ndarray) else out
        while isinstance(around.base, np.ndarray):
            around = around.base
        before = around.copy()
        result = list(op.run(case.x, case.t, out=out).values())[-1]
        assert result is out
        check(op, case.x, case.t, case, (n,), -1, out=out)
        out[...] = 7
        assert around.tobytes() == before.tobytes(), "memory beside out was written"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", WITH_OUT)
def test_out_along_another_axis(engine: Engine, op: Op, dtype: str) -> None:
    case = make_case(15, 17, dtype)
    for axis in (0, 1, -1):
        x = np.moveaxis(case.x.reshape(3, 5, 17), -1, axis)
        for layout in (np.ascontiguousarray, fortran, every_second, all_reversed):
            check(op, x, case.t.reshape(3, 5), case, (3, 5), axis, out=layout(np.zeros(x.shape, x.dtype)))


@by_layout
@pytest.mark.parametrize("op", WITH_OUT)
def test_in_place(engine: Engine, op: Op, layout: Layout) -> None:
    """`out` is the logits: the same bits as into another array of that layout."""
    if layout is read_only:
        x = layout(np.zeros((3, 5)))
        with pytest.raises(FastnllError):
            op.run(x, np.zeros(3, int), out=x)
        return
    shapes = ((17, 33, -1), (70, 2, -1), (5, 300, -1), (5, 33, 0), (2, 2049, -1))
    for dtype, (n, v, axis) in itertools.product(DTYPES, shapes):
        case = make_case(n, v, dtype)
        straight = np.moveaxis(case.x, -1, axis)
        apart = layout(np.zeros(straight.shape, straight.dtype))
        want = op.run(layout(straight), case.t, axis=axis, out=apart)
        x = layout(straight)
        got = op.run(x, case.t, axis=axis, out=x)
        for quantity in got:
            assert_same_bits(f"{op.name} {quantity} in place", got[quantity], want[quantity])
        x = layout(straight)
        check(op, x, case.t, case, (n,), axis, out=x)


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("op", WITH_OUT)
def test_wrong_out(engine: Engine, op: Op, dtype: str) -> None:
    case = make_case(5, 33, dtype)
    other = np.float32 if dtype == "float64" else np.float64
    for shape in ((5, 32), (33, 5), (5,), (1, 5, 33), (4, 33), (5, 34)):
        with pytest.raises(ShapeError, match="out"):
            op.run(case.x, case.t, out=np.zeros(shape, DTYPES[dtype]))
    for wrong in (other, np.int32, np.float16, np.complex64):
        with pytest.raises(DTypeError, match="out"):
            op.run(case.x, case.t, out=np.zeros((5, 33), wrong))
    with pytest.raises((FastnllError, TypeError), match="out"):
        op.run(case.x, case.t, out=[[0.0] * 33] * 5)
    for repeated in (np.broadcast_to(np.zeros((1, 33), case.x.dtype), (5, 33)), np.zeros((5, 33), case.x.dtype)):
        strides = (0, repeated.itemsize) if repeated.flags.writeable else repeated.strides
        out = np.lib.stride_tricks.as_strided(repeated, (5, 33), strides)
        with pytest.raises(FastnllError):
            op.run(case.x, case.t, out=out)


@pytest.mark.parametrize("dtype", FULL)
def test_logsumexp_out(engine: Engine, dtype: str) -> None:
    case = make_case(17, 33, dtype)
    units = case.truth.units["lse"]
    for layout in (np.ascontiguousarray, every_second, all_reversed, one_element_off):
        out = layout(np.zeros(17, DTYPES[dtype]))
        assert fn.logsumexp(case.x, out=out) is out
        assert_within("logsumexp out", out, case.truth.lse, units, case.x.dtype)
        out = layout(np.zeros((17, 1), DTYPES[dtype]))
        assert fn.logsumexp(case.x, keepdims=True, out=out) is out
        assert_within("logsumexp out", out[:, 0], case.truth.lse, units, case.x.dtype)
    with pytest.raises(ShapeError, match="out"):
        fn.logsumexp(case.x, out=np.zeros(16, DTYPES[dtype]))
    with pytest.raises(ShapeError, match="out"):
        fn.logsumexp(case.x, keepdims=True, out=np.zeros(17, DTYPES[dtype]))
    with pytest.raises(DTypeError, match="out"):
        fn.logsumexp(case.x, out=np.zeros(17, np.int64))
    with pytest.raises(FastnllError):
        fn.logsumexp(case.x, out=read_only(np.zeros(17, DTYPES[dtype])))


def test_logsumexp_out_in_the_logits(engine: Engine) -> None:
    """The result may lie in the logits' own memory: either right or refused."""
    for view in (np.s_[:, 0], np.s_[0, :17], np.s_[:, -1], np.s_[3, 16::-1]):
        case = make_case(17, 33, "float64")
        x = case.x.copy()
        try:
            out = fn.logsumexp(x, out=x[view])
        except FastnllError:
            assert_same_bits("refused, yet written", x, case.x)
            continue
        assert_within("logsumexp into its logits", out, case.truth.lse, case.truth.units["lse"], x.dtype)


def _overlaps(n: int, v: int, dtype: Any) -> dict[str, tuple[Array, Array]]:
    """Return pairs (x, out) of shape (n, v) that share some of their memory."""

    def flat() -> Array:
        return np.zeros(2 * n * v + 2 * v, dtype)

    def shifted(by: int) -> tuple[Array, Array]:
        buffer, size = flat(), n * v
        first, second = buffer[v : v + size].reshape(n, v), buffer[v + by : v + by + size].reshape(n, v)
        return first, second

    square = np.zeros((n, n), dtype)
    twins = np.zeros((n, v), dtype)
    halves = flat()[: 2 * n * v].reshape(n, 2 * v)
    return {
        "one element later": shifted(1),
        "one element earlier": shifted(-1),
        "one row later": shifted(v),
        "one row earlier": shifted(-v),
        "half a row later": shifted(v // 2),
        "reversed rows": (twins, twins[::-1]),
        "reversed classes": (twins, twins[:, ::-1]),
        "transposed": (square, square.T),
        "half a row beside": (halves[:, :v], halves[:, v // 2 : v // 2 + v]),
        "interleaved": (halves[:, ::2], halves[:, 1::2]),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", WITH_OUT)
def test_overlapping_out_is_right_or_refused(engine: Engine, op: Op, dtype: str) -> None:
    for n, v in ((8, 5), (70, 33), (5, 300)):
        for name, (x, out) in _overlaps(n, v, DTYPES[dtype]).items():
            case = make_case(*x.shape, dtype)
            x[...] = case.x
            try:
                results = op.run(x, case.t, out=out)
            except FastnllError:
                assert_same_bits(f"{name}: refused, yet written", x, case.x)
                assert name != "interleaved", "no element is shared: there is nothing to refuse"
                continue
            for quantity, got in results.items():
                want, units = case.truth[quantity], case.truth.units[quantity]
                assert_within(f"{op.name} {quantity}, out {name}", got, want, units, x.dtype)


def test_gradient_over_the_targets_is_right_or_refused(engine: Engine) -> None:
    """Targets that live in the memory the gradient is written to cannot be read twice."""
    case = make_case(70, 33, "float32")
    out = np.zeros((70, 33), np.float32)
    for place in (np.s_[:70], np.s_[-70:], np.s_[69::-1]):
        t = out.reshape(-1).view(np.int32)[place]
        t[...] = case.t
        try:
            loss, grad = fn.cross_entropy_value_and_grad(case.x, t, reduction="none", out=out)
        except FastnllError:
            continue
        assert_within("loss", loss, case.truth.loss, case.truth.units["loss"], np.float32)
        assert_within("gradient", grad, case.truth.grad, case.truth.units["grad"], np.float32)
