"""Targets: every integer dtype and layout, and what is said of wrong ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.errors import DTypeError, LabelError, ShapeError
from tests.cases import DTYPES, TARGET_DTYPES, Engine, frozen, make_case
from tests.ops.losses import by_loss, losses_and_grad
from tests.ops.oracle import assert_same_bits

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("target_dtype", TARGET_DTYPES)
def test_every_integer_dtype(engine: Engine, target_dtype: str) -> None:
    for dtype, (n, v) in itertools.product(DTYPES, ((70, 100), (17, 3), (3, 128))):
        case = make_case(n, v, dtype)
        want = losses_and_grad(case.x, case.t)
        t = frozen(case.t.astype(target_dtype))[0]
        for kept, got in zip(want, losses_and_grad(case.x, t), strict=True):
            assert_same_bits(target_dtype, got, kept)
        assert_same_bits("selected", fn.selected_log_probs(case.x, t), fn.selected_log_probs(case.x, case.t))
        log_probs = case.truth.log_probs.astype(np.float64)
        assert fn.nll_loss(log_probs, t) == fn.nll_loss(log_probs, case.t)


@pytest.mark.parametrize("target_dtype", TARGET_DTYPES)
def test_target_layouts(engine: Engine, target_dtype: str) -> None:
    case = make_case(70, 33, "float32")
    want = losses_and_grad(case.x, case.t)
    t = case.t.astype(target_dtype)
    every_third = np.full(210, 99, target_dtype)
    every_third[::3] = t
    unaligned = np.zeros(t.nbytes + 1, np.uint8)[1:].view(target_dtype)
    unaligned[:] = t
    column = np.full((70, 4), 99, target_dtype)
    column[:, 2] = t
    for layout in (every_third[::3], t[::-1].copy()[::-1], unaligned, column[:, 2]):
        for kept, got in zip(want, losses_and_grad(case.x, layout), strict=True):
            assert_same_bits(f"targets with strides {layout.strides}", got, kept)
    x, square = case.x.reshape(7, 10, 33), t.reshape(7, 10)
    for layout in (square, np.asfortranarray(square), np.ascontiguousarray(square.T).T):
        for kept, got in zip(want, losses_and_grad(x, layout), strict=True):
            assert_same_bits("targets of two axes", got.reshape(kept.shape), kept)
    same = np.broadcast_to(t[:1], (70,))
    for kept, got in zip(losses_and_grad(case.x, same.copy()), losses_and_grad(case.x, same), strict=True):
        assert_same_bits("one target for all", got, kept)


def test_targets_in_lists_and_foreign_byte_order(engine: Engine) -> None:
    case = make_case(5, 33, "float64")
    want = losses_and_grad(case.x, case.t)
    for kept, got in zip(want, losses_and_grad(case.x, case.t.tolist()), strict=True):
        assert_same_bits("a list", got, kept)
    try:
        swapped = losses_and_grad(case.x, case.t.astype(np.dtype(np.int32).newbyteorder()))
    except DTypeError:
        return
    for kept, got in zip(want, swapped, strict=True):
        assert_same_bits("foreign byte order", got, kept)


@by_loss
def test_targets_that_are_no_integers(engine: Engine, loss: Callable[..., Any]) -> None:
    x = make_case(3, 5, "float64").x
    for dtype in (np.float32, np.float64, np.float16):
        with pytest.raises(DTypeError, match=r"targets.*integer") as caught:
            loss(x, np.array([0, 1, 2], dtype))
        message = str(caught.value)
        assert str(np.dtype(dtype)) in message, "the message must name what it got"
        assert "astype" in message, f"the message must say what to do: {message}"
    for other in (np.zeros(3, bool), np.zeros(3, object), np.zeros(3, complex), np.array(["a", "b", "c"])):
        with pytest.raises(DTypeError, match="targets"):
            loss(x, other)


@by_loss
def test_targets_of_a_wrong_shape(engine: Engine, loss: Callable[..., Any]) -> None:
    x = make_case(12, 5, "float64").x
    cube = x.reshape(3, 4, 5)
    for logits, shape, axis in (
        (x, (11,), -1),
        (x, (12, 1), -1),
        (x, (1,), -1),
        (x, (), -1),
        (x, (12,), 0),
        (x, (5,), -1),
        (cube, (12,), -1),
        (cube, (4, 3), -1),
        (cube, (3, 4), 0),
        (cube, (3, 4), 1),
        (cube, (3, 1), -1),
    ):
        with pytest.raises(ShapeError, match="targets") as caught:
            loss(logits, np.zeros(shape, np.int64), axis=axis)
        expected = tuple(np.delete(logits.shape, axis).tolist())
        assert str(expected) in str(caught.value)
        assert str(shape) in str(caught.value)


# ---- out of range ------------------------------------------------------------------------------------


@by_loss
@pytest.mark.parametrize("target_dtype", ["int8", "int32", "int64", "uint8", "uint16", "uint64"])
def test_targets_out_of_range(engine: Engine, loss: Callable[..., Any], target_dtype: str) -> None:
    """The error names the first bad position as the user indexes it, its value, the range, how many."""
    x = make_case(70, 33, "float64").x
    t = make_case(70, 33, "float64").t.astype(target_dtype).reshape(7, 10)
    bad = 77
    for i, j in ((2, 3), (2, 9), (5, 0), (6, 9)):
        t[i, j] = bad
    t[5, 5] = 33  # one past the end
    for layout in (t, np.asfortranarray(t), t[::-1].copy()[::-1], np.repeat(t, 2, axis=1)[:, ::2]):
        with pytest.raises(LabelError) as caught:
            loss(x.reshape(7, 10, 33), layout)
        message = str(caught.value)
        assert "(2, 3)" in message
        assert str(bad) in message
        assert "33" in message or "32" in message, f"the allowed range is missing: {message}"
        assert "5" in message.replace("(2, 3)", ""), f"how many are bad is missing: {message}"
        assert "targets" in message
        assert isinstance(caught.value, IndexError)
        assert isinstance(caught.value, ValueError)
    one = t.ravel().copy()
    one[:] = 1
    one[69] = bad
    with pytest.raises(LabelError, match=r"69") as caught:
        loss(x, one)
    assert str(bad) in str(caught.value)


@by_loss
@pytest.mark.parametrize(
    ("target_dtype", "value"),
    [
        ("int8", -1), ("int64", -1), ("int64", -99), ("int64", 2**63 - 1), ("int64", -(2**63)),
        ("int64", 2**32), ("int64", 2**32 - 100), ("uint8", 156), ("uint16", 2**16 - 100),
        ("uint32", 2**32 - 100), ("uint64", 2**64 - 100), ("uint64", 2**63), ("uint64", 2**64 - 1),
    ],
)  # fmt: skip
def test_no_value_wraps_into_the_range_or_into_ignore(
    engine: Engine, loss: Callable[..., Any], target_dtype: str, value: int
) -> None:
    t = np.array([1, 0, 1], target_dtype)
    t[1] = value
    with pytest.raises(LabelError) as caught:
        loss(make_case(3, 5, "float32").x, t)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("v", [1, 7, 8, 16, 64])
def test_first_value_past_the_classes(engine: Engine, v: int) -> None:
    case = make_case(17, v, "float32")
    for row in (0, 8, 16):
        t = case.t.copy()
        t[row] = v
        with pytest.raises(LabelError, match=rf"\({row},\)|\b{row}\b"):
            fn.cross_entropy(case.x, t)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_target_leaves_the_logits_alone(engine: Engine, dtype: str) -> None:
    """In place, an error must come before the first gradient is written."""
    case = make_case(70, 33, dtype)
    x, t = case.x.copy(), case.t.copy()
    t[69] = 33
    with pytest.raises(LabelError):
        fn.cross_entropy_value_and_grad(x, t, out=x)
    assert_same_bits("logits after the error", x, case.x)
