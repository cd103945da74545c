"""cross_entropy_details and selected_log_probs against longhand sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import DTYPES, Engine
from tests.loss import longhand
from tests.loss.tables import batch

Array = np.ndarray[Any, Any]
TRANSFORMS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.7},
    {"softcap": 2.0},
    {"valid_classes": 8},
    {"class_mask": np.arange(11) < 6},
    {"temperature": 2.0, "softcap": 1.5, "valid_classes": 9},
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("o", TRANSFORMS, ids=str)
def test_details(engine: Engine, o: dict[str, Any], dtype: str) -> None:
    for v in (11,) if "class_mask" in o else (11, 2100):
        x, t = batch(6, v)
        x = x.astype(DTYPES[dtype])
        t[4] = -100
        ignored_by_weight = np.array([1, -2, 1, 1, 1, 0.0])
        d = fn.cross_entropy_details(
            x, t, **o, token_weight=ignored_by_weight, weight=np.full(v, 3.0), label_smoothing=0.2, z_loss=0.1
        )
        a = longhand.transformed(x.astype(np.float64), o)
        rtol = 1e-12 if dtype == "float64" else 3e-6
        assert d.nll.dtype == d.lse.dtype == d.entropy.dtype == (np.float64 if dtype == "float64" else np.float32)
        for i in range(6):
            if i in (4, 5):
                assert (d.nll[i], d.lse[i], d.entropy[i]) == (0, 0, 0)
                assert (d.argmax[i], d.rank[i], d.correct[i]) == (-1, -1, False)
                continue
            lse = np.log(np.exp(a[i]).sum())
            p = np.exp(a[i] - lse)
            np.testing.assert_allclose(d.lse[i], lse, rtol=rtol, atol=rtol)
            np.testing.assert_allclose(d.nll[i], lse - a[i, t[i]], rtol=rtol, atol=rtol)
            np.testing.assert_allclose(d.entropy[i], -sum(q * np.log(q) for q in p if q > 0), rtol=rtol, atol=rtol)
            if "16" not in dtype and not o:
                assert d.argmax[i] == int(np.argmax(a[i]))
                assert d.rank[i] == sum(a[i] > a[i, t[i]])
            assert d.correct[i] == (d.argmax[i] == t[i])


def test_details_of_ties_and_of_confident_rows(engine: Engine) -> None:
    x = np.array([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [60.0, 0.0, 0.0, 0.0]])
    d = fn.cross_entropy_details(x, [2, 3, 0])
    assert d.argmax.tolist() == [1, 0, 0], "the first of equals"
    assert d.rank.tolist() == [0, 0, 0], "none is more probable"
    assert d.correct.tolist() == [False, False, True]
    np.testing.assert_allclose(d.nll[2], np.log1p(3 * np.exp(-60.0)), rtol=1e-12)
    cube = fn.cross_entropy_details(x.reshape(1, 3, 4), [[2, 3, 0]])
    assert all(a.shape == (1, 3) for a in cube)
    with pytest.raises(fn.OptionError, match="class ids"):
        fn.cross_entropy_details(x, np.full(x.shape, 0.25))
    x[1, 0] = np.nan
    with pytest.raises(fn.VerificationError, match="row 1"):
        fn.cross_entropy_details(x, [2, 3, 0], nonfinite="raise")


@pytest.mark.parametrize("dtype", DTYPES)
def test_details_of_a_target_whose_logit_is_minus_infinity(engine: Engine, dtype: str) -> None:
    """Its probability is 0: it adds nothing to the entropy, and its own loss is infinite."""
    for v in (4, 2100):
        x = batch(3, v)[0].astype(DTYPES[dtype])
        t = np.array([1, 0, 2])
        x[[0, 1, 2], t] = -np.inf
        x[2, 3:] = -np.inf
        d = fn.cross_entropy_details(x, t)
        others = fn.cross_entropy_details(x, [2, 2, 0])
        assert np.isposinf(d.nll).all()
        tolerance = 1e-12 if dtype == "float64" else 3e-6
        np.testing.assert_allclose(d.entropy, others.entropy, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(d.lse, others.lse, rtol=3e-6)
        np.testing.assert_array_equal(d.rank, np.isfinite(x.astype(np.float64)).sum(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_selected_log_probs_and_their_gradient(engine: Engine, dtype: str) -> None:
    tolerance = {"float64": 1e-12, "float32": 3e-6}.get(dtype, 2e-2)
    for v in (11, 2100):
        x = batch(6, v)[0].astype(DTYPES[dtype])
        rng = np.random.default_rng(v)
        a = x.astype(np.float64)
        log_p = a - np.log(np.exp(a).sum(1, keepdims=True))
        for ids in (rng.integers(0, v, 6), rng.integers(0, v, (6, 3)), np.tile([[2, 2, 0]], (6, 1))):
            got = fn.selected_log_probs(x, ids)
            columns = ids if ids.ndim == 2 else ids[:, None]
            want = np.take_along_axis(log_p, columns, 1).reshape(ids.shape)
            np.testing.assert_allclose(got, want, rtol=3e-6 if dtype != "float64" else 1e-12, atol=1e-6)
            g = rng.standard_normal(ids.shape)
            grad = fn.selected_log_probs_vjp(x, ids, g)
            assert grad.dtype == x.dtype
            hot = np.zeros((6, v))
            np.add.at(hot, (np.arange(6)[:, None], columns), g.reshape(columns.shape))
            want = hot - np.exp(log_p) * hot.sum(1, keepdims=True)
            np.testing.assert_allclose(grad.astype(np.float64), want, rtol=tolerance, atol=tolerance / 4)
            out = x.copy()
            assert fn.selected_log_probs_vjp(out, ids, g, out=out) is out
            np.testing.assert_array_equal(out, grad)


def test_the_gradient_of_selected_log_probs_by_differences(engine: Engine) -> None:
    x = batch()[0]
    rng = np.random.default_rng(1)
    for axis in (0, 1):
        logits = x if axis else x.T.copy()
        for ids in (rng.integers(0, 11, 6), rng.integers(0, 11, (6, 2))):
            g = rng.standard_normal(ids.shape)
            grad = fn.selected_log_probs_vjp(logits, ids, g, axis=axis)
            numeric = longhand.numeric_gradient(
                lambda z, ids=ids, g=g, axis=axis: float((fn.selected_log_probs(z, ids, axis=axis) * g).sum()), logits
            )
            np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=2e-9)
    with pytest.raises(fn.ShapeError, match=r"grad: expected shape \(6,\)"):
        fn.selected_log_probs_vjp(x, np.zeros(6, int), np.ones(5))
    with pytest.raises(fn.LabelError, match=r"ids: .*got 11 at position 2"):
        fn.selected_log_probs_vjp(x, np.array([0, 1, 11, 3, 4, 12]), np.ones(6))
