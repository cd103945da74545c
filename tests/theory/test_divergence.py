"""The objective is the entropy of the data plus the divergence of the model from it.

Per token, J(theta) / N = H(p) + KL(p || q_theta), with p the relative frequencies in the data. The entropy depends on
the data alone, so minimising the objective is minimising the divergence, and no model of a kind gets below its entropy.
Entropies and divergences here are SciPy's, and those of `fastnll.data`, which count on their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy

from fastnll.data import SequenceDataset, bigram_counts, bigram_entropy, n_pairs, unigram_counts, unigram_entropy
from fastnll.models import Bigram, Categorical, NGram, bigram_optimum
from fastnll.objective import Objective
from tests.models.longhand import random_params

Array = np.ndarray[Any, Any]
RAGGED = st.lists(st.lists(st.integers(0, 4), max_size=30), min_size=1, max_size=6)


def divergence_of_tokens(dataset: SequenceDataset, logits: Array) -> float:
    p = unigram_counts(dataset) / dataset.n_tokens
    return float(rel_entr(p, np.exp(log_softmax(logits))).sum())


def divergence_of_pairs(dataset: SequenceDataset, logits: Array) -> float:
    """Mean over the data's contexts of KL(p(. | context) || q(. | context))."""
    counts = bigram_counts(dataset)
    seen = counts.sum(axis=1) > 0
    p = counts[seen] / counts[seen].sum(axis=1, keepdims=True)
    q = np.exp(log_softmax(logits[seen], axis=1))
    return float((counts[seen].sum(axis=1) / counts.sum()) @ rel_entr(p, q).sum(axis=1))


def check(dataset: SequenceDataset, seed: int, rel: float) -> None:
    v = dataset.vocab_size
    if dataset.n_tokens:
        model: Any = Categorical(v)
        params = random_params(model, seed)
        objective = Objective(model, dataset)
        gap = objective.value(params) / objective.n_predicted - unigram_entropy(dataset)
        assert gap == pytest.approx(divergence_of_tokens(dataset, params["logits"]), rel=rel, abs=1e-13)
        assert unigram_entropy(dataset) == pytest.approx(entropy(unigram_counts(dataset)), rel=1e-12, abs=1e-15)
    if n_pairs(dataset):
        model = Bigram(v)
        params = random_params(model, seed)
        objective = Objective(model, dataset)
        gap = objective.value(params) / objective.n_predicted - bigram_entropy(dataset)
        assert gap == pytest.approx(divergence_of_pairs(dataset, params["logits"]), rel=rel, abs=1e-13)


@given(RAGGED, st.integers(0, 10**6))
def test_on_any_data(sequences: list[list[int]], seed: int) -> None:
    check(SequenceDataset.from_sequences(sequences, 5), seed, rel=1e-10)


@pytest.mark.parametrize("name", ["python_docs", "opcodes"])
def test_on_real_data(embedded: dict[str, SequenceDataset], name: str) -> None:
    check(embedded[name], seed=1, rel=1e-11)


@pytest.mark.parametrize("name", ["python_docs", "opcodes"])
def test_the_row_path_says_the_same_of_real_data(embedded: dict[str, SequenceDataset], name: str) -> None:
    part = embedded[name][:60]
    model = Bigram(part.vocab_size)
    params = random_params(model, 2)
    objective = Objective(model, part, counts=False)
    gap = objective.value(params) / objective.n_predicted - bigram_entropy(part)
    assert gap == pytest.approx(divergence_of_pairs(part, params["logits"]), rel=1e-11)


@pytest.mark.parametrize("name", ["python_docs", "opcodes"])
def test_the_bigram_optimum_of_real_data(embedded: dict[str, SequenceDataset], name: str) -> None:
    dataset = embedded[name]
    best = bigram_optimum(dataset)
    model = Bigram(dataset.vocab_size)
    objective = Objective(model, dataset)
    assert best.n_predicted == n_pairs(dataset) == objective.n_predicted
    assert best.value == pytest.approx(n_pairs(dataset) * bigram_entropy(dataset), rel=1e-12)
    assert objective.value(best.params) == pytest.approx(best.value, rel=1e-12)
    assert objective.per_sequence(best.params).sum() == pytest.approx(best.value, rel=1e-12)
    _, grads = objective.value_and_grad(best.params)
    assert np.abs(grads["logits"]).max() < 1e-9 * dataset.n_tokens
    # With log(0) replaced by a large negative number, all but nothing is lost, and every text has a finite loss.
    finite = bigram_optimum(dataset, unseen=-40.0)
    assert finite.value == best.value
    assert objective.value(finite.params) == pytest.approx(best.value, rel=1e-12)
    assert objective.value(finite.params) >= best.value
    # float32 parameters are the same optimum up to their rounding.
    assert objective.value(bigram_optimum(dataset, dtype=np.float32).params) == pytest.approx(best.value, rel=1e-6)
    # Knowing the last token helps: H(next | previous) < H(next).
    assert best.value / best.n_predicted < unigram_entropy(dataset)


@pytest.mark.parametrize("name", ["python_docs", "opcodes"])
def test_models_without_freedom_stay_above_the_entropy(embedded: dict[str, SequenceDataset], name: str) -> None:
    # An n-gram network that sees one token back is a bigram model with fewer parameters: it cannot get below.
    part = embedded[name][:40]
    model = NGram(part.vocab_size, context=1, dim=8, hidden=16)
    objective = Objective(model, part)
    for seed in range(3):
        assert objective.value(model.init(seed)) > bigram_optimum(part).value


def test_what_the_optimum_looks_like() -> None:
    # After 0: 1, 1, 2. After 1: 0, 0. After 2: nothing, the sequence ends there. Id 3 never occurs.
    dataset = SequenceDataset([0, 1, 0, 1, 0, 2], vocab_size=4)
    best = bigram_optimum(dataset)
    probabilities = np.exp(best.params["logits"])
    want = np.array([[0, 2 / 3, 1 / 3, 0], [1, 0, 0, 0], [0.25] * 4, [0.25] * 4])
    np.testing.assert_allclose(probabilities, want, rtol=1e-14)
    assert best.value == pytest.approx(2 * np.log(3 / 2) + np.log(3))
    assert best.n_predicted == 5
    wide = bigram_optimum(dataset, vocab_size=6, unseen=-30.0)
    assert wide.params["logits"].shape == (6, 6)
    assert wide.params["logits"][0, 3] == -30.0
    assert wide.value == best.value
