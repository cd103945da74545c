"""Chunks and threads leave no trace; ignored rows are not read; gradients go where they are sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import DTYPES, Engine
from tests.linear.problems import TOLERANCE, assert_grads, make_head, smallest_bound, truth

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(engine: Engine, dtype: str) -> None:
    head = make_head(300, 40, 3000, dtype)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    want, right = fn.linear_cross_entropy_value_and_grad(*arguments, threads=1)
    value = fn.linear_cross_entropy(*arguments, threads=1)
    filtered = fn.linear_cross_entropy_value_and_grad(*arguments, filter=0.05, threads=1)[1]
    for threads in (2, 3, 8):
        loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments, threads=threads)
        assert loss == want
        for a, b in zip(grads, right, strict=True):
            np.testing.assert_array_equal(a, b)
        assert fn.linear_cross_entropy(*arguments, threads=threads) == value
        again = fn.linear_cross_entropy_value_and_grad(*arguments, filter=0.05, threads=threads)[1]
        for a, b in zip(again, filtered, strict=True):
            np.testing.assert_array_equal(a, b)
        assert again.filtered == filtered.filtered


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_are_the_whole_to_rounding(engine: Engine, dtype: str) -> None:
    head = make_head(150, 9, 1000, dtype)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    want, right = fn.linear_cross_entropy_value_and_grad(*arguments)
    least = smallest_bound(hidden=head.hidden, weight=head.weight)
    cuts = set()
    for bound in (least, 2 * least, 4 * least, None):
        cuts.add(fn.memory_plan(head.hidden, head.weight, max_memory=bound).chunks)
        loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments, max_memory=bound)
        assert loss == pytest.approx(want, rel=1e-6 if dtype != "float64" else 1e-14)
        for a, b in zip(grads, right, strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * np.abs(b).max())
    assert len(cuts) > 1
    assert max(cuts) > 4
    small = smallest_bound(hidden=head.hidden, weight=head.weight, wrt=())
    value = fn.linear_cross_entropy(*arguments, max_memory=small)
    assert value == pytest.approx(want, rel=1e-6 if dtype != "float64" else 1e-14)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_ignored_rows_are_never_read(engine: Engine, softcap: float | None) -> None:
    head = make_head(90, 12, 300)
    rng = np.random.default_rng(0)
    dead = rng.random(90) < 0.5
    t = np.where(dead, -100, rng.integers(0, 300, 90))
    want = truth(head, t, softcap=softcap)
    hidden = head.hidden.copy()
    hidden[dead] = [np.nan, np.inf, -np.inf] * 4
    for ways in ({"targets": t}, {"targets": np.where(dead, 7, t), "mask": ~dead}):
        loss, grads = fn.linear_cross_entropy_value_and_grad(
            hidden, head.weight, bias=head.bias, softcap=softcap, **ways
        )
        assert loss == pytest.approx(want.loss, rel=1e-12)
        assert_grads(grads, want)
        assert grads.hidden is not None
        assert not grads.hidden[dead].any()
        value = fn.linear_cross_entropy(hidden, head.weight, bias=head.bias, softcap=softcap, **ways)
        assert value == pytest.approx(want.loss, rel=1e-12)
    weighted = {"token_weight": np.where(dead, 0.0, 1.0)}
    _, grads = fn.linear_cross_entropy_value_and_grad(
        hidden, head.weight, np.where(dead, 3, t), head.bias, softcap=softcap, **weighted
    )
    assert_grads(grads, want)


@pytest.mark.parametrize("wrt", [("hidden",), ("weight",), ("bias",), ("hidden", "bias"), "weight"])
def test_each_gradient_is_optional(engine: Engine, wrt: Any) -> None:
    head = make_head(40, 12, 300)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    want, right = fn.linear_cross_entropy_value_and_grad(*arguments)
    loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments, wrt=wrt)
    assert loss == want
    names = (wrt,) if isinstance(wrt, str) else wrt
    for name in ("hidden", "weight", "bias"):
        if name in names:
            np.testing.assert_array_equal(getattr(grads, name), getattr(right, name))
        else:
            assert getattr(grads, name) is None
    assert fn.linear_cross_entropy_value_and_grad(*arguments[:3])[1].bias is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_and_accumulate(engine: Engine, dtype: str) -> None:
    head = make_head(90, 13, 300, dtype)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    _, right = fn.linear_cross_entropy_value_and_grad(*arguments)
    out = fn.LinearGrads(*(np.full_like(a, np.nan) for a in right))
    loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments, out=out)
    for a, given, b in zip(grads, out, right, strict=True):
        assert a is given
        np.testing.assert_array_equal(a, b)
    before = [a.copy() for a in out]
    again, _ = fn.linear_cross_entropy_value_and_grad(*arguments, out=out, accumulate=True)
    assert again == loss
    for a, old, b in zip(out, before, right, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, old + b, rtol=1e-5 if dtype != "float64" else 1e-13, atol=1e-7 * scale)
    made = fn.linear_cross_entropy_value_and_grad(*arguments, out=(None, out.weight, None), wrt=("weight", "bias"))[1]
    assert made.weight is out.weight
    np.testing.assert_array_equal(made.bias, right.bias)


def test_accumulate_over_two_halves_is_the_whole(engine: Engine) -> None:
    """Gradient accumulation as training does it: sums, with the division at the end."""
    head = make_head(64, 13, 300, "float32")
    whole = fn.linear_cross_entropy_value_and_grad(*head[:2], head.targets, head.bias, normalizer=55.0)
    out = (np.zeros((32, 13), np.float32), np.zeros((300, 13), np.float32), np.zeros(300, np.float32))
    total = 0.0
    for half in (slice(0, 32), slice(32, 64)):
        part = (head.hidden[half], head.weight, head.targets[half], head.bias)
        total += fn.linear_cross_entropy_value_and_grad(*part, normalizer=55.0, out=out, accumulate=True)[0]
    assert total == pytest.approx(whole[0], rel=1e-6)
    np.testing.assert_allclose(out[1], whole[1].weight, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(out[2], whole[1].bias, rtol=1e-5, atol=1e-8)


def test_accumulate_into_16_bit_buffers(engine: Engine) -> None:
    head = make_head(90, 13, 300, "bfloat16")
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    _, right = fn.linear_cross_entropy_value_and_grad(*arguments, grad_output=90.0)
    start = [np.full_like(a, 0.5).astype(DTYPES["bfloat16"]) for a in right]
    fn.linear_cross_entropy_value_and_grad(*arguments, out=tuple(start), accumulate=True, grad_output=90.0)
    live = head.targets != -100
    for a, b in zip(start, right, strict=True):
        np.testing.assert_array_equal(a.astype(np.float32), (b + np.float32(0.5)).astype(a.dtype).astype(np.float32))
    assert live.any()


def test_padding_of_the_vocabulary(engine: Engine) -> None:
    """Classes that do not take part are not read; their gradients are 0, or what they were."""
    head = make_head(40, 12, 300)
    t = head.targets % 250
    want = truth(head._replace(weight=head.weight[:250], bias=head.bias[:250]), t)
    weight, bias = head.weight.copy(), head.bias.copy()
    weight[250:], bias[250:] = np.nan, np.inf
    loss, grads = fn.linear_cross_entropy_value_and_grad(head.hidden, weight, t, bias, valid_classes=250)
    assert loss == pytest.approx(want.loss, rel=1e-12)
    assert grads.weight is not None
    assert grads.bias is not None
    assert not grads.weight[250:].any()
    assert not grads.bias[250:].any()
    assert_grads(fn.LinearGrads(grads.hidden, grads.weight[:250], grads.bias[:250]), want)
    out = fn.LinearGrads(*(np.ones_like(a) for a in grads))
    fn.linear_cross_entropy_value_and_grad(head.hidden, weight, t, bias, valid_classes=250, out=out, accumulate=True)
    assert (out.weight[250:] == 1.0).all()  # type: ignore[index]
