"""argmin over a list."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastnll.data import SequenceDataset
from fastnll.errors import OptionError
from fastnll.models import Bigram, Categorical, NGram, bigram_optimum
from fastnll.objective import Objective, select
from tests.objective.cases import CASES


def test_the_least_of_some_numbers() -> None:
    assert select({"a": 2, "b": np.float32(0.5), "c": np.array(1.5)}) == ("b", 0.5)


def test_of_equals_the_first() -> None:
    assert select({"b": 1.0, "a": 1.0, "c": 1.0}) == ("b", 1.0)


def test_infinity_is_a_loss_and_nan_is_none() -> None:
    assert select({"nan": math.nan, "inf": math.inf, "nan again": math.nan}) == ("inf", math.inf)
    assert select({"a": math.nan, "b": -math.inf, "c": 0.0}) == ("b", -math.inf)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "losses: expected at least one candidate, got none"),
        ([0.3, 0.1], "losses: expected a mapping from candidates to numbers, got list"),
        ({"a": math.nan, "b": math.nan}, "losses: expected at least one number, got 2 times nan"),
        ({"a": "0.3"}, r"losses\['a'\]: expected a number, got '0.3'"),
        ({"a": True}, r"losses\['a'\]: expected a number, got True"),
        ({"a": [1.0, 2.0]}, r"losses\['a'\]: expected a number, got list"),
    ],
)
def test_what_cannot_be_compared(losses: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        select(losses)  # type: ignore[arg-type]


def test_parameters_models_and_numbers_side_by_side() -> None:
    case = CASES["bigram"]
    objective = case.objective()
    best = bigram_optimum(case.dataset)
    ngram = NGram(7, context=2, dim=3, hidden=4)
    candidates: dict[str, Any] = {
        "uniform": case.model.init(),
        "random": case.params(),
        "counts": best.params,
        "unigram": (Categorical(7, predict_first=False), Categorical(7, predict_first=False).init()),
        "ngram": (ngram, ngram.init()),
        "from elsewhere": 1e9,
    }
    name, value = objective.select(candidates)
    assert name == "counts"
    assert value == pytest.approx(best.value, rel=1e-12)
    # Each candidate has the value of its own objective.
    for key, candidate in candidates.items():
        alone = objective.select({key: candidate})[1]
        if isinstance(candidate, tuple):
            assert alone == Objective(candidate[0], case.dataset).value(candidate[1])
        else:
            assert alone == (candidate if isinstance(candidate, float) else objective.value(candidate))


def test_the_penalty_takes_part() -> None:
    objective = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]), l2=100.0)
    candidates = {p: {"logits": np.log([1 - p, p])} for p in (0.5, 0.75)}
    # log(1/2) twice is shorter than (log(1/4), log(3/4)): a strong penalty prefers the fair coin.
    assert objective.select(candidates)[0] == 0.5


def test_models_that_predict_other_tokens_are_not_compared() -> None:
    objective = Objective(Bigram(3), SequenceDataset([0, 1, 2, 1], [0, 2, 4]))
    with pytest.raises(
        OptionError, match=r"candidates\['unigram'\]: expected a model that predicts the same 2 tokens .* with 4"
    ):
        objective.select({"unigram": (Categorical(3), Categorical(3).init())})
    with pytest.raises(OptionError, match="candidates: expected a mapping from names, got list"):
        objective.select([Bigram(3).init()])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"candidates\['x'\]: expected params, \(model, params\) or a number"):
        objective.select({"x": ("bigram", {})})
