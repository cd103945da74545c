"""Minimising the negative log-likelihood is maximising the likelihood."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import SequenceDataset
from fastnll.models import Bigram, Categorical, NGram, TableModel
from fastnll.objective import Objective
from fastnll.optim import SGD
from tests.models.longhand import random_params

Array = np.ndarray[Any, Any]
DATA = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), min_size=1, max_size=4)


def likelihood(table: Array, sequences: list[list[int]], context: int) -> Fraction:
    """The product of the probabilities of everything that happened, in exact arithmetic."""
    product = Fraction(1)
    for sequence in sequences:
        for i in range(context, len(sequence)):
            row = table[sequence[i - 1]] if context else table[0]
            product *= Fraction(float(row[sequence[i]]))
    return product


@given(DATA, st.integers(0, 10**6), st.sampled_from([Categorical(4), Bigram(4)]))
def test_both_pick_the_same_parameters(sequences: list[list[int]], seed: int, model: TableModel) -> None:
    rng = np.random.default_rng(seed)
    tables = rng.dirichlet(np.ones(4), size=(5, model.n_contexts))
    objective = Objective(model, SequenceDataset.from_sequences(sequences, 4))
    likelihoods = {i: likelihood(table, sequences, model.skip) for i, table in enumerate(tables)}
    candidates = {i: {"logits": np.log(table).reshape(model.shapes()["logits"])} for i, table in enumerate(tables)}
    key, value = objective.select(candidates)
    assert key == max(likelihoods, key=likelihoods.__getitem__)
    assert math.exp(-value) == pytest.approx(float(likelihoods[key]), rel=1e-11)
    assert objective.log_likelihood(candidates[key]) == -value


@given(DATA, st.integers(0, 10**6), st.sampled_from([Categorical(4), Bigram(4)]))
def test_no_parameters_are_more_likely_than_the_relative_frequencies(
    sequences: list[list[int]], seed: int, model: TableModel
) -> None:
    dataset = SequenceDataset.from_sequences(sequences, 4)
    best = model.optimum(dataset)
    objective = Objective(model, dataset)
    at_best = objective.value(best.params)
    assert at_best == pytest.approx(best.value, rel=1e-12, abs=1e-12)
    rng = np.random.default_rng(seed)
    for scale in (1e-3, 1.0):
        near = {"logits": best.params["logits"] + rng.normal(0, scale, model.shapes()["logits"])}
        assert objective.value(near) >= at_best - 1e-12
    _, grads = objective.value_and_grad(best.params)
    assert np.abs(grads["logits"]).max() < 1e-12


@pytest.mark.parametrize(
    "model", [Categorical(4), Bigram(4), NGram(4, context=2, dim=3, hidden=4)], ids=lambda m: m.name
)
def test_descending_the_loss_is_climbing_the_log_likelihood(model: Any) -> None:
    dataset = SequenceDataset([0, 1, 3, 3, 2, 1, 0, 0, 3], [0, 4, 9])
    objective = Objective(model, dataset)
    down, up = random_params(model, 0), random_params(model, 0)
    descent, ascent = SGD(down, lr=0.05), SGD(up, lr=0.05, maximize=True)
    before = objective.log_likelihood(up)
    for _ in range(20):
        descent.step(objective.value_and_grad(down)[1])
        # The gradient of the log-likelihood is the negative one; climbing along it is the same path, to the bit.
        ascent.step({name: -grad for name, grad in objective.value_and_grad(up)[1].items()})
    for name, array in down.items():
        assert (array == up[name]).all()
    assert objective.log_likelihood(up) > before


@given(DATA, st.integers(0, 10**6))
def test_the_objective_is_a_sum_over_sequences(sequences: list[list[int]], seed: int) -> None:
    model = Bigram(4)
    params = random_params(model, seed)
    parts = [Objective(model, SequenceDataset(s, vocab_size=4)).value(params) for s in sequences]
    whole = Objective(model, SequenceDataset.from_sequences(sequences, 4))
    assert whole.value(params) == pytest.approx(math.fsum(parts), rel=1e-13)
    np.testing.assert_allclose(whole.per_sequence(params), parts, rtol=1e-13)
    # Twice the data, twice the objective, the same argmin.
    twice = Objective(model, SequenceDataset.from_sequences(sequences * 2, 4))
    assert twice.value(params) == pytest.approx(2 * whole.value(params), rel=1e-13)
