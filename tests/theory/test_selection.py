"""Training is selection: of all candidates take the one with the least loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import SequenceDataset
from fastnll.models import Bigram, Categorical
from fastnll.objective import Objective, select


def test_the_third_of_four() -> None:
    assert select({1: 0.8, 2: 0.3, 3: 0.1, 4: 0.5}) == (3, 0.1)


def test_the_objective_selects_numbers_in_the_same_way() -> None:
    objective = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]))
    assert objective.select({1: 0.8, 2: 0.3, 3: 0.1, 4: 0.5}) == (3, 0.1)


@given(st.dictionaries(st.integers(), st.floats(allow_nan=False), min_size=1))
def test_nothing_is_below_what_is_selected(losses: dict[int, float]) -> None:
    key, value = select(losses)
    assert losses[key] == value == min(losses.values())
    # Of equals the first.
    assert key == next(k for k, v in losses.items() if v == value)


def test_between_models() -> None:
    # Tokens that alternate: the next one is certain given the last, and a coin toss without it.
    data = SequenceDataset([0, 1] * 20)
    unigram, bigram = Categorical(2, predict_first=False), Bigram(2)
    objective = Objective(bigram, data)
    candidates = {
        "a coin": (unigram, unigram.optimum(data).params),
        "a chain": (bigram, bigram.optimum(data).params),
    }
    name, value = objective.select(candidates)
    assert name == "a chain"
    assert value == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_what_a_lower_training_loss_does_not_prove(seed: int) -> None:
    # Tokens without any memory: the larger family has the lower training loss on every sample, and predicts new
    # tokens worse, for it has learnt the accidents of the sample.
    rng = np.random.default_rng(seed)
    train, test = (SequenceDataset(rng.integers(0, 6, 300), vocab_size=6) for _ in range(2))
    small, large = Categorical(6, predict_first=False), Bigram(6)
    fitted = {"small": (small, small.optimum(train).params), "large": (large, large.optimum(train, unseen=-9.0).params)}
    assert Objective(large, train).select(fitted)[0] == "large"
    assert Objective(large, test).select(fitted)[0] == "small"
