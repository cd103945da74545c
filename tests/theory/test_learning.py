"""SGD gets where the closed form says, and a model that sees more gets below."""

from __future__ import annotations

import numpy as np
import pytest

from fastnll.data import SequenceDataset, batches
from fastnll.models import Bigram, NGram, bigram_optimum
from fastnll.objective import Objective
from fastnll.optim import SGD


def test_sgd_approaches_the_bigram_optimum_of_real_text(embedded: dict[str, SequenceDataset]) -> None:
    dataset = embedded["python_docs"]
    model = Bigram(dataset.vocab_size)
    objective, best = Objective(model, dataset), bigram_optimum(dataset)
    params = model.init()
    # The mean loss is the sum over contexts of p(c) times a loss of curvature at most 1/2, so 2 / p(c) of the most
    # frequent one is a safe rate. Rows of rare characters are flat at that rate; momentum carries them along.
    most_frequent = np.bincount(dataset.tokens).max() / objective.n_predicted
    sgd = SGD(params, lr=2.0 / most_frequent, momentum=0.98, nesterov=True)
    for _ in range(1200):
        _, grads = objective.value_and_grad(params)
        sgd.step({"logits": grads["logits"] / objective.n_predicted})
    reached = objective.value(params)
    assert best.value < reached < 1.005 * best.value


def test_a_network_that_sees_three_tokens_gets_below_every_bigram(embedded: dict[str, SequenceDataset]) -> None:
    dataset = embedded["python_docs"]
    model = NGram(dataset.vocab_size, context=3, dim=16, hidden=64)
    pieces = dataset.pieces(256)
    objective = Objective(model, pieces)
    best = bigram_optimum(dataset)
    assert objective.n_predicted == best.n_predicted
    params = model.init()
    sgd = SGD(params, lr=0.5, momentum=0.9)
    for ids in batches(pieces, 4096, seed=0):
        _, n, grads = objective.batch_value_and_grad(params, ids)
        sgd.step({name: grad / n for name, grad in grads.items()})
    assert Objective(model, dataset).value(params) < best.value


@pytest.mark.parametrize("lr", [0.2, 0.5])
def test_full_batch_descent_never_climbs(lr: float) -> None:
    rng = np.random.default_rng(0)
    dataset = SequenceDataset(rng.choice(5, 400, p=[0.4, 0.3, 0.15, 0.1, 0.05]), vocab_size=5)
    model = Bigram(5)
    objective = Objective(model, dataset)
    params = model.init(dtype=np.float64)
    sgd, last = SGD(params, lr=lr), np.inf
    for _ in range(200):
        # Convex with curvature at most n / 2: steps below 4 / n cannot overshoot.
        value, grads = objective.value_and_grad(params)
        assert value < last
        last = value
        sgd.step({"logits": grads["logits"] / objective.n_predicted})
