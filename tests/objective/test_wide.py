"""Models with a head over many classes, whose logits are never held: the same numbers as when they are."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.losses import CrossEntropy
from fastnll.models import Model, NGram, SoftmaxRegression
from fastnll.objective import Objective, evaluate
from tests.models.longhand import random_params
from tests.objective.cases import bits

Array = np.ndarray[Any, Any]
V = 2100


def text(n: int = 700, seed: int = 0) -> SequenceDataset:
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.zipf(1.2, n) - 1, V - 1)
    return SequenceDataset(tokens, [0, 3, 3, n // 2, n], vocab_size=V)


def labelled(n: int = 500, seed: int = 1) -> FeatureDataset:
    rng = np.random.default_rng(seed)
    return FeatureDataset(rng.normal(size=(n, 6)), rng.integers(0, V, n), n_classes=V)


CASES: dict[str, tuple[Model, Any]] = {
    "ngram": (NGram(V, context=3, dim=4, hidden=5), text()),
    "softmax_regression": (SoftmaxRegression(6, V), labelled()),
}
LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ignored": {"ignore_index": [0, 7]},
    "options": {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 3.0, "weight": np.linspace(0.5, 1.5, V)},
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("name", CASES)
def test_the_same_as_with_logits_that_are_held(
    name: str, loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset = CASES[name]
    objective = Objective(model, dataset, CrossEntropy(**loss), l2=0.1, block_rows=128)
    params, ids = random_params(model, 3, np.float64), [0, 2]
    wide = objective.value(params), objective.per_sequence(params), objective.value_and_grad(params)
    batch = objective.batch_value_and_grad(params, ids)
    monkeypatch.setattr(evaluate, "is_wide", lambda model: False)
    held = objective.value(params), objective.per_sequence(params), objective.value_and_grad(params)
    held_batch = objective.batch_value_and_grad(params, ids)
    assert wide[0] == pytest.approx(held[0], rel=1e-13)
    np.testing.assert_allclose(wide[1], held[1], rtol=1e-12)
    assert batch[:2] == (pytest.approx(held_batch[0], rel=1e-13), held_batch[1])
    for found, wanted in ((wide[2][1], held[2][1]), (batch[2], held_batch[2])):
        for key, array in wanted.items():
            np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-12 * np.abs(array).max(), err_msg=key)


def test_blocks_of_a_group_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 64 blocks on, two of them and more share one gradient before it joins the total."""
    model, dataset = CASES["ngram"]
    params = random_params(model, 3, np.float64)
    wide = Objective(model, dataset, block_rows=8).value_and_grad(params)
    monkeypatch.setattr(evaluate, "is_wide", lambda model: False)
    held = Objective(model, dataset, block_rows=8).value_and_grad(params)
    assert wide[0] == pytest.approx(held[0], rel=1e-13)
    for key, array in held[1].items():
        np.testing.assert_allclose(wide[1][key], array, rtol=0, atol=1e-12 * np.abs(array).max(), err_msg=key)


@pytest.mark.parametrize("v", [V, 9], ids=["wide", "narrow"])
def test_products_of_distinct_tokens(v: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where w1 is large, as it is called here for every size: the same numbers, the same bits on any threads."""
    from fastnll.models import ngram

    model = NGram(v, context=3, dim=4, hidden=5)
    dataset = SequenceDataset(text().tokens % v, [0, 3, 3, 350, 700], vocab_size=v)
    objective, params = Objective(model, dataset, block_rows=128), random_params(model, 3, np.float64)
    wanted = objective.value_and_grad(params)
    monkeypatch.setattr(ngram, "_LARGE", 0)
    monkeypatch.setattr(ngram, "_ROWS", 50)
    results = []
    for threads in (1, 2, 3):
        with fn.using(threads=threads):
            results.append(objective.value_and_grad(params))
    assert results[0][0] == results[1][0] == results[2][0] == pytest.approx(wanted[0], rel=1e-13)
    assert bits(results[0][1]) == bits(results[1][1]) == bits(results[2][1])
    for key, array in wanted[1].items():
        np.testing.assert_allclose(results[0][1][key], array, rtol=0, atol=1e-12 * np.abs(array).max(), err_msg=key)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_threads_change_no_bit(name: str, dtype: Any) -> None:
    model, dataset = CASES[name]
    params = random_params(model, 3, dtype)
    results = []
    for threads in (1, 2, 3):
        with fn.using(threads=threads):
            objective = Objective(model, dataset, block_rows=128)
            value, grads = objective.value_and_grad(params)
            results.append((value, objective.value(params), objective.per_sequence(params).tobytes(), bits(grads)))
    assert results[0] == results[1] == results[2]


def test_parts_of_rows_and_columns_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a part has, and a hidden layer of several parts of columns: threads really share the work."""
    from fastnll.models import ngram

    monkeypatch.setattr(ngram, "_ROWS", 64)
    monkeypatch.setattr(ngram, "_COLUMNS", 4)
    model, dataset = CASES["ngram"]
    params = random_params(model, 3, np.float32)
    results = []
    for threads in (1, 2, 3):
        with fn.using(threads=threads):
            results.append(bits(Objective(model, dataset).value_and_grad(params)[1]))
    assert results[0] == results[1] == results[2]


def test_logits_are_never_held() -> None:
    model = NGram(30_000, context=2, dim=4, hidden=8)
    dataset = SequenceDataset(np.arange(4001) % 30_000, vocab_size=30_000)
    objective, params = Objective(model, dataset), random_params(model, 3, np.float32)
    objective.value_and_grad(params)
    tracemalloc.start()
    objective.value_and_grad(params)
    objective.per_sequence(params)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Logits of all rows would be 480 MB, of one block 246 MB; the workspace of the head is bounded by 126 MB.
    assert peak < 160e6


def test_a_hidden_layer_of_one_part_is_that_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnll.models import ngram

    model, dataset = CASES["ngram"]
    params = random_params(model, 3, np.float64)
    inputs = model.examples(dataset.tokens, dataset.offsets).inputs
    weights = np.random.default_rng(5).normal(size=(inputs.shape[0], model.hidden))  # type: ignore[attr-defined]
    found = []
    for rows, columns in ((512, 256), (37, 5)):
        monkeypatch.setattr(ngram, "_ROWS", rows)
        monkeypatch.setattr(ngram, "_COLUMNS", columns)
        hidden, vjp = model.hidden_and_vjp(params, inputs)  # type: ignore[attr-defined]
        into = model.zeros(params)
        vjp(weights.copy(), into)
        found.append((hidden, into))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-13)
    for key, array in found[0][1].items():
        np.testing.assert_allclose(found[1][1][key], array, rtol=0, atol=1e-12)
