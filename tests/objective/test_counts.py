"""Counts stand for rows: the same objective, chosen where it is the same and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import SequenceDataset
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Categorical, NGram, TableModel, tables
from fastnll.objective import Objective, evaluate
from tests.objective.cases import CASES, TABLES

Array = np.ndarray[Any, Any]
LOGITS = st.floats(-30, 30, width=32)


@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=5), st.lists(LOGITS, min_size=16, max_size=16))
def test_counts_and_rows_agree_on_any_data(sequences: list[list[int]], numbers: list[float]) -> None:
    dataset = SequenceDataset.from_sequences(sequences, 4)
    for model, logits in ((Bigram(4), np.reshape(numbers, (4, 4))), (Categorical(4), np.array(numbers[:4]))):
        if not any(len(s) > model.skip for s in sequences):
            continue
        params = {"logits": logits}
        counted, rowwise = Objective(model, dataset), Objective(model, dataset, counts=False)
        value, grads = counted.value_and_grad(params)
        want, want_grads = rowwise.value_and_grad(params)
        assert value == counted.value(params) == pytest.approx(want, rel=1e-13, abs=1e-300)
        np.testing.assert_allclose(grads["logits"], want_grads["logits"], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(counted.per_sequence(params), rowwise.per_sequence(params), rtol=1e-13, atol=0)
        assert counted.n_predicted == rowwise.n_predicted == sum(max(len(s) - model.skip, 0) for s in sequences)


def test_vocabularies_too_large_for_a_table_of_counts() -> None:
    # 2100**2 pairs are beyond the dense tables, of counts and of looked-up losses; most contexts never occur.
    v = 2100
    rng = np.random.default_rng(0)
    dataset = SequenceDataset.from_sequences([rng.integers(0, v, n) for n in (400, 0, 1, 2, 90)], v)
    params = {"logits": rng.normal(size=(v, v)).astype(np.float32)}
    counted, rowwise = Objective(Bigram(v), dataset), Objective(Bigram(v), dataset, counts=False)
    value, grads = counted.value_and_grad(params)
    want, want_grads = rowwise.value_and_grad(params)
    assert value == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(grads["logits"], want_grads["logits"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(counted.per_sequence(params), rowwise.per_sequence(params), rtol=1e-6)
    assert (np.abs(grads["logits"]).sum(axis=1) > 0).sum() == np.unique(np.concatenate([x[:-1] for x in dataset])).size


@pytest.mark.parametrize("name", TABLES)
def test_datasets_and_tables_larger_than_a_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    params = case.params()
    want = case.objective()
    value, grads = want.value_and_grad(params)
    per_sequence = want.per_sequence(params)
    monkeypatch.setattr(tables, "_ROWS", 7)
    monkeypatch.setattr(tables, "_FLOATS", 2 * case.model.vocab_size)
    monkeypatch.setattr(evaluate, "_LOOKUP_ROWS", 5)
    piecemeal = case.objective()
    again, again_grads = piecemeal.value_and_grad(params)
    assert again == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(again_grads["logits"], grads["logits"], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(piecemeal.per_sequence(params), per_sequence, rtol=1e-14)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the rows of every counting pass."""
    passes: list[int] = []
    count = TableModel.count

    def recorded(self: TableModel, data: Any, spans: Any) -> Any:
        passes.append(spans.n_rows)
        return count(self, data, spans)

    monkeypatch.setattr(TableModel, "count", recorded)
    return passes


@pytest.mark.parametrize("name", TABLES)
def test_a_dataset_is_counted_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, case = counting(monkeypatch), CASES[name]
    objective, params = case.objective(), case.params()
    for _ in range(3):
        objective.value(params)
        objective.value_and_grad(params)
        objective.per_sequence(params)
        objective.perplexity(params)
    assert passes == [objective.n_predicted]
    _, n, _ = objective.batch_value_and_grad(params, [0])
    assert passes[1:] == [n]


@pytest.mark.parametrize(
    "loss", [CrossEntropy(label_smoothing=0.1), CrossEntropy(temperature=0.5), CrossEntropy(weight=np.ones(7))]
)
def test_rows_are_walked_where_counts_do_not_say_it_all(loss: CrossEntropy, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, case = counting(monkeypatch), CASES["bigram"]
    case.objective(loss=loss).value_and_grad(case.params())
    case.objective(counts=False).value_and_grad(case.params())
    Objective(NGram(7), case.dataset).value_and_grad(NGram(7).init())
    assert passes == []


@pytest.mark.parametrize(
    "loss", [CrossEntropy(reduction="none"), CrossEntropy(ignore_index=3), CrossEntropy(threads=1)]
)
def test_options_that_leave_the_loss_alone_are_counted(loss: CrossEntropy, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, case = counting(monkeypatch), CASES["bigram"]
    case.objective(loss=loss).value_and_grad(case.params())
    assert len(passes) == 1
