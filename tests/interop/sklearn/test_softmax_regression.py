"""`SoftmaxRegression` beside `LogisticRegression`: the same coefficients, conventions, errors; and its own parts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits, make_classification  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import fastnll as fn  # noqa: E402
from fastnll.interop.sklearn import (  # noqa: E402
    SoftmaxRegression,
    _curvature,
    _minimise,
)
from fastnll.interop.sklearn._rows import WeightedRows  # noqa: E402

Array = np.ndarray[Any, Any]


@parametrize_with_checks([SoftmaxRegression(), SoftmaxRegression(solver="sgd", max_iter=50)])
@pytest.mark.filterwarnings("ignore:lbfgs took all of max_iter")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def converged(**options: Any) -> LogisticRegression:
    """Return scikit-learn's estimator with its exact solver and next to no tolerance."""
    return LogisticRegression(solver="newton-cholesky", tol=1e-11, max_iter=200, **options)


def assert_same(ours: Any, theirs: Any, atol: float = 1e-5) -> None:
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == theirs.intercept_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=atol)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=0, atol=atol)
    assert np.array_equal(ours.classes_, theirs.classes_)


@pytest.mark.parametrize("scale", [1.0, 16.0])
@pytest.mark.parametrize("csr", [False, True])
def test_digits(scale: float, csr: bool) -> None:
    x, y = load_digits(return_X_y=True)
    x = x / scale
    theirs = converged().fit(x, y)
    ours = SoftmaxRegression().fit(scipy.sparse.csr_matrix(x) if csr else x, y)
    assert_same(ours, theirs)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-5)
    np.testing.assert_allclose(ours.predict_log_proba(x[:9]), theirs.predict_log_proba(x[:9]), atol=1e-3)
    assert np.array_equal(ours.predict(x), theirs.predict(x))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Array, Array | None, dict[str, Any]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    v, d, n = draw(st.integers(2, 5)), draw(st.integers(1, 7)), draw(st.integers(20, 120))
    x = rng.standard_normal((n, d)) * np.exp(rng.uniform(-1, 2, d)) + rng.uniform(-3, 3, d)
    labels = np.concatenate([np.arange(v), rng.integers(0, v, n - v)])
    weights = rng.uniform(0, 3, n) if draw(st.booleans()) else None
    if weights is not None:
        weights[v:][rng.random(n - v) < 0.2] = 0.0
    options: dict[str, Any] = {
        "C": draw(st.sampled_from([0.01, 1.0, 30.0])),
        "fit_intercept": draw(st.booleans()),
        "class_weight": draw(st.sampled_from([None, "balanced", {0: 3.0, 1: 0.5}])),
    }
    return x, labels, weights, options


@settings(max_examples=60)
@given(problem=problems(), csr=st.booleans())
def test_the_coefficients_are_those_of_logistic_regression(problem: Any, csr: bool) -> None:
    x, y, weights, options = problem
    names = np.array(["f", "e", "d", "c", "b"])[y] if options["class_weight"] in (None, "balanced") else y
    theirs = converged(**options).fit(x, names, weights)
    ours = SoftmaxRegression(**options).fit(scipy.sparse.csr_array(x) if csr else x, names, weights)
    assert_same(ours, theirs, 3e-5 if options["C"] > 1 else 1e-5)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-4)
    assert ours.decision_function(x).shape == theirs.decision_function(x).shape


def test_without_a_penalty() -> None:
    x, y = make_classification(400, 5, n_informative=4, n_redundant=0, n_classes=3, flip_y=0.4, random_state=1)
    theirs = converged(C=np.inf).fit(x, y)
    ours = SoftmaxRegression(C=np.inf).fit(x, y)
    # Nothing says where the mean over classes is.
    for name in ("coef_", "intercept_"):
        a, b = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_allclose(a - a.mean(axis=0), b - b.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("kind", ["formed", "product", "diagonal"])
def test_every_curvature_leads_to_the_same_minimum(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make_classification(3000, 30, n_informative=10, n_classes=4, random_state=2)
    want = SoftmaxRegression(tol=1e-9).fit(x, y)
    monkeypatch.setattr(_curvature, "_PARAMETERS", 3000 if kind == "formed" else 0)
    monkeypatch.setattr(_curvature, "_FEATURES", 0 if kind == "diagonal" else 1500)
    monkeypatch.setattr(_curvature, "_SAMPLE", 500)
    for features in (x, scipy.sparse.csr_matrix(x)):
        assert_same(SoftmaxRegression(max_iter=500).fit(features, y), want)


def test_a_part_of_the_rows_first(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make_classification(20000, 12, n_informative=8, n_classes=3, random_state=3)
    order = np.argsort(y, kind="stable")  # a part of sorted rows must still have every class
    want = SoftmaxRegression(tol=1e-9).fit(x, y)
    seen: list[int] = []
    whole = WeightedRows.value_and_grad

    def spied(self: WeightedRows, theta: Array, stride: int = 1) -> tuple[float, Array]:
        seen.append(stride)
        return whole(self, theta, stride)

    monkeypatch.setattr(WeightedRows, "value_and_grad", spied)
    monkeypatch.setattr(_minimise, "_BLOCKS", 4)
    monkeypatch.setattr(_minimise, "_STRIDE", 3)
    ours = SoftmaxRegression().fit(x[order], y[order])
    assert_same(ours, want)
    assert seen[0] == 3
    assert seen.count(1) < 10


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("csr", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_gradient_is_the_slope(weighted: bool, csr: bool, intercept: bool) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((700, 6)), rng.integers(0, 3, 700)
    weights = rng.uniform(0, 2, 700) if weighted else None
    problem = WeightedRows(scipy.sparse.csr_matrix(x) if csr else x, y, 3, weights, 0.7, intercept=intercept)
    theta, direction = rng.standard_normal(problem.shape), rng.standard_normal(problem.shape)
    value, grad = problem.value_and_grad(theta)
    logits = x @ theta[:, :6].T + (theta[:, 6] if intercept else 0)
    longhand = fn.cross_entropy(logits, y, reduction="none") @ (np.ones(700) if weights is None else weights)
    assert value == pytest.approx(longhand + 0.35 * np.square(theta[:, :6]).sum(), rel=1e-12)
    up, down = (problem.value_and_grad(theta + s * 1e-5 * direction)[0] for s in (1, -1))
    assert float(np.vdot(grad, direction)) == pytest.approx((up - down) / 2e-5, rel=1e-7)


def test_the_largest_curvature_of_an_exact_inverse_is_one() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((600, 4)), rng.integers(0, 3, 600)
    problem = WeightedRows(x, y, 3, None, 1.0, intercept=True)
    theta = 0.3 * rng.standard_normal(problem.shape)
    inverse = _curvature.inverse_curvature(problem, theta)
    assert _curvature.largest_curvature(problem, theta, inverse) == pytest.approx(1.0, abs=1e-6)
    half = _curvature.largest_curvature(problem, theta, lambda g: 0.5 * inverse(g))
    assert half == pytest.approx(0.5, abs=1e-6)


def test_threads_change_no_bit() -> None:
    x, y = make_classification(9000, 20, n_informative=10, n_classes=5, random_state=6)
    fits = [SoftmaxRegression(n_jobs=jobs).fit(x, y) for jobs in (1, 2, 3)]
    for other in fits[1:]:
        assert other.coef_.tobytes() == fits[0].coef_.tobytes()


def test_float32_features_stay_float32() -> None:
    # Nothing redundant: along sums of features that are 0 only the penalty holds the coefficients.
    x, y = make_classification(4000, 10, n_informative=6, n_redundant=0, n_classes=3, random_state=7)
    ours = SoftmaxRegression().fit(x.astype(np.float32), y)
    assert ours.coef_.dtype == ours.intercept_.dtype == np.float32
    assert ours.predict_proba(x.astype(np.float32)).dtype == np.float32
    assert_same(ours, SoftmaxRegression().fit(x.astype(np.float32).astype(np.float64), y), 1e-6)


def test_warm_start_goes_on_where_the_last_fit_ended() -> None:
    x, y = load_digits(return_X_y=True)
    model = SoftmaxRegression(warm_start=True).fit(x, y)
    first = model.coef_.copy()
    model.fit(x, y)
    assert model.n_iter_[0] <= 2
    np.testing.assert_allclose(model.coef_, first, atol=1e-5)
    binary = y < 2
    two = SoftmaxRegression(warm_start=True).fit(x[binary], y[binary])
    assert two.sparsify().fit(x[binary], y[binary]).n_iter_[0] <= 2
    two.fit(x, y)  # other classes: from the beginning
    assert_same(two, model)


def test_sgd_comes_near_the_minimum() -> None:
    x, y = make_classification(3000, 20, n_informative=10, n_classes=4, random_state=8)
    want = SoftmaxRegression().fit(x, y)
    one, again = (SoftmaxRegression(solver="sgd", max_iter=30, random_state=3).fit(x, y) for _ in range(2))
    assert np.array_equal(one.coef_, again.coef_)
    assert np.abs(one.coef_ - want.coef_).max() < 0.03
    assert one.n_iter_[0] == 30


def test_too_few_steps_warn() -> None:
    x, y = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        SoftmaxRegression(max_iter=2).fit(x, y)


def test_separable_classes_without_a_penalty_end_with_a_warning_not_an_error() -> None:
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SoftmaxRegression(C=np.inf).fit(x, [0, 0, 1, 1])
    assert np.isfinite(model.coef_).all()
    assert model.score(x, [0, 0, 1, 1]) == 1.0


X, Y = np.arange(8.0).reshape(4, 2), [0, 1, 0, 1]
WRONG: dict[str, Any] = {
    "one class": (lambda make: make().fit(X, [1, 1, 1, 1]), ValueError),
    "a NaN": (lambda make: make().fit(X * np.nan, Y), ValueError),
    "other lengths": (lambda make: make().fit(X, Y[:3]), ValueError),
    "regression targets": (lambda make: make().fit(X, [0.5, 1.2, 0.1, 0.7]), ValueError),
    "complex features": (lambda make: make().fit(X * 1j, Y), ValueError),
    "C of 0": (lambda make: make(C=0.0).fit(X, Y), ValueError),
    "tol below 0": (lambda make: make(tol=-1.0).fit(X, Y), ValueError),
    "no such solver": (lambda make: make(solver="newton").fit(X, Y), ValueError),
    "not fitted": (lambda make: make().predict_proba(X), NotFittedError),
    "other features": (lambda make: make().fit(X, Y).predict(X[:, :1]), ValueError),
    "positional parameters": (lambda make: make("l2", 3), TypeError),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_logistic_regressions(case: str) -> None:
    call, error = WRONG[case]
    for make in (SoftmaxRegression, LogisticRegression):
        with pytest.raises(error):
            call(make)


def test_parameters_go_through_clone() -> None:
    model = SoftmaxRegression(C=3.0, solver="sgd", n_jobs=2)
    assert clone(model).get_params() == model.get_params()
