"""Second derivatives, against central differences of the gradient and against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

import fastnll as fn
from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import OptionError, ShapeError
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Model, NGram, SoftmaxRegression
from fastnll.objective import Objective
from tests.models.longhand import random_params
from tests.objective.cases import CASES, TABLES, Case, bits, labelled, ragged

Array = np.ndarray[Any, Any]

# By the number of classes, since weights and masks have one entry each.
LOSSES: dict[str, Any] = {
    "plain": lambda v: {},
    "ignored": lambda v: {"ignore_index": [1, -100]},
    "smoothing": lambda v: {"label_smoothing": 0.2},
    "class weights": lambda v: {"weight": np.linspace(0.0, 2.0, v)},
    "temperature": lambda v: {"temperature": 0.7},
    "softcap": lambda v: {"softcap": 1.5},
    "z loss": lambda v: {"z_loss": 0.3},
    "everything": lambda v: {
        "ignore_index": 2,
        "label_smoothing": 0.1,
        "weight": np.linspace(0.5, 2.0, v),
        "temperature": 1.3,
        "softcap": 2.0,
        "z_loss": 0.1,
    },
}


def direction(model: Model, seed: int = 9) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in model.shapes().items()}


def along(objective: Objective, params: dict[str, Array], vector: dict[str, Array], h: float) -> dict[str, Array]:
    """The derivative of the gradient in a direction, by central differences."""
    up, down = ({name: params[name] + sign * h * vector[name] for name in params} for sign in (1, -1))
    more, less = objective.value_and_grad(up)[1], objective.value_and_grad(down)[1]
    return {name: (more[name] - less[name]) / (2 * h) for name in params}


def assert_near(found: dict[str, Array], wanted: dict[str, Array], rtol: float) -> None:
    scale = max(float(np.abs(array).max()) for array in wanted.values())
    assert scale > 1e-3, "zeros would test nothing"
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("counts", [True, False], ids=["counts", "rows"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_hessian_vector_product_is_the_derivative_of_the_gradient(case: Case, loss: Any, counts: bool) -> None:
    options = CrossEntropy(**loss(case.model.vocab_size))
    objective = case.objective(loss=options, l2=0.3, counts=counts, block_rows=16)
    params, vector = case.params(), direction(case.model)
    assert_near(objective.hvp(params, vector), along(objective, params, vector, 1e-5), 1e-8)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("name", [name for name in CASES if "uint16" not in name])
def test_the_diagonal_is_that_of_the_hessian(name: str, loss: Any) -> None:
    case = CASES[name]
    objective = case.objective(loss=CrossEntropy(**loss(case.model.vocab_size)), l2=0.3, block_rows=16)
    params = case.params()
    zero = {key: np.zeros_like(array) for key, array in params.items()}
    wanted = {key: np.empty_like(array) for key, array in params.items()}
    for key, array in wanted.items():
        for place in np.ndindex(array.shape):
            unit = zero | {key: np.zeros_like(array)}
            unit[key][place] = 1.0
            array[place] = objective.hvp(params, unit)[key][place]
    assert_near(objective.hessian_diagonal(params), wanted, 1e-12)


def test_a_class_mask_and_padded_classes() -> None:
    model, dataset = Bigram(9), ragged()
    mask = np.arange(9) != 8
    for options in ({"class_mask": mask}, {"valid_classes": 7}, {"class_mask": mask, "label_smoothing": 0.1}):
        objective = Objective(model, dataset, CrossEntropy(**options))
        params, vector = random_params(model, 3, np.float64), direction(model)
        found = objective.hvp(params, vector)
        assert_near(found, along(objective, params, vector, 1e-5), 1e-8)
        assert (found["logits"][:, 8] == 0).all()


def test_a_token_that_stands_twice_in_a_context() -> None:
    """Its embedding moves both places at once: the cross terms are half of the diagonal here."""
    model = NGram(3, context=3, dim=2, hidden=4)
    dataset = SequenceDataset([1, 1, 1, 1, 0, 2, 1, 1, 2])
    objective, params = Objective(model, dataset), random_params(model, 0, np.float64)
    diagonal = objective.hessian_diagonal(params)["embedding"]
    for place in np.ndindex(diagonal.shape):
        unit = {key: np.zeros_like(array) for key, array in params.items()}
        unit["embedding"][place] = 1.0
        assert diagonal[place] == pytest.approx(objective.hvp(params, unit)["embedding"][place], abs=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_hessian_is_symmetric(case: Case) -> None:
    objective, params = case.objective(l2=0.1), case.params()
    u, v = direction(case.model, 1), direction(case.model, 2)
    products = [objective.hvp(params, w) for w in (u, v)]
    first, second = (
        sum(float(np.vdot(a[name], b[name])) for name in a) for a, b in ((v, products[0]), (u, products[1]))
    )
    assert first == pytest.approx(second, rel=1e-11)


@pytest.mark.parametrize("name", TABLES)
def test_counts_and_rows_agree(name: str) -> None:
    case = CASES[name]
    params, vector = case.params(), direction(case.model)
    fast, slow = (case.objective(l2=0.2, counts=counts) for counts in (True, False))
    assert_near(fast.hvp(params, vector), slow.hvp(params, vector), 1e-13)
    assert_near(fast.hessian_diagonal(params), slow.hessian_diagonal(params), 1e-13)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_threads_change_no_bit(case: Case) -> None:
    params, vector = case.params(np.float32), direction(case.model)
    results = []
    for threads in (1, 2, 5):
        with fn.using(threads=threads):
            objective = case.objective(l2=0.1, counts=False, block_rows=16)
            results.append((bits(objective.hvp(params, vector)), bits(objective.hessian_diagonal(params))))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32_is_near_float64(case: Case) -> None:
    objective, vector = case.objective(), direction(case.model)
    single, double = case.params(np.float32), case.params(np.float64)
    found = objective.hvp(single, vector)
    assert all(array.dtype == np.float32 for array in found.values())
    assert_near(found, objective.hvp(double, vector), 1e-5)
    assert_near(objective.hessian_diagonal(single), objective.hessian_diagonal(double), 1e-5)


def test_an_ignored_row_is_never_read() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    labels = [0, 1, 2, 0, 1, 1]
    loss = CrossEntropy(ignore_index=2)
    model = SoftmaxRegression(3, 3)
    params, vector = random_params(model, 1, np.float64), direction(model)
    live = np.array(labels) != 2
    with_it = Objective(model, FeatureDataset(features, labels, n_classes=3), loss)
    without = Objective(model, FeatureDataset(features[live], np.array(labels)[live], n_classes=3))
    assert_near(with_it.hvp(params, vector), without.hvp(params, vector), 1e-14)
    assert_near(with_it.hessian_diagonal(params), without.hessian_diagonal(params), 1e-14)


def test_sure_rows_keep_their_curvature() -> None:
    """p (1 - p) of p = 1 - 1e-13: one minus p would have three digits left."""
    objective = Objective(Bigram(2), SequenceDataset([0, 1]))
    diagonal = objective.hessian_diagonal({"logits": np.array([[0.0, 30.0], [0.0, 0.0]])})["logits"]
    p = np.exp(-30.0) / (1.0 + np.exp(-30.0))
    np.testing.assert_allclose(diagonal, [[p * (1 - p), p * (1 - p)], [0.0, 0.0]], rtol=1e-14)


def test_scipy_newton_needs_few_steps() -> None:
    objective = Objective(SoftmaxRegression(4, 3), labelled(), l2=0.5)
    problem = objective.scipy()
    fun, x0, _ = problem
    found = minimize(fun, x0(), jac=True, hessp=problem.hessp, method="trust-ncg", options={"gtol": 1e-7})
    assert found.nit < 30, "gradient descent would need hundreds"
    assert np.linalg.norm(fun(found.x)[1]) < 1e-6


def test_errors() -> None:
    case = CASES["bigram"]
    objective, params = case.objective(), case.params()
    with pytest.raises(OptionError, match="vector: expected exactly 'logits' for model 'bigram', got 'x'"):
        objective.hvp(params, {"x": params["logits"]})
    with pytest.raises(ShapeError, match=r"vector\['logits'\]: expected shape"):
        objective.hvp(params, {"logits": params["logits"][1:]})

    class Plain(SoftmaxRegression):
        logits_and_tangent = Model.logits_and_tangent
        add_diagonal = Model.add_diagonal

    plain = Objective(Plain(4, 3), labelled())
    start = plain.model.init(0, np.float64)
    with pytest.raises(OptionError, match="expected one with second derivatives"):
        plain.hvp(start, start)
    with pytest.raises(OptionError, match="expected one with second derivatives"):
        plain.hessian_diagonal(start)


def test_the_gradient_norm_is_computed_in_float64() -> None:
    case = CASES["ngram"]
    objective, params = case.objective(l2=0.1), case.params(np.float32)
    double = {name: array.astype(np.float64) for name, array in params.items()}
    grads = objective.value_and_grad(double)[1]
    wanted = np.sqrt(sum(np.square(array).sum() for array in grads.values()))
    assert objective.gradient_norm(params) == pytest.approx(wanted, rel=1e-14)
