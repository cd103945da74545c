"""validate="off", nonfinite="raise" and verify: garbage does no harm, and wrong results do not pass."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.kernels import registry
from tests.cases import DTYPES, TARGET_DTYPES, Engine
from tests.loss.tables import batch, option_table, soft_targets

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("target_dtype", TARGET_DTYPES)
@pytest.mark.parametrize("v", [1, 11, 300])
def test_garbage_targets_are_memory_safe_without_validation(engine: Engine, v: int, target_dtype: str) -> None:
    rng = np.random.default_rng([v, len(target_dtype)])
    info = np.iinfo(target_dtype)
    for dtype, o in itertools.product(DTYPES, ({}, {"label_smoothing": 0.1}, {"weight": np.ones(v)}, {"shift": 1})):
        x = (2 * rng.standard_normal((70, v))).astype(DTYPES[dtype])
        t = rng.integers(info.min, info.max, 70, dtype=target_dtype, endpoint=True)
        t[:10] = rng.integers(0, min(v, 100), 10)
        loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none", validate="off", **o)
        used = np.append(t[1:], t[:1]) if "shift" in o else t
        inside = (used >= 0) & (used < v)
        absent = used == -100
        if "shift" in o:
            absent[-1] = True
        good = inside & ~absent
        assert np.isfinite(loss[good | absent]).all()
        assert np.all(loss[absent] == 0)
        assert np.isnan(loss[~good & ~absent]).all()
        assert np.isnan(grad[~good & ~absent].astype(float)).all()
        assert np.isfinite(grad[good].astype(float)).all()
        details = fn.cross_entropy_details(x, t, validate="off", **o)
        assert np.isnan(details.nll[~good & ~absent]).all()
        assert not details.correct[~good & ~absent].any()


def test_garbage_sparse_targets(engine: Engine) -> None:
    x, _ = batch()
    _, (ids, probs) = soft_targets()
    ids = ids.copy()
    ids[2, 1], ids[4, 0] = 2**40, -7
    loss, grad = fn.cross_entropy_value_and_grad(x, (ids, probs), reduction="none", validate="off")
    bad = np.isin(np.arange(6), (2, 4))
    assert np.isnan(loss[bad]).all()
    assert np.isfinite(loss[~bad]).all()
    assert np.isfinite(grad[~bad]).all()
    assert np.isnan(grad[bad]).all()


def test_validation_off_changes_nothing_else(engine: Engine) -> None:
    x, t = batch()
    t[1] = -100
    for name, o in option_table().items():
        a = fn.cross_entropy_value_and_grad(x, t, **{"ignore_index": -100, **o, "validate": "off"})
        if o.get("ignore_index", -100) is not None:
            b = fn.cross_entropy_value_and_grad(x, t, **{**o, "validate": "on"})
            np.testing.assert_array_equal(a[0], b[0], err_msg=name)
            np.testing.assert_array_equal(a[1], b[1], err_msg=name)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "sequence_sum"])
def test_nonfinite_names_the_first_row(engine: Engine, reduction: str) -> None:
    x, t = batch(12)
    t[1] = -100
    x[1] = np.nan  # absent: nothing to say about it
    cube, ids = x.reshape(3, 4, 11), t.reshape(3, 4)
    o = {"reduction": reduction, "nonfinite": "raise"}
    fn.cross_entropy(cube, ids, **o)
    for value, where in ((np.nan, 3), (np.inf, 0), (-np.inf, int(t[6]))):
        broken = cube.copy()
        broken[1, 2, where] = value
        broken[2, 3, :] = np.nan
        for function in (fn.cross_entropy, fn.cross_entropy_value_and_grad):
            with pytest.raises(fn.VerificationError, match=r"row \(1, 2\) \(2 of 12 rows\)"):
                function(broken, ids, **o)
    assert np.isnan(fn.cross_entropy(broken, ids)), "the default goes on"


# ---- verify ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["ids", "dense", "sparse"])
def test_verify_accepts_good_results(engine: Engine, dtype: str, kind: str) -> None:
    for v, scale, offset in ((11, 1, 0), (300, 20, 0), (33, 3, 1e4)):
        x, t = batch(6, v)
        x = (x * scale + offset).astype(DTYPES[dtype])
        dense, sparse = soft_targets(6, v)
        targets = {"ids": t, "dense": dense, "sparse": sparse}[kind]
        for name, o in option_table(6, v).items():
            if kind != "ids" and "shift" in o:
                continue
            options = {"temperature": 0.3, **o, "verify": 1.0}
            loss, _ = fn.cross_entropy_value_and_grad(x, targets, **options)
            np.testing.assert_array_equal(loss, fn.cross_entropy(x, targets, **options), err_msg=name)


def test_verify_of_broken_rows(engine: Engine) -> None:
    """Rows of NaN are what float64 gives too; a share of the rows is checked, at least one."""
    x, t = batch(70, 11)
    x[3], x[9, 2], x[11], x[12, t[12]] = np.nan, np.inf, -np.inf, -np.inf
    fn.cross_entropy_value_and_grad(x, t, verify=1.0)
    fn.cross_entropy_value_and_grad(x[:0], t[:0], verify=1.0)
    fn.cross_entropy_value_and_grad(x[:1], t[:1], verify=1e-9)


@pytest.mark.parametrize("what", ["loss", "grad"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_verify_catches_a_wrong_kernel(engine: Engine, monkeypatch: pytest.MonkeyPatch, dtype: str, what: str) -> None:
    x, t = batch(12)
    x = x.astype(DTYPES[dtype])
    backend = registry.backend()
    right = backend.cross_entropy

    def wrong(task: Any) -> None:
        copy = task.x.copy()
        right(task)
        if what == "loss" and task.loss is not None:
            task.loss[7] *= 1.001
        if what == "grad" and task.grad is not None:
            task.grad[0, 7] += np.abs(task.grad[0, 7]).max() * task.grad.dtype.type(0.1)
        assert copy.shape == task.x.shape

    fn.cross_entropy_value_and_grad(x, t, verify=1.0)
    if engine.backend == "reference":
        from fastnll.ops import _verify

        # The check itself must stay right: it gets the kernel as it is now.
        monkeypatch.setattr(_verify, "reference", type("Right", (), {"cross_entropy": staticmethod(right)}))
    monkeypatch.setattr(backend, "cross_entropy", wrong)
    word = "loss" if what == "loss" else "gradient"
    for reduction in ("none", "mean"):
        with pytest.raises(fn.VerificationError, match=rf"the {word} of row 7 .*\(1 of 12 rows"):
            fn.cross_entropy_value_and_grad(x, t, verify=1.0, reduction=reduction)
        in_place = x.copy()
        with pytest.raises(fn.VerificationError, match="row 7"):
            fn.cross_entropy_value_and_grad(in_place, t, verify=1.0, reduction=reduction, out=in_place)
    fn.cross_entropy_value_and_grad(x, t)
