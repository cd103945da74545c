"""The objective in SciPy's optimisers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize

from fastnll.data import SequenceDataset
from fastnll.errors import ShapeError
from fastnll.models import Bigram, SoftmaxRegression, bigram_optimum
from fastnll.objective import Objective
from tests.objective.cases import CASES, Case, labelled


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_vectors_and_parameters_are_the_same_numbers(case: Case) -> None:
    objective, params = case.objective(), case.params()
    fun, x0, unpack = objective.scipy()
    x = x0(params)
    assert x.shape == (case.model.n_parameters,)
    assert x.dtype == np.float64
    again = unpack(x)
    assert list(again) == list(case.model.shapes())
    for name, array in params.items():
        assert (again[name] == array).all()
        assert np.shares_memory(again[name], x)
    value, grad = fun(x)
    want, grads = objective.value_and_grad(params)
    assert value == want
    assert (grad == x0(grads)).all()
    assert (x0(seed=4) == x0(case.model.init(4, np.float64))).all()
    with pytest.raises(ShapeError, match=rf"x: expected shape \({x.size},\), all parameters"):
        fun(x[:-1])


def test_scipy_finds_no_fault_with_the_gradient() -> None:
    fun, x0, _ = CASES["ngram"].objective(l2=0.1).scipy()
    x = x0(CASES["ngram"].params())
    assert check_grad(lambda v: fun(v)[0], lambda v: fun(v)[1], x) < 1e-4 * np.linalg.norm(fun(x)[1])


def test_lbfgs_reaches_the_bigram_optimum() -> None:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(6, 0.7), 6)
    tokens = [0]
    for _ in range(3000):
        tokens.append(int(rng.choice(6, p=table[tokens[-1]])))
    dataset = SequenceDataset(tokens)
    best = bigram_optimum(dataset)
    fun, x0, unpack = Objective(Bigram(6), dataset).scipy()
    result = minimize(fun, x0(), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9})
    assert result.fun >= best.value - 1e-9
    assert result.fun == pytest.approx(best.value, rel=1e-6)
    seen = np.isfinite(best.params["logits"])
    found = unpack(result.x)["logits"]
    found -= np.logaddexp.reduce(found, axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(found[seen]), np.exp(best.params["logits"][seen]), atol=1e-4)


def test_a_penalty_gives_one_argmin() -> None:
    objective = Objective(SoftmaxRegression(4, 3), labelled(), l2=0.5)
    fun, x0, _ = objective.scipy()
    rng = np.random.default_rng(1)
    ends = [minimize(fun, rng.normal(size=15), jac=True, options={"gtol": 1e-9}).x for _ in range(2)]
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)
    assert np.linalg.norm(fun(ends[0])[1]) < 1e-6
    assert x0().shape == ends[0].shape
