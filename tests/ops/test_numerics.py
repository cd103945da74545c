"""The numbers that break a softmax: huge, tiny, infinite, equal, masked and confident rows."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import fastnll as fn
from tests.cases import DTYPES, FULL, KINDS, OP_DTYPES, OPS, Engine, Op, make_case
from tests.ops.oracle import assert_within, truth_of_rows, unit
from tests.ops.test_shapes import check


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "normal"])
@pytest.mark.parametrize(("op", "dtype"), OP_DTYPES)
def test_hard_logits(engine: Engine, op: Op, dtype: str, kind: str) -> None:
    for n, v in ((5, 2), (3, 17), (70, 33), (17, 100), (2, 2049)):
        check(op, dtype, n, v, kind)


@pytest.mark.parametrize("dtype", DTYPES)
def test_broken_rows_and_their_neighbours(engine: Engine, dtype: str) -> None:
    """NaN, +inf, both, and only -inf: each where it may be met first, in the middle and last."""
    for v, where in itertools.product((1, 2, 9, 33, 257, 2049), (0.0, 0.5, 1.0)):
        place = round(where * (v - 1))
        clean = make_case(12, v, dtype)
        x = clean.x.copy()
        x[1, place] = np.nan
        x[3, place] = np.inf
        x[5] = -np.inf
        x[7, place], x[7, (place + 1) % v] = np.nan, np.inf
        x[9], x[9, place] = -np.inf, np.inf
        x[11] = np.nan
        truth = truth_of_rows(x, clean.t)
        for op in OPS.values():
            for quantity, got in op.run(x, clean.t).items():
                name = f"{op.name} {quantity} {dtype} V={v} broken at {place}"
                assert_within(name, got, truth[quantity], truth.units[quantity], DTYPES[dtype])
        assert np.isnan(fn.cross_entropy(x, clean.t))
        assert np.isnan(fn.cross_entropy(x, clean.t, reduction="sum"))


@pytest.mark.parametrize("gap", [2.0, 10.0, 21.0, 30.0, 50.0, 70.0, 85.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_confident_rows_keep_relative_accuracy(engine: Engine, dtype: str, gap: float) -> None:
    """A loss of 1e-9 is not 0, and the target's gradient, p_t - 1, is as accurate as the others."""
    for v in (2, 16, 33, 2049):
        check_confident(dtype, gap, v)


def check_confident(dtype: str, gap: float, v: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-0.5, 0.5, (6, v))
    t = rng.integers(0, v, 6)
    x[np.arange(6), t] += gap
    x = x.astype(DTYPES[dtype])
    truth = truth_of_rows(x, t)
    assert 0 < truth.loss.max() < 2 * v * np.exp(1 - gap)
    loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none")
    assert_within(f"loss of {dtype} rows", loss, truth.loss, truth.units["loss"], DTYPES[dtype])
    assert_within(f"gradient of {dtype} rows", grad, truth.grad, truth.units["grad"], DTYPES[dtype])
    assert_within("value alone", fn.cross_entropy(x, t, reduction="none"), truth.loss, truth.units["loss"], x.dtype)
    picked = fn.selected_log_probs(x, t)
    assert_within("selected_log_probs", picked, truth.minus_loss, truth.units["minus_loss"], x.dtype)
    log_probs = fn.log_softmax(x)
    assert_within("log_softmax", log_probs, truth.log_probs, truth.units["log_probs"], x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_has_loss_and_gradient_zero(engine: Engine, dtype: str) -> None:
    big = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    x = np.array([[0.0], [1.5], [-big], [big], [1e-7]]).astype(DTYPES[dtype])
    t = np.zeros(5, np.int64)
    loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none")
    np.testing.assert_array_equal(loss, np.zeros(5))
    np.testing.assert_array_equal(grad.astype(np.float64), np.zeros((5, 1)))
    np.testing.assert_array_equal(fn.softmax(x).astype(np.float64), np.ones((5, 1)))
    np.testing.assert_array_equal(fn.log_softmax(x).astype(np.float64), np.zeros((5, 1)))
    np.testing.assert_array_equal(fn.selected_log_probs(x, t), np.zeros(5))
    np.testing.assert_array_equal(fn.logsumexp(x), x[:, 0].astype(fn.logsumexp(x).dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_target_of_probability_zero_has_infinite_loss(engine: Engine, dtype: str) -> None:
    x = np.array([[0.0, -np.inf, 1.0], [0.5, 2.0, 1.0]]).astype(DTYPES[dtype])
    loss, grad = fn.cross_entropy_value_and_grad(x, np.array([1, 1]), reduction="none")
    assert loss[0] == np.inf
    assert np.isfinite(loss[1])
    assert np.isfinite(grad.astype(np.float64)).all()
    assert float(grad[0, 1]) == pytest.approx(-1, rel=4 * unit(x.dtype))
    assert fn.cross_entropy(x, [1, 1]) == np.inf


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("v", [15, 1000])
def test_masked_classes_are_as_good_as_absent(engine: Engine, dtype: str, v: int) -> None:
    """-inf at a class gives what the row without that class gives, and exactly 0 there."""
    case = make_case(17, v, dtype)
    padded = np.full((17, v + 9), -np.inf, DTYPES[dtype])
    kept = np.sort(np.random.default_rng(0).permutation(v + 9)[:v])
    padded[:, kept] = case.x
    loss, grad = fn.cross_entropy_value_and_grad(padded, kept[case.t], reduction="none")
    assert_within("loss", loss, case.truth.loss, case.truth.units["loss"], DTYPES[dtype])
    assert_within("gradient", grad[:, kept], case.truth.grad, case.truth.units["grad"], DTYPES[dtype])
    assert np.all(np.delete(grad, kept, axis=1) == 0)
    assert np.all(np.delete(fn.softmax(padded), kept, axis=1) == 0)
    assert np.all(np.delete(fn.log_softmax(padded), kept, axis=1) == -np.inf)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_reductions_do_not_round_in_the_storage_dtype(engine: Engine, dtype: str) -> None:
    """Ten thousand losses of about 8 add up to more than float16 can hold, and to better than its eps."""
    case = make_case(10_000, 7, dtype, "offset-1e4" if dtype == "float32" else "normal")
    x = (case.x.astype(np.float64) * 4).astype(DTYPES[dtype])
    truth = truth_of_rows(x, case.t)
    total = float(truth.loss.sum())
    assert total > 65504
    assert fn.cross_entropy(x, case.t, reduction="sum") == pytest.approx(total, rel=1e-6)
    assert fn.cross_entropy(x, case.t) == pytest.approx(total / 10_000, rel=1e-6)


@pytest.mark.parametrize("dtype", FULL)
def test_sum_is_the_exact_sum_of_the_rows(engine: Engine, dtype: str) -> None:
    """Large rows do not swallow small ones: block sums are float64. A float32 sum would be off by 6e-10."""
    x = np.zeros((4096, 2), DTYPES[dtype])
    x[:, 1] = -18.0
    x[0, 1] = 1e5
    t = np.zeros(4096, np.int64)
    want = 1e5 + 4095 * np.log1p(np.exp(-18.0))
    assert fn.cross_entropy(x, t, reduction="sum") == pytest.approx(
        want, rel=1e-14 if dtype == "float64" else 1e-11, abs=0
    )


def test_mpmath_agrees_with_the_oracle() -> None:
    """The oracle itself, against 50 digits, on the rows it finds hardest."""
    mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed: the oracle stands alone")
    x = np.array([[40.0, -3.0, 1.25, 0.5], [1e4, 9990.5, -1e4, 1e4 - 30], [-700.0, -745.0, -701.5, 0.25]])
    t = np.array([0, 3, 2])
    truth = truth_of_rows(x, t)
    with mpmath.workdps(50):
        for row, target, loss, lse in zip(x, t, truth.loss, truth.lse, strict=True):
            exact_lse = mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(z))) for z in row))
            exact_loss = exact_lse - mpmath.mpf(float(row[target]))
            digits = np.format_float_scientific(loss, precision=30, unique=False)
            assert float(abs(mpmath.mpf(digits) - exact_loss) / exact_loss) < 1e-15
            assert float(lse) == pytest.approx(float(exact_lse), rel=1e-15)
