"""What single options promise beyond their formula: absent classes, padding, soft targets, PyTorch's conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import DTYPES, Engine
from tests.loss import longhand
from tests.loss.tables import batch, option_table, soft_targets

Array = np.ndarray[Any, Any]
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


def test_smoothing_is_spread_over_the_live_classes(engine: Engine) -> None:
    for v in (11, 2100):
        x, t = batch(6, v)
        x[:, 5::3] = -np.inf
        for o in ({}, {"weight": np.linspace(0.5, 2, v)}, {"softcap": 3.0}, {"temperature": 2.0}):
            options = {**o, "label_smoothing": 0.2, "reduction": "none"}
            loss, grad = fn.cross_entropy_value_and_grad(x, t, **options)
            np.testing.assert_allclose(loss, longhand.loss(x, t, options), **CLOSE)
            assert np.isfinite(grad).all()
            assert np.all(grad[:, 5::3] == 0)
            kept = np.delete(x, np.s_[5::3], axis=1)
            if "weight" not in o:
                other = fn.cross_entropy_value_and_grad(kept, t, **options)
                np.testing.assert_allclose(loss, other[0], **CLOSE)
                np.testing.assert_allclose(np.delete(grad, np.s_[5::3], axis=1), other[1], **CLOSE)


def test_a_mask_is_the_same_as_minus_infinity(engine: Engine) -> None:
    x, t = batch()
    for name in ("class_mask", "class_mask by row"):
        mask = option_table()[name]["class_mask"]
        gone = np.where(mask, x, -np.inf)
        poisoned = np.where(mask, x, np.nan)
        for o in ({}, {"label_smoothing": 0.3}, {"softcap": 2.0, "z_loss": 0.1}):
            want = fn.cross_entropy_value_and_grad(gone, t, **o)
            for logits in (x, poisoned):
                got = fn.cross_entropy_value_and_grad(logits, t, class_mask=mask, **o)
                np.testing.assert_allclose(got[0], want[0], **CLOSE)
                np.testing.assert_allclose(got[1], want[1], **CLOSE)
                assert np.all(got[1][~np.broadcast_to(mask, x.shape)] == 0)
    for shape in ((1, 11), (6, 1)):
        mask = np.ones(shape, bool)
        assert fn.cross_entropy(x, t, class_mask=mask) == pytest.approx(fn.cross_entropy(x, t), rel=1e-14)
    x3, mask3 = x.reshape(2, 3, 11), option_table()["class_mask by row"]["class_mask"].reshape(2, 3, 11)
    got = fn.cross_entropy(x3, t.reshape(2, 3), class_mask=mask3[:1])
    want = fn.cross_entropy(x3, t.reshape(2, 3), class_mask=np.broadcast_to(mask3[:1], x3.shape).copy())
    assert got == want


def test_minus_infinity_stays_under_a_softcap(engine: Engine) -> None:
    x, t = batch()
    x[:, 7] = -np.inf
    loss, grad = fn.cross_entropy_value_and_grad(x, t, softcap=4.0, reduction="none")
    np.testing.assert_allclose(loss, fn.cross_entropy(np.delete(x, 7, 1), t, softcap=4.0, reduction="none"), **CLOSE)
    assert np.all(grad[:, 7] == 0)
    t[0] = 7
    assert fn.cross_entropy(x, t, softcap=4.0, reduction="none")[0] == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_never_read(engine: Engine, dtype: str) -> None:
    for v, valid in ((11, 8), (2100, 2050), (64, 1)):
        x, t = batch(6, v)
        x, t = x.astype(DTYPES[dtype]), np.minimum(t, valid - 1)
        padded = x.copy()
        padded[:, valid:] = np.nan
        for o in ({}, {"label_smoothing": 0.1}, {"weight": np.linspace(1, 2, v)}):
            cut = {k: a[:valid] if k == "weight" else a for k, a in o.items()}
            want = fn.cross_entropy_value_and_grad(x[:, :valid].copy(), t, **cut)
            loss, grad = fn.cross_entropy_value_and_grad(padded, t, valid_classes=valid, **o)
            in_place = padded.copy()
            fn.cross_entropy_value_and_grad(in_place, t, valid_classes=valid, out=in_place, **o)
            assert loss == want[0]
            for g in (grad, in_place):
                np.testing.assert_array_equal(g[:, :valid].astype(float), want[1].astype(float))
                assert np.all(g[:, valid:] == 0)
                assert not np.signbit(g[:, valid:].astype(float)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_and_sparse_targets_agree(engine: Engine, dtype: str) -> None:
    tolerance = 1e-13 if dtype == "float64" else 2e-2 if "16" in dtype else 1e-5
    for v in (11, 2100):
        x = batch(6, v)[0].astype(DTYPES[dtype])
        dense, (ids, probs) = soft_targets(6, v)
        for o in ({}, {"label_smoothing": 0.1, "weight": np.linspace(0, 2, v)}, {"token_weight": [1, 2, 0, -1, 1, 1]}):
            a = fn.cross_entropy_value_and_grad(x, dense, **o)
            for kind in (np.int64, np.uint16, np.int8):
                b = fn.cross_entropy_value_and_grad(x, (ids.astype(kind), probs), **o)
                assert a[0] == pytest.approx(b[0], rel=1e-13 if dtype == "float64" else 1e-6)
                np.testing.assert_allclose(a[1].astype(float), b[1].astype(float), rtol=tolerance, atol=tolerance / 20)


def test_one_hot_targets_are_class_ids(engine: Engine) -> None:
    x, t = batch()
    hot = np.eye(11)[t]
    ids = (np.stack([t, t + 1], axis=1), np.tile([1.0, 0.0], (6, 1)))
    for o in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1, "temperature": 0.5}):
        want = fn.cross_entropy_value_and_grad(x, t, **o)
        for targets in (hot, hot.astype(np.float32), hot.astype(np.float16), ids):
            got = fn.cross_entropy_value_and_grad(x, targets, **o)
            np.testing.assert_allclose(got[0], want[0], **CLOSE)
            np.testing.assert_allclose(got[1], want[1], **CLOSE)
    absent = x.copy()
    absent[:, 10] = -np.inf
    assert np.isfinite(fn.cross_entropy(absent, hot)), "0 * inf = 0"


def test_soft_targets_of_absent_rows_are_never_read(engine: Engine) -> None:
    x, _ = batch()
    dense, (ids, probs) = soft_targets()
    mask = np.array([True, False, True, True, True, False])
    bad_dense, bad_ids, bad_probs, bad_x = dense.copy(), ids.copy(), probs.copy(), x.copy()
    bad_dense[~mask], bad_probs[~mask], bad_x[~mask], bad_ids[~mask] = np.nan, np.nan, np.nan, 99
    want = fn.cross_entropy_value_and_grad(x, dense, mask=mask)
    for targets in (bad_dense, (bad_ids, bad_probs)):
        got = fn.cross_entropy_value_and_grad(bad_x, targets, mask=mask)
        assert got[0] == pytest.approx(want[0], rel=1e-13)
        np.testing.assert_allclose(got[1], want[1], **CLOSE)
        assert np.all(got[1][~mask] == 0)
    assert bad_ids[1, 0] == 99, "the caller's arrays stay as they were"


# ---- PyTorch ------------------------------------------------------------------------------------------

TORCH: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": np.linspace(0.1, 3, 11)},
    "smoothing": {"label_smoothing": 0.15},
    "weight and smoothing": {"weight": np.linspace(0.1, 3, 11), "label_smoothing": 0.15},
    "smoothing 1": {"label_smoothing": 1.0},
    "ignore_index": {"ignore_index": 2},
    "all": {"weight": np.linspace(0.1, 3, 11), "label_smoothing": 0.15, "ignore_index": 2},
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
def test_pytorch(engine: Engine, name: str, reduction: str, soft: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if soft and "ignore_index" in TORCH[name]:
        pytest.skip("PyTorch takes no ignore_index beside probabilities")
    x, t = batch()
    t[3] = 7
    targets = soft_targets()[0] if soft else t
    options = {k: torch.from_numpy(a) if k == "weight" else a for k, a in TORCH[name].items()}
    theirs = torch.from_numpy(x.copy()).requires_grad_()
    loss = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(targets), reduction=reduction, **options)
    upstream = np.linspace(-1, 2, 6) if reduction == "none" else 1.7
    loss.backward(torch.as_tensor(upstream, dtype=torch.float64))
    ours, grad = fn.cross_entropy_value_and_grad(x, targets, reduction=reduction, grad_output=upstream, **TORCH[name])
    np.testing.assert_allclose(ours, loss.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), **CLOSE)
