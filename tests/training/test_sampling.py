"""Batches: every prediction once an epoch, from the same context as in the uncut sequence, sizes nearly equal."""

from __future__ import annotations

import numpy as np
import pytest

from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import OptionError
from fastnll.models import Bigram, Categorical, Model, NGram, SoftmaxRegression
from fastnll.objective import Objective
from fastnll.sampling import Sampler
from tests.training.small import ragged

MODELS = [Categorical(7), Bigram(7), NGram(7, context=4, dim=3, hidden=5)]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
@pytest.mark.parametrize("budget", [1, 5, 64, 300, 10**6])
def test_an_epoch_adds_up_to_the_objective(model: Model, budget: int) -> None:
    objective = Objective(model, ragged(), l2=0.1)
    params = {name: array + 0.1 for name, array in model.init(1, np.float64).items()}
    value, grads = objective.value_and_grad(params)
    sampler = Sampler(objective, budget, seed=4)
    parts = [sampler.objective.batch_value_and_grad(params, ids) for ids, _ in sampler.epoch(2)]
    assert sum(n for _, n, _ in parts) == objective.n_predicted
    assert sum(loss for loss, _, _ in parts) == pytest.approx(value, rel=1e-11)
    for name, grad in grads.items():
        np.testing.assert_allclose(sum(part[2][name] for part in parts), grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_batches_are_nearly_equal(model: Model) -> None:
    # One document of 50 times the budget beside short ones.
    dataset = SequenceDataset.from_sequences([np.arange(50 * 512) % 7, *([np.arange(100) % 7] * 200)])
    sampler = Sampler(Objective(model, dataset), 512, seed=0)
    sizes = [
        sampler.objective.batch_value_and_grad(model.init(), ids)[1]
        for epoch in (0, 1)
        for ids, _ in sampler.epoch(epoch)
    ]
    assert min(sizes) > 512 / 2 * 0.8
    assert max(sizes) <= 1.5 * 512
    assert np.median(sizes) > 0.85 * 512


def test_last_is_said_once() -> None:
    sampler = Sampler(Objective(Bigram(7), ragged()), 64, seed=0)
    flags = [last for _, last in sampler.epoch(0)]
    assert flags == [False] * (len(flags) - 1) + [True]
    assert sampler.steps_per_epoch(0) == len(flags)
    assert [last for _, last in sampler.epoch(0, skip=len(flags) - 1)] == [True]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    objective = Objective(Bigram(7), ragged())

    def order(seed: int, epoch: int) -> list[int]:
        return [i for ids, _ in Sampler(objective, 64, seed=seed).epoch(epoch) if ids is not None for i in ids.tolist()]

    assert order(1, 1) == order(1, 1)
    assert sorted(order(1, 1)) == sorted(order(1, 2)) == sorted(order(2, 1))
    assert len({tuple(order(1, 1)), tuple(order(1, 2)), tuple(order(2, 1))}) == 3


def test_rows_of_features_are_not_cut() -> None:
    rng = np.random.default_rng(0)
    objective = Objective(SoftmaxRegression(3, 2), FeatureDataset(rng.standard_normal((50, 3)), rng.integers(0, 2, 50)))
    sampler = Sampler(objective, 16, seed=0)
    assert sampler.objective is objective
    seen = np.concatenate([ids for ids, _ in sampler.epoch(0) if ids is not None])
    assert sorted(seen.tolist()) == list(range(50))


def test_errors_come_before_the_first_batch() -> None:
    objective = Objective(Bigram(7), ragged())
    with pytest.raises(OptionError, match="batch_tokens"):
        Sampler(objective, 0)
    with pytest.raises(OptionError, match="seed"):
        Sampler(objective, 10, seed=-1)
