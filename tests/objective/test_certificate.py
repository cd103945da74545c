"""Certificates, against optima that are known: in closed form, or found to the last digit by Newton's method."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import OptionError
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Categorical, SoftmaxRegression, bigram_optimum
from fastnll.models.sums import divergence
from fastnll.objective import Certificate, Objective
from tests.objective.cases import CASES, labelled, ragged

Array = np.ndarray[Any, Any]


def newton(objective: Objective, steps: int = 12) -> dict[str, Array]:
    """The argmin (one of them, without a penalty), by Newton's method with the whole Hessian."""
    # Thousands of tiny calls: threads would only wait for each other.
    with fn.using(threads=1):
        return _newton(objective, steps)


def _newton(objective: Objective, steps: int) -> dict[str, Array]:
    _, x0, unpack = problem = objective.scipy()
    x = x0()
    for _ in range(steps):
        value, grad = problem.fun(x)
        if np.linalg.norm(grad) < 1e-12:
            break
        hessian = np.stack([problem.hessp(x, unit) for unit in np.eye(x.size)])
        step = np.linalg.lstsq(hessian, grad, rcond=1e-12)[0]
        length = 1.0
        while problem.fun(x - length * step)[0] > value and length > 1e-6:
            length /= 2
        x = x - length * step
    return unpack(x)


def shifted(params: dict[str, Array], size: float, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: array + size * rng.normal(size=array.shape) for name, array in params.items()}


def distance(a: dict[str, Array], b: dict[str, Array]) -> float:
    return math.sqrt(sum(float(np.square(a[name] - b[name]).sum()) for name in a))


def test_tables_are_certified_exactly() -> None:
    """All pairs seen, so that the argmin exists: a constant in each row of the table is free."""
    tokens = np.random.default_rng(0).choice(4, 3000, p=[0.4, 0.3, 0.2, 0.1])
    objective, best = Objective(Bigram(4), SequenceDataset(tokens)), bigram_optimum(SequenceDataset(tokens))
    for size in (1.0, 1e-2):
        params = shifted(best.params, size)
        found = objective.certificate(params)
        assert found.method == "counts"
        assert found.radius == math.inf
        assert found.gap == pytest.approx(objective.value(params) - best.value, rel=1e-8)
        assert found.lower_bound == pytest.approx(best.value, rel=1e-12)
        off = params["logits"] - best.params["logits"]
        off -= off.mean(axis=1, keepdims=True)
        assert found.distance == pytest.approx(float(np.linalg.norm(off)), rel=1e-9)
    # A difference of two values of 3000 would be noise here; the sum of divergences has all its digits.
    tiny = {"logits": best.params["logits"].copy()}
    tiny["logits"][0, 0] += 1e-9
    p = np.exp(best.params["logits"][0, 0])
    n = (tokens[:-1] == 0).sum()
    assert objective.certificate(tiny).gap == pytest.approx(n * p * (1 - p) * 0.5e-18, rel=1e-5)


def test_a_least_loss_that_is_only_approached() -> None:
    dataset = SequenceDataset([0, 1, 0, 2, 0, 1])
    objective, best = Objective(Bigram(3), dataset), bigram_optimum(dataset)
    found = objective.certificate(best.params)
    assert (found.gap, found.distance) == (0.0, math.inf)
    near = {"logits": np.maximum(best.params["logits"], -20.0)}
    found = objective.certificate(near)
    assert 0.0 < found.gap == pytest.approx(objective.value(near) - best.value, rel=1e-4)
    assert found.distance == math.inf
    impossible = {"logits": np.where(np.isfinite(best.params["logits"]), -np.inf, 0.0)}
    assert objective.certificate(impossible).gap == math.inf


def test_ignored_targets_are_left_out_of_the_optimum() -> None:
    dataset = SequenceDataset(np.random.default_rng(1).choice(4, 400))
    objective = Objective(Categorical(4), dataset, CrossEntropy(ignore_index=3))
    counts = np.bincount(dataset.tokens, minlength=4)[:3]
    least = float(-(counts * np.log(counts / counts.sum())).sum())
    params = {"logits": np.array([0.3, 0.1, 0.0, -50.0])}
    assert objective.certificate(params).lower_bound == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("name", ["categorical", "bigram", "softmax_regression"])
def test_a_penalty_certifies_gap_and_distance(name: str, counts: bool) -> None:
    objective = CASES[name].objective(l2=0.4, counts=counts, block_rows=64)
    best = newton(objective)
    least = objective.value(best)
    for size in (3.0, 0.3, 1e-3):
        params = shifted(best, size)
        gap, far = objective.value(params) - least, distance(params, best)
        simple, tight = (objective.certificate(params, iterations=n) for n in (0, 100))
        assert simple.method == "strong convexity"
        assert simple.gap == pytest.approx(simple.gradient_norm**2 / 0.8, rel=1e-12)
        for found in (simple, tight):
            assert found.gap >= gap - 1e-14 * least, "but for the rounding of the difference"
            assert far <= found.distance <= found.gradient_norm / 0.4
            assert found.radius == math.inf
            assert found.value == objective.value(params)
        assert tight.gap <= simple.gap
        if size <= 0.3:
            assert tight.method == "duality"
        if size <= 1e-3:
            assert tight.gap == pytest.approx(gap, rel=1e-2), "the gap itself, to first order"
    assert objective.certificate(best).gap < 1e-13 * least


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": [1.0, 2.0, 0.5]}, {"temperature": 1.7}])
def test_without_a_penalty_duality_bounds_the_gap(options: dict[str, Any]) -> None:
    objective = Objective(SoftmaxRegression(4, 3), labelled(), CrossEntropy(**options), block_rows=16)
    best = newton(objective)
    least = objective.value(best)
    assert objective.gradient_norm(best) < 1e-9, "no argmin, no test"
    for size in (0.1, 1e-2, 1e-4):
        params = shifted(best, size)
        found = objective.certificate(params)
        gap = objective.value(params) - least
        assert found.method == "duality"
        assert gap - 1e-14 * least <= found.gap
        assert found.gap == pytest.approx(gap, rel=0.3)
        assert found.distance == math.inf
        norm = math.sqrt(sum(float(np.square(array).sum()) for array in params.values()))
        assert found.radius == 1000.0 * max(1.0, norm)


def test_far_away_the_value_is_all_that_is_known() -> None:
    objective = Objective(SoftmaxRegression(4, 3), labelled())
    found = objective.certificate(shifted(objective.model.init(0, np.float64), 50.0))
    assert (found.method, found.gap, found.radius) == ("value", found.value, math.inf)
    assert found.lower_bound == 0.0
    # Data that a hyperplane separates: the least loss is 0, at infinity.
    data = FeatureDataset([[-1.0], [-2.0], [1.0], [3.0]], [0, 0, 1, 1], n_classes=2)
    params = {"weight": np.array([[-4.0], [4.0]]), "bias": np.zeros(2)}
    found = Objective(SoftmaxRegression(1, 2), data).certificate(params)
    assert found.gap == pytest.approx(found.value, rel=1e-3)


def test_a_stationary_point_and_float32() -> None:
    data = FeatureDataset([[1.0, 0.0], [1.0, 0.0]], [0, 1], n_classes=2)
    objective = Objective(SoftmaxRegression(2, 2), data)
    found = objective.certificate(objective.model.init())
    assert found == Certificate(2 * math.log(2), 0.0, 0.0, 0.0, math.inf, "duality")
    assert found.value == pytest.approx(2 * math.log(2), rel=1e-15), "computed in float64 for float32 parameters"


def test_a_loss_that_is_infinite() -> None:
    objective = Objective(Categorical(2), SequenceDataset([0, 1]), l2=1.0)
    with np.errstate(invalid="ignore"):
        found = objective.certificate({"logits": np.array([0.0, -np.inf])})
    assert found.gap == found.distance == math.inf


def test_threads_change_no_bit() -> None:
    objective = CASES["softmax_regression"].objective(block_rows=16)
    params = shifted(newton(objective, 8), 0.05)
    results = []
    for threads in (1, 2, 5):
        with fn.using(threads=threads):
            results.append(objective.certificate(params))
    assert results[0] == results[1] == results[2]


def test_what_cannot_be_certified() -> None:
    ngram = CASES["ngram"]
    with pytest.raises(OptionError, match="certificate: expected a convex model, got 'ngram'"):
        ngram.objective(l2=1.0).certificate(ngram.params())
    for options in ({"softcap": 3.0}, {"z_loss": 0.1}):
        objective = Objective(Categorical(7), ragged(), CrossEntropy(**options), l2=1.0)
        with pytest.raises(
            OptionError, match=f"certificate: expected a convex loss, got one with {next(iter(options))}"
        ):
            objective.certificate(objective.model.init())


def test_divergence_has_all_its_digits() -> None:
    fractions = pytest.importorskip("mpmath", reason="digits beyond float64 come from mpmath")
    values = [-1.0, -0.999, -0.3, -0.0501, -0.0499, -1e-3, -1e-9, 0.0, 1e-300, 1e-8, 0.0499, 0.0501, 0.5, 7.0, 1e9]
    with fractions.workdps(60):
        wanted = [float((1 + fractions.mpf(d)) * fractions.log1p(d) - d) if d > -1 else 1.0 for d in values]
    np.testing.assert_allclose(divergence(np.array(values)), wanted, rtol=3e-14, atol=0)
