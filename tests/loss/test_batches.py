"""Reductions over sequences, next-token shifts, splits, packing, empty batches, upstream gradients."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import Engine
from tests.loss.tables import batch

Array = np.ndarray[Any, Any]
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-15}
RAGGED = np.array([0, 3, 3, 4, 9, 12])


def test_sequences_are_the_last_axis_of_the_targets(engine: Engine) -> None:
    x, t = batch(12)
    t[[4, 5, 6, 7]] = -100
    token = np.linspace(0.5, 2, 12)
    rows = fn.cross_entropy(x, t, reduction="none", token_weight=token)
    for reduction, want in (
        ("sequence_sum", rows.reshape(3, 4).sum(1)),
        ("sequence_mean", rows.reshape(3, 4).sum(1) / [token[:4].sum(), math.nan, token[8:].sum()]),
    ):
        got = fn.cross_entropy(
            x.reshape(3, 4, 11), t.reshape(3, 4), reduction=reduction, token_weight=token.reshape(3, 4)
        )
        np.testing.assert_allclose(got, want, **CLOSE)
        flat = fn.cross_entropy(x, t, reduction=reduction, token_weight=token, offsets=[0, 4, 8, 12])
        np.testing.assert_array_equal(flat, got)


def test_the_shift_never_crosses_a_document(engine: Engine) -> None:
    x, t = batch(12)
    for k in (1, 2, 5):
        losses, grad = fn.cross_entropy_value_and_grad(x, t, shift=k, offsets=RAGGED, reduction="none")
        for start, stop in itertools.pairwise(RAGGED):
            own = slice(start, stop)
            alone = fn.cross_entropy_value_and_grad(x[own], t[own], shift=k, reduction="none")
            np.testing.assert_allclose(losses[own], alone[0], **CLOSE)
            np.testing.assert_allclose(grad[own], alone[1], **CLOSE)
            last = slice(max(start, stop - k), stop)
            assert np.all(losses[last] == 0)
            assert np.all(grad[last] == 0)
            if stop - start > k:
                plain = fn.cross_entropy(x[start : stop - k], t[start + k : stop], reduction="none")
                np.testing.assert_allclose(losses[start : stop - k], plain, **CLOSE)
    by_axis = fn.cross_entropy(x.reshape(3, 4, 11), t.reshape(3, 4), shift=1)
    assert by_axis == pytest.approx(fn.cross_entropy(x, t, shift=1, offsets=[0, 4, 8, 12]), rel=1e-14)


@pytest.mark.parametrize("cuts", [[6], [1, 2, 3], [5, 64, 65], [64], [100, 129]], ids=str)
def test_any_split_gives_the_loss_of_one_batch(engine: Engine, cuts: list[int]) -> None:
    x, t = batch(130, 17)
    t[4::7] = -100
    w = np.linspace(0.5, 2, 17)
    for o in ({}, {"weight": w, "label_smoothing": 0.1}, {"z_loss": 0.01, "softcap": 3.0}):
        live = t != -100
        normalizer = float((w[t[live]] if "weight" in o else np.ones(live.sum())).sum())
        want, want_grad = fn.cross_entropy_value_and_grad(x, t, **o)
        parts = [
            fn.cross_entropy_value_and_grad(a, b, normalizer=normalizer, **o)
            for a, b in zip(np.split(x, cuts), np.split(t, cuts), strict=True)
        ]
        assert math.fsum(p[0] for p in parts) == pytest.approx(want, rel=1e-13)
        np.testing.assert_allclose(np.concatenate([p[1] for p in parts]), want_grad, rtol=1e-12, atol=1e-17)
        means = [fn.cross_entropy(a, b, **o) for a, b in zip(np.split(x, cuts), np.split(t, cuts), strict=True)]
        assert abs(np.mean(means) - want) > 1e-6, "the mean of means is another number, or this test shows nothing"


def test_packing_is_the_same_as_separate_sequences(engine: Engine) -> None:
    x, t = batch(12)
    o: dict[str, Any] = {"shift": 1, "label_smoothing": 0.1}
    for reduction in ("sequence_sum", "sequence_mean"):
        packed, grad = fn.cross_entropy_value_and_grad(x, t, reduction=reduction, offsets=RAGGED, **o)
        one_by_one = "mean" if reduction == "sequence_mean" else "sum"
        for b, (i, j) in enumerate(itertools.pairwise(RAGGED)):
            loss, alone = fn.cross_entropy_value_and_grad(x[i:j], t[i:j], reduction=one_by_one, **o)
            np.testing.assert_allclose(packed[b], loss, **CLOSE)
            np.testing.assert_allclose(grad[i:j], alone, **CLOSE)


@pytest.mark.parametrize("nothing", [{"mask": False}, {"token_weight": 0.0}, {"ignore_index": (0, 1, 2)}, {"shift": 9}])
def test_empty_batches(engine: Engine, nothing: dict[str, Any]) -> None:
    x, t = batch()
    x[:] = np.nan  # never read
    for empty, want in (("nan", math.nan), ("zero", 0.0)):
        loss, grad = fn.cross_entropy_value_and_grad(x, t, empty=empty, **nothing)
        np.testing.assert_array_equal(loss, want)
        assert np.all(grad == 0)
        per = fn.cross_entropy(x, t, empty=empty, reduction="sequence_mean", **nothing)
        np.testing.assert_array_equal(per, want)
        assert fn.cross_entropy(x, t, empty=empty, reduction="sum", **nothing) == 0
        assert fn.cross_entropy(x, t, empty=empty, normalizer=3, **nothing) == 0
    for reduction in ("mean", "sum", "none", "sequence_mean"):
        with pytest.raises(fn.OptionError, match=r"live row.*none of 6"):
            fn.cross_entropy(x, t, empty="raise", reduction=reduction, **nothing)


def test_empty_sequences_and_classes_of_weight_0(engine: Engine) -> None:
    x, t = batch(12)
    with pytest.raises(fn.OptionError, match=r"sequence 1 \(1 of 5\)"):
        fn.cross_entropy(x, t, reduction="sequence_mean", offsets=RAGGED, empty="raise")
    light = np.ones(11)
    light[:3] = 0
    loss, grad = fn.cross_entropy_value_and_grad(x, t, weight=light, empty="zero")
    assert loss == 0
    assert np.all(grad == 0)
    assert math.isnan(fn.cross_entropy(x, t, weight=light))


def test_grad_output(engine: Engine) -> None:
    x, t = batch(12)
    t[5] = -100
    base = fn.cross_entropy_value_and_grad(x, t, reduction="sum")[1]
    upstream = np.linspace(-2, 3, 12)
    per_token = fn.cross_entropy_value_and_grad(x, t, reduction="none", grad_output=upstream)[1]
    np.testing.assert_allclose(per_token, base * upstream[:, None], **CLOSE)
    cube, ids = x.reshape(2, 6, 11), t.reshape(2, 6)
    square = fn.cross_entropy_value_and_grad(cube, ids, reduction="none", grad_output=upstream.reshape(2, 6))[1]
    np.testing.assert_array_equal(square.reshape(12, 11), per_token)
    for reduction in ("mean", "sum", "none", "sequence_sum", "sequence_mean"):
        for o in ({}, {"token_weight": np.linspace(0.5, 2, 12), "weight": np.linspace(1, 2, 11)}):
            plain = fn.cross_entropy_value_and_grad(x, t, reduction=reduction, **o)[1]
            scaled = fn.cross_entropy_value_and_grad(x, t, reduction=reduction, grad_output=-1.5, **o)[1]
            np.testing.assert_allclose(scaled, -1.5 * plain, **CLOSE)
    lengths = np.diff(RAGGED)
    for reduction in ("sequence_sum", "sequence_mean"):
        plain = fn.cross_entropy_value_and_grad(x, t, reduction=reduction, offsets=RAGGED)[1]
        per = np.array([2.0, np.nan, -1.0, 0.5, 3.0])  # the empty sequence's is never used
        got = fn.cross_entropy_value_and_grad(x, t, reduction=reduction, offsets=RAGGED, grad_output=per)[1]
        np.testing.assert_allclose(got, plain * np.repeat(per, lengths)[:, None], **CLOSE)
        with pytest.raises(fn.ShapeError, match="one per sequence"):
            fn.cross_entropy_value_and_grad(x, t, reduction=reduction, offsets=RAGGED, grad_output=np.ones(4))
