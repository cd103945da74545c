"""Models with a dataset and parameters in general position, for every test of the objective."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.models import Bigram, Categorical, Model, NGram, SoftmaxRegression
from fastnll.objective import Objective
from tests.models.longhand import random_params, row_loss, sequence_loss

Array = np.ndarray[Any, Any]
V = 7


class Case(NamedTuple):
    """A model and a dataset it can be evaluated on."""

    model: Model
    dataset: Any

    def objective(self, **options: Any) -> Objective:
        return Objective(self.model, self.dataset, **options)

    def params(self, dtype: Any = np.float64, seed: int = 3) -> dict[str, Array]:
        return random_params(self.model, seed, dtype)

    def longhand(self, params: dict[str, Array]) -> list[float]:
        """Loss(x) of every sequence, in plain Python."""
        if isinstance(self.dataset, FeatureDataset):
            weight, bias = params["weight"], params["bias"]
            return [
                row_loss((weight @ x + bias).tolist(), int(label))
                for x, label in zip(self.dataset.features, self.dataset.labels, strict=True)
            ]
        return [sequence_loss(self.model, params, x.tolist()) for x in self.dataset]


def ragged(n_sequences: int = 30, seed: int = 0, longest: int = 25) -> SequenceDataset:
    """Sequences with uneven ids: lengths 0, 1 and 2 among them, and the last one empty."""
    rng = np.random.default_rng(seed)
    lengths = [2, 0, 1, longest, 0, 0, *rng.integers(0, longest, n_sequences).tolist(), 0]
    frequencies = rng.dirichlet(np.full(V, 0.5))
    dataset = SequenceDataset.from_sequences([rng.choice(V, n, p=frequencies) for n in lengths], V)
    assert np.unique(dataset.tokens).size > 3, "a constant would test nothing"
    return dataset


def labelled(n: int = 90, seed: int = 1) -> FeatureDataset:
    """Features of three classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return FeatureDataset(rng.normal(size=(n, 4)) + labels[:, None] * [1.0, -0.5, 0.0, 0.3], labels, n_classes=3)


CASES: dict[str, Case] = {
    "categorical": Case(Categorical(V), ragged()),
    "categorical, first left out": Case(Categorical(V, predict_first=False), ragged()),
    "bigram": Case(Bigram(V), ragged()),
    "ngram": Case(NGram(V, context=3, dim=4, hidden=5), ragged()),
    "softmax_regression": Case(SoftmaxRegression(4, 3), labelled()),
    "bigram of uint16": Case(Bigram(300), SequenceDataset.from_sequences([[299, 0, 299, 1], [5], [7, 299]], 300)),
}
TABLES = [name for name, case in CASES.items() if "logits" in case.model.shapes()]


def bits(grads: dict[str, Array]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in grads.items()}
