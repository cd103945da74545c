"""The same bits for any number of threads, on the grid of blocks; and any grid where counts say it all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Model, NGram, SoftmaxRegression
from fastnll.objective import Objective
from fastnll.objective.grid import default_block_rows, is_wide
from tests.models.longhand import random_params
from tests.objective.cases import CASES, TABLES, Case, bits

ROWS = 16


def problem(kind: str, n_blocks: int) -> Case:
    """Sequences of exactly one block of rows each, except a shorter last one."""
    rng = np.random.default_rng(n_blocks)
    if kind == "softmax_regression":
        n = n_blocks * ROWS - 5
        return Case(
            SoftmaxRegression(6, 5), FeatureDataset(rng.normal(size=(n, 6)), rng.integers(0, 5, n), n_classes=5)
        )
    model: Model = NGram(11, context=2, dim=8, hidden=16) if kind == "ngram" else Bigram(11)
    lengths = [ROWS + 1] * (n_blocks - 1) + [ROWS - 4]
    return Case(model, SequenceDataset.from_sequences([rng.integers(0, 11, n) for n in lengths], 11))


@pytest.mark.parametrize("kind", ["ngram", "softmax_regression", "bigram"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_blocks", [1, 5, 70])
def test_threads_change_no_bit(kind: str, dtype: Any, n_blocks: int) -> None:
    case = problem(kind, n_blocks)
    params = random_params(case.model, 1, dtype)
    results = []
    for threads in (1, 2, 3, 7):
        objective = case.objective(block_rows=ROWS, counts=False)
        with fn.using(threads=threads):
            value, grads = objective.value_and_grad(params)
            results.append((value, objective.value(params), objective.per_sequence(params).tobytes(), bits(grads)))
    assert all(result == results[0] for result in results)
    through_options = case.objective(block_rows=ROWS, counts=False, loss=CrossEntropy(threads=2))
    assert bits(through_options.value_and_grad(params)[1]) == results[0][3]


@pytest.mark.parametrize("kind", ["ngram", "bigram"])
def test_batches_cut_on_the_grid_have_the_bits_of_the_whole(kind: str) -> None:
    n_blocks = 12
    case = problem(kind, n_blocks)
    objective = case.objective(block_rows=ROWS, counts=False)
    params = random_params(case.model, 2)
    value, grads = objective.value_and_grad(params)
    blocks = [objective.batch_value_and_grad(params, [i]) for i in range(n_blocks)]
    assert math.fsum(loss for loss, _, _ in blocks) == value == objective.value(params)
    for name, grad in grads.items():
        total = blocks[0][2][name].copy()
        for _, _, part in blocks[1:]:
            total += part[name]
        assert total.tobytes() == grad.tobytes()
    whole = objective.per_sequence(params)
    for size in (1, 2, 5, n_blocks):
        parts = [
            Objective(case.model, case.dataset[low : low + size], block_rows=ROWS, counts=False).per_sequence(params)
            for low in range(0, n_blocks, size)
        ]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_do_not_know_the_grid(name: str, dtype: Any) -> None:
    case = CASES[name]
    params = case.params(dtype)
    results = []
    for rows in (1, 3, 64, None):
        objective = case.objective(block_rows=rows)
        value, grads = objective.value_and_grad(params)
        results.append((value, objective.value(params), objective.per_sequence(params).tobytes(), bits(grads)))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", CASES)
def test_other_grids_differ_by_rounding_alone(name: str) -> None:
    case = CASES[name]
    params = case.params()
    objectives = [case.objective(block_rows=rows, counts=False) for rows in (1, 5, 17, 4096)]
    results = [objective.value_and_grad(params) for objective in objectives]
    for value, grads in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-13)
        for key, grad in grads.items():
            np.testing.assert_allclose(grad, results[0][1][key], rtol=1e-10, atol=1e-11)


def test_a_float32_gradient_over_many_blocks_keeps_its_digits() -> None:
    # 5000 blocks of one row, all with nearly the same gradient: added up one by one in float32, the sum would be off by
    # hundreds of roundings.
    n = 5_000
    data = FeatureDataset(np.full((n, 1), 1.1, np.float32), np.zeros(n, np.uint8), n_classes=2)
    objective = Objective(SoftmaxRegression(1, 2), data, block_rows=1)
    _, grads = objective.value_and_grad({"weight": np.zeros((2, 1), np.float32), "bias": np.zeros(2, np.float32)})
    want = -0.5 * float(np.float32(1.1)) * n
    assert abs(float(grads["weight"][0, 0]) / want - 1) < 2 * 2.0**-23


@pytest.mark.parametrize(
    "model",
    [Bigram(2), Bigram(4096), Bigram(300_000), NGram(103), NGram(50257, 4, 256, 512), SoftmaxRegression(784, 10)],
)
def test_blocks_are_bounded_in_memory(model: Model) -> None:
    rows = default_block_rows(model)
    assert 16 <= rows <= 4096
    assert rows & (rows - 1) == 0
    assert rows * model.vocab_size <= 1 << 24 or rows == 16 or is_wide(model), "wide heads never hold their logits"
