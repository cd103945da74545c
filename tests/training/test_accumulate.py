"""Several batches of one step: the same as their union at once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fastnll.callbacks import Callback
from fastnll.data import SequenceDataset
from fastnll.errors import OptionError
from fastnll.models import Bigram, NGram
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.sampling import Sampler
from fastnll.training import Run, fit, total_steps
from tests.training.small import problem, ragged, same_bits


def objective_of(model: Any, **options: Any) -> Objective:
    return Objective(model, ragged(), **options)


@pytest.mark.parametrize("k", [2, 3, 7, 1000])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("model", [Bigram(7), NGram(7, context=3, dim=5, hidden=6)], ids=lambda model: model.name)
def test_same_as_the_union(model: Any, l2: float, k: int) -> None:
    objective = objective_of(model, l2=l2)
    sgd = SGD(model.init(1, "float64"), 0.7, momentum=0.9, nesterov=True, weight_decay=0.01, max_norm=0.3)
    history = fit(objective, sgd, epochs=2, batch_tokens=64, accumulate=k, seed=2)
    by_hand = SGD(model.init(1, "float64"), 0.7, momentum=0.9, nesterov=True, weight_decay=0.01, max_norm=0.3)
    sampler = Sampler(objective, 64, seed=2)
    losses, tokens, norms = [], 0, []
    for epoch in range(2):
        batches = [ids for ids, _ in sampler.epoch(epoch)]
        assert len(batches) > 20
        for low in range(0, len(batches), k):
            union = np.concatenate(batches[low : low + k])
            loss, n, grads = sampler.objective.batch_value_and_grad(by_hand.params, union)
            norms.append(by_hand.step(grads, scale=1.0 / n))
            losses.append(loss / n)
            tokens += n
    assert history.loss == pytest.approx(losses, rel=1e-12)
    assert history.grad_norm == pytest.approx(norms, rel=1e-9)
    assert history.progress.tokens == tokens == history.tokens[-1]
    for name, array in sgd.params.items():
        np.testing.assert_allclose(array, by_hand.params[name], rtol=1e-9, atol=1e-12)
    assert len(losses) == total_steps(objective, 64, 2, seed=2, accumulate=k) == history.progress.step


def test_one_is_the_plain_run() -> None:
    objective, one = problem()
    _, other = problem()
    fit(objective, one, steps=20, batch_tokens=64)
    fit(objective, other, steps=20, batch_tokens=64, accumulate=1)
    assert same_bits(one.params, other.params)


def test_sixteen_bits_are_added_up_in_more() -> None:
    """300 gradients of about 1/300 of their sum each: added up in bfloat16 the late ones would vanish."""
    dataset = SequenceDataset.from_sequences([[0, 1, 1]] * 3000, vocab_size=2)
    objective = Objective(Bigram(2), dataset)
    params = objective.model.init(dtype=ml_dtypes.bfloat16)
    seen: list[Any] = []

    class Watching(SGD):
        def step(self, grads: Any, *, scale: float = 1.0) -> float | None:
            seen.append({name: scale * grad.astype("f8") for name, grad in grads.items()})
            return super().step(grads, scale=scale)

    fit(objective, Watching(params, 0.0), steps=1, batch_tokens=30, accumulate=300)
    mean = np.array([[0.25, -0.25], [0.25, -0.25]])
    np.testing.assert_allclose(seen[0]["logits"], mean, rtol=1e-2)


def test_batches_in_which_nothing_is_predicted() -> None:
    dataset = SequenceDataset.from_sequences([[0]] * 30 + [[0, 1, 0, 1]])
    objective = Objective(Bigram(2), dataset)
    history = fit(objective, SGD(objective.model.init(), 1.0), epochs=2, batch_tokens=3, accumulate=2)
    assert history.progress.tokens == 6
    assert len(history.epoch_loss) == 2


def test_position_counts_batches() -> None:
    objective, sgd = problem()
    places: list[tuple[int, int]] = []

    class Note(Callback):
        def on_step(self, run: Run) -> None:
            places.append((run.progress.epoch, run.progress.batch))

    fit(objective, sgd, steps=3, batch_tokens=64, accumulate=4, callbacks=[Note()])
    assert places == [(0, 4), (0, 8), (0, 12)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate: expected an integer of at least 1, got 0"),
        ({"accumulate": 2.0}, "accumulate: expected an integer of at least 1, got 2.0"),
        ({"accumulate": 2, "batch_tokens": None}, "accumulate: expected 1 with batch_tokens=None, the whole dataset"),
    ],
)
def test_option_errors(options: dict[str, Any], message: str) -> None:
    objective, sgd = problem()
    with pytest.raises(OptionError, match=message):
        fit(objective, sgd, steps=1, **options)
