"""Sizes around the widths of tiles, panels and vectors; dtypes; leading axes; strides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import DTYPES, Engine
from tests.linear.problems import assert_grads, make_head, smallest_bound, truth

Array = np.ndarray[Any, Any]
SIZES = [
    (1, 1, 1),
    (1, 3, 2),
    (2, 16, 17),
    (5, 7, 225),
    (13, 31, 100),
    (14, 32, 224),
    (15, 33, 448),
    (17, 64, 191),
    (33, 65, 193),
    (70, 100, 451),
    (3, 300, 50),
    (130, 40, 3000),
]
LOSS = {"float64": 1e-12, "float32": 3e-6, "float16": 3e-6, "bfloat16": 3e-6}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "v"), SIZES)
def test_sizes_and_dtypes(engine: Engine, n: int, d: int, v: int, dtype: str) -> None:
    head = make_head(n, d, v, dtype)
    want = truth(head)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments)
    np.testing.assert_allclose(loss, want.loss, rtol=LOSS[dtype], atol=1e-6 if dtype != "float64" else 1e-14)
    np.testing.assert_allclose(fn.linear_cross_entropy(*arguments), want.loss, rtol=LOSS[dtype], atol=1e-6)
    assert_grads(grads, want, dtype)
    for a in grads:
        assert a is not None
        assert a.dtype == (np.float64 if dtype == "float64" else np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("d", [801, 1030])
def test_more_features_than_a_panel_holds(engine: Engine, d: int, dtype: str) -> None:
    head = make_head(260, d, 70, dtype)
    want = truth(head)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments)
    np.testing.assert_allclose(loss, want.loss, rtol=LOSS[dtype])
    assert_grads(grads, want, dtype)
    np.testing.assert_allclose(fn.linear_cross_entropy(*arguments), want.loss, rtol=LOSS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 7, 32, 33])
def test_what_lies_between_rows_is_not_read(engine: Engine, d: int, dtype: str) -> None:
    """Rows of a wider array whose other columns are NaN."""
    head = make_head(20, d, 50, dtype)
    views = []
    for a in (head.hidden, head.weight):
        wide = np.full((a.shape[0], d + 3), np.nan, a.dtype)
        wide[:, :d] = a
        views.append(wide[:, :d])
    want, want_grads = fn.linear_cross_entropy_value_and_grad(head.hidden, head.weight, head.targets, head.bias)
    loss, grads = fn.linear_cross_entropy_value_and_grad(*views, head.targets, head.bias)
    assert loss == want
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_in_the_inputs_dtype(engine: Engine, dtype: str) -> None:
    """They are the unrounded sums of all chunks, rounded once."""
    head = make_head(70, 33, 300, dtype)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    least = smallest_bound(hidden=head.hidden, weight=head.weight, grad_dtype=dtype)
    for bound in (None, least):
        options: dict[str, Any] = {"max_memory": bound, "grad_output": 70.0}
        _, wide = fn.linear_cross_entropy_value_and_grad(*arguments, grad_output=70.0)
        _, narrow = fn.linear_cross_entropy_value_and_grad(*arguments, grad_dtype=DTYPES[dtype], **options)
        for a, b in zip(narrow, wide, strict=True):
            assert a is not None
            assert b is not None
            assert a.dtype == DTYPES[dtype]
            if bound is None:
                np.testing.assert_array_equal(a.astype(np.float32), b.astype(DTYPES[dtype]).astype(np.float32))
            else:  # another cut of the rows
                eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
                np.testing.assert_allclose(a.astype(np.float32), b, rtol=eps, atol=1e-4)


def test_leading_axes(engine: Engine) -> None:
    head = make_head(24, 6, 20)
    want = truth(head, reduction="none")
    for shape in ((24,), (2, 12), (2, 3, 4), (4, 1, 6)):
        hidden, t = head.hidden.reshape(*shape, 6), head.targets.reshape(shape)
        loss, grads = fn.linear_cross_entropy_value_and_grad(hidden, head.weight, t, head.bias, reduction="none")
        assert loss.shape == shape
        np.testing.assert_allclose(loss.reshape(-1), want.loss, rtol=1e-12)
        assert grads.hidden is not None
        assert grads.hidden.shape == hidden.shape
        assert_grads(grads._replace(hidden=grads.hidden.reshape(24, 6)), want)


def test_one_row_without_leading_axes(engine: Engine) -> None:
    head = make_head(1, 6, 20)
    loss, grads = fn.linear_cross_entropy_value_and_grad(head.hidden[0], head.weight, int(head.targets[0]), head.bias)
    want = truth(head)
    assert loss == pytest.approx(want.loss, rel=1e-12)
    assert grads.hidden is not None
    np.testing.assert_allclose(grads.hidden, want.hidden[0], rtol=1e-10)


def test_options_of_each_row_under_several_leading_axes(engine: Engine) -> None:
    """Masks of classes by row, dense targets and ignored rows, whose parts are no single slice of the arrays."""
    rng = np.random.default_rng(5)
    b, t, v = 3, 8, 20
    head = make_head(b * t, 6, v)
    mask = rng.random((b, t, v)) < 0.8
    mask[..., 0] = True
    probs = np.where(mask, rng.random((b, t, v)), 0.0)
    probs /= probs.sum(axis=-1, keepdims=True)
    rows = rng.random((b, t)) < 0.6
    for class_mask in (mask, mask[:1], mask[:, :1]):
        full = np.broadcast_to(class_mask, (b, t, v)).reshape(-1, v)
        kept = np.where(np.broadcast_to(class_mask, (b, t, v)), probs, 0.0)
        want = truth(head, kept.reshape(-1, v), class_mask=full, mask=rows.reshape(-1))
        hidden = head.hidden.reshape(b, t, 6)
        loss, grads = fn.linear_cross_entropy_value_and_grad(
            hidden, head.weight, kept, head.bias, class_mask=class_mask, mask=rows
        )
        assert loss == pytest.approx(want.loss, rel=1e-11)
        assert grads.hidden is not None
        assert_grads(grads._replace(hidden=grads.hidden.reshape(-1, 6)), want)


def test_strides(engine: Engine) -> None:
    head = make_head(24, 6, 40, "float32")
    want = fn.linear_cross_entropy_value_and_grad(*head[:2], head.targets, head.bias)
    wide = np.full((48, 12), np.nan, np.float32)
    wide[::2, ::2] = head.hidden
    tall = np.full((80, 6), np.nan, np.float32)
    tall[::2] = head.weight
    layouts = {
        "rows apart": (wide[::2, ::2].copy(), tall[::2], head.bias),
        "elements apart": (wide[::2, ::2], head.weight, head.bias),
        "columns first": (np.asfortranarray(head.hidden), np.asfortranarray(head.weight), head.bias),
        "reversed": (head.hidden[::-1][::-1], head.weight[::-1][::-1], np.repeat(head.bias, 2)[::2]),
        "read only": head[:3],
    }
    for a in head[:3]:
        a.setflags(write=False)
    for name, (h, w, b) in layouts.items():
        loss, grads = fn.linear_cross_entropy_value_and_grad(h, w, head.targets, b)
        assert loss == want[0], name
        for a, right in zip(grads, want[1], strict=True):
            np.testing.assert_array_equal(a, right, err_msg=name)


def test_no_rows(engine: Engine) -> None:
    head = make_head(4, 6, 20)
    loss, grads = fn.linear_cross_entropy_value_and_grad(head.hidden[:0], head.weight, head.targets[:0], head.bias)
    assert np.isnan(loss)
    assert grads.hidden is not None
    assert grads.hidden.shape == (0, 6)
    assert not np.any(grads.weight)
    assert not np.any(grads.bias)
    everything = np.full(4, -100)
    value = fn.linear_cross_entropy(*head[:2], everything, empty="zero")
    loss, grads = fn.linear_cross_entropy_value_and_grad(*head[:2], everything, head.bias, empty="zero")
    assert value == loss == 0.0
    assert not any(np.any(a) for a in grads)
    with pytest.raises(fn.OptionError, match="at least one live row"):
        fn.linear_cross_entropy(*head[:2], everything, empty="raise")


def test_infinite_and_huge_logits_take_the_careful_path(engine: Engine) -> None:
    """Rows that the states of tiles cannot finish: NaN, infinities, huge logits; classes masked through the bias."""
    head = make_head(9, 4, 500)
    hidden, bias = head.hidden.copy(), head.bias.copy()
    bias[300:] = -np.inf
    t = head.targets % 300
    for row, value in ((1, 1e7), (3, np.nan), (4, -1e9), (5, 1e300)):
        hidden[row, 0] = value
    with np.errstate(all="ignore"):
        x = hidden @ head.weight.T + bias
    want = fn.cross_entropy(x, t, reduction="none")
    got = fn.linear_cross_entropy(hidden, head.weight, t, bias, reduction="none")
    np.testing.assert_allclose(got, want, rtol=1e-10)
    assert np.isnan(got[3])
    assert np.isfinite(got[[0, 2, 6, 7, 8]]).all()
