"""The judge of the benchmarks: exact where it must be, and deaf to no kind of wrong result."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fastnll.bench import oracle as oracle_module
from fastnll.bench.cases import CASES, Case
from fastnll.bench.data import make_data
from fastnll.bench.oracle import Oracle, row_truth, ulp_error
from fastnll.kernels.spec import OPS

VALUE = Case("large", "cross_entropy", (33, 64), (33, 64))
GRAD = Case("large", "cross_entropy_value_and_grad", (33, 64), (33, 64), mode="out")


def _right(case: Case) -> dict[str, Any]:
    """The result of a case, computed plainly in float64 and rounded."""
    data = make_data(case)
    x = data.x.astype(np.float64)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    rows = np.arange(case.rows)
    loss = -np.log(p[rows, data.targets]).mean()
    p[rows, data.targets] -= 1
    return {"loss": loss, "out": (p * case.grad_output / case.rows).astype(data.x.dtype)}


def test_truth_of_a_confident_row_keeps_its_digits() -> None:
    row = row_truth(np.array([[30.0, 0.0, -1.0]]), np.array([0]))
    rest = Fraction(float(np.exp(-30.0))) + Fraction(float(np.exp(-31.0)))
    assert row.loss[0] == pytest.approx(float(rest), rel=1e-12)  # log(1 + 1e-13): the plain formula has 3 digits
    assert row.grad[0, 0] == pytest.approx(-float(rest / (1 + rest)), rel=1e-12)
    assert row.grad.sum() == pytest.approx(0, abs=1e-28)


def test_ulps_are_those_of_the_true_value() -> None:
    one = np.array([1.0, 1.0, 1.0, 1.0])
    error = ulp_error(one + np.array([0, 2.0**-23, 0, -3 * 2.0**-23]), one, np.float32)
    assert (error.worst, error.rms) == (3.0, pytest.approx((10 / 4) ** 0.5))
    assert ulp_error(np.array([1e-40]), np.array([2e-40]), np.float32).worst == 0  # below the normal numbers
    assert ulp_error(np.array([np.nan]), np.array([1.0]), np.float32).worst == np.inf
    assert ulp_error(np.array([np.nan]), np.array([np.nan]), np.float32).worst == 0
    assert ulp_error(np.array([0.0]), np.array([2.0**-20]), np.float16).worst == 2.0**4  # subnormals count there


def test_a_right_result_is_admitted() -> None:
    for case in (VALUE, GRAD):
        errors, reason = Oracle(make_data(case)).check(_right(case))
        assert reason is None
        assert all(error.worst < 4 for error in errors.values())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r["out"].__setitem__((0, 0), 0.0),
        lambda r: r["out"].__setitem__((-1, slice(None)), 0.0),
        lambda r: r["out"].__setitem__((5, 5), np.nan),
        lambda r: r.__setitem__("out", r["out"] * np.float32(1.001)),
        lambda r: r.__setitem__("out", r["out"][:, :-1]),
        lambda r: r.__setitem__("out", r["out"].T),
        lambda r: r.__setitem__("loss", r["loss"] * 1.001),
        lambda r: r.__setitem__("loss", np.inf),
    ],
    ids=["first", "last row", "nan", "scaled", "narrow", "transposed", "loss", "infinite"],
)
def test_a_wrong_result_is_not(spoil: Any) -> None:
    result = _right(GRAD)
    spoil(result)
    _, reason = Oracle(make_data(GRAD)).check(result)
    assert reason is not None
    assert "is wrong" in reason


def test_sgd_that_skips_whole_vectors_is_found() -> None:
    case = Case("other", "sgd_update", (1003,), (1003,), mode="inplace")
    data = make_data(case)
    right = data.x - np.float32(0.001) * (np.float32(0.9) * data.extra + data.extra)
    assert Oracle(data).check({"out": right})[1] is None
    skipped = np.where(np.arange(1003) < 992, data.x, right)
    assert "out is wrong" in str(Oracle(data).check({"out": skipped})[1])


def test_large_arrays_are_sampled_from_the_first_to_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle_module, "SAMPLE", 64 * 5)
    for row in (0, -1):
        result = _right(GRAD)
        result["out"][row] = 0
        assert Oracle(make_data(GRAD)).check(result)[1] is not None


def test_the_mean_loss_is_over_all_rows_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Oracle(make_data(VALUE)).mean_loss()
    monkeypatch.setattr(oracle_module, "_CHUNK", 64 * 5)
    assert Oracle(make_data(VALUE)).mean_loss() == pytest.approx(whole, rel=1e-14)


def test_class_axis_in_the_middle() -> None:
    case = Case("mid-axis", "cross_entropy_value_and_grad", (3, 10, 7), (3, 10, 7), mode="out", axis=1)
    data = make_data(case)
    flat = row_truth(np.moveaxis(data.x, 1, -1).reshape(21, 10).astype(np.float64), data.targets.reshape(-1))
    grad = np.moveaxis(flat.grad.reshape(3, 7, 10), -1, 1) / 21
    assert Oracle(data).check({"loss": flat.loss.mean(), "out": grad.astype(np.float32)})[1] is None


def test_cases_cover_every_public_op_and_are_unique() -> None:
    public = {name for spec in OPS.values() for name in spec.public} - {"cross_entropy_details"}
    assert {case.op for case in CASES} == public
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert len(case.shape) == len(case.quick_shape)
        assert case.quick().memory() <= 2**26


def test_bytes_are_those_of_the_specification() -> None:
    for case in CASES:
        traffic = case.traffic()
        mode = {"fresh": "out"}.get(case.mode, case.mode)
        mode = {"nll_loss": "normalised", "sgd_update": "momentum"}.get(case.op, mode)
        spec = next(spec for spec in OPS.values() if case.op in spec.public)
        assert traffic.read + traffic.written == spec.model_bytes(case.rows, case.classes, case.itemsize, mode)
        assert traffic.read > 0
        assert (traffic.written == 0) == (case.mode == "value")
