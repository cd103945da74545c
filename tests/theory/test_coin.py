"""A coin falls H, T, H, H. What is p(H)?

The textbook's answer is 3/4: it makes the tosses as probable as they can be. Here it comes out as the argmin of the
objective, and SGD finds it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import CharTokenizer, SequenceDataset
from fastnll.models import Categorical
from fastnll.objective import Objective
from fastnll.optim import SGD

Array = np.ndarray[Any, Any]

T, H = 0, 1
TOSSES = [H, T, H, H]
COIN = Categorical(2)


def probability_of_heads(logits: Array) -> float:
    return float(1.0 / (1.0 + np.exp(logits[T] - logits[H])))


def coin_with(p: float) -> dict[str, Array]:
    return {"logits": np.log([1.0 - p, p])}


def test_the_fair_coin() -> None:
    objective = Objective(COIN, SequenceDataset(TOSSES))
    assert objective.value(coin_with(0.5)) == pytest.approx(4 * math.log(2))
    assert objective.perplexity(coin_with(0.5)) == pytest.approx(2)
    assert objective.bits_per_token(coin_with(0.5)) == pytest.approx(1)


@pytest.mark.parametrize("counts", [True, False], ids=["counts", "rows"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_finds_three_quarters_from_one_half(counts: bool, momentum: float) -> None:
    objective = Objective(COIN, SequenceDataset(TOSSES), counts=counts)
    params = COIN.init(dtype=np.float64)
    assert probability_of_heads(params["logits"]) == 0.5
    sgd = SGD(params, lr=0.3, momentum=momentum)
    losses = []
    for _ in range(150):
        value, grads = objective.value_and_grad(params)
        losses.append(value)
        sgd.step(grads)
    assert probability_of_heads(params["logits"]) == pytest.approx(3 / 4, abs=1e-12)
    assert losses[0] == pytest.approx(4 * math.log(2))
    assert losses[-1] == pytest.approx(-3 * math.log(3 / 4) - math.log(1 / 4), rel=1e-14)
    assert np.abs(objective.value_and_grad(params)[1]["logits"]).max() < 1e-12
    if not momentum:
        assert all(after <= before + 1e-12 for before, after in pairwise(losses))


def test_it_is_where_the_likelihood_is_greatest() -> None:
    objective = Objective(COIN, SequenceDataset(TOSSES))
    grid = np.linspace(0.0, 1.0, 401)[1:-1]
    # The likelihood itself: the product of what happened, without a logarithm anywhere.
    likelihoods = [math.prod(p if toss == H else 1 - p for toss in TOSSES) for p in grid]
    assert grid[np.argmax(likelihoods)] == 3 / 4
    best, value = objective.select({float(p): coin_with(p) for p in grid})
    assert best == 3 / 4
    assert value == pytest.approx(-math.log(max(likelihoods)))
    for p, likelihood in zip(grid[::40], likelihoods[::40], strict=True):
        assert objective.value(coin_with(p)) == pytest.approx(-math.log(likelihood))


def test_the_closed_form_says_the_same() -> None:
    best = COIN.optimum(SequenceDataset(TOSSES))
    assert probability_of_heads(best.params["logits"]) == pytest.approx(3 / 4, abs=1e-15)
    assert best.value == pytest.approx(-3 * math.log(3 / 4) - math.log(1 / 4))


@given(st.lists(st.sampled_from([H, T]), min_size=2, max_size=40))
def test_any_tosses_give_their_own_frequency(tosses: list[int]) -> None:
    objective = Objective(COIN, SequenceDataset(tosses, vocab_size=2))
    frequency = tosses.count(H) / len(tosses)
    if frequency in (0.0, 1.0):
        # No p is best: the loss falls for ever as p goes to the end.
        ends = [objective.value(coin_with(abs(frequency - eps))) for eps in (1e-2, 1e-4, 1e-6)]
        assert ends == sorted(ends, reverse=True)
        return
    _, grads = objective.value_and_grad(coin_with(frequency))
    assert np.abs(grads["logits"]).max() < 1e-12
    for p in (frequency * 0.9, 1 - (1 - frequency) * 0.9):
        assert objective.value(coin_with(p)) > objective.value(coin_with(frequency))


def test_the_order_of_the_tosses_does_not_matter_to_a_coin() -> None:
    text = CharTokenizer.train(["HT"])
    one, other = (SequenceDataset.from_text(tosses, text) for tosses in ("HTHH", "HHHT"))
    p = coin_with(0.3)
    assert Objective(COIN, one).value(p) == Objective(COIN, other).value(p)
