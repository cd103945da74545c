"""The models once more, one row at a time in plain Python: what the vectorised code is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnll.models import MODELS, Bigram, Categorical, Model, NGram, SoftmaxRegression

Array = np.ndarray[Any, Any]


def row_logits(model: Model, params: Mapping[str, Array], past: Sequence[int]) -> list[float]:
    """Logits of the next token after `past`, the whole sequence so far."""
    p = {name: np.asarray(array, np.float64) for name, array in params.items()}
    if isinstance(model, Categorical):
        return [float(x) for x in p["logits"]]
    if isinstance(model, Bigram):
        return [float(x) for x in p["logits"][past[-1]]]
    assert isinstance(model, NGram)
    k, v = model.context, model.vocab_size
    padded = [v] * k + [int(t) for t in past]
    x = [float(e) for token in padded[len(padded) - k :] for e in p["embedding"][token]]
    hidden = [
        math.tanh(math.fsum(xi * float(wi) for xi, wi in zip(x, p["w1"][:, j], strict=True)) + float(p["b1"][j]))
        for j in range(model.hidden)
    ]
    return [
        math.fsum(h * float(w) for h, w in zip(hidden, p["weight"][c], strict=True)) + float(p["bias"][c])
        for c in range(v)
    ]


def row_loss(logits: Sequence[float], target: int) -> float:
    """-log softmax(logits)[target], by the definition."""
    top = max(logits)
    return math.log(math.fsum(math.exp(z - top) for z in logits)) - (logits[target] - top)


def sequence_loss(model: Model, params: Mapping[str, Array], sequence: Sequence[int]) -> float:
    """Loss(x) = - sum_i log p(x_i | x_0 .. x_{i-1}), over the tokens the model predicts."""
    return math.fsum(
        row_loss(row_logits(model, params, sequence[:i]), int(sequence[i])) for i in range(model.skip, len(sequence))
    )


def random_params(model: Model, seed: int, dtype: Any = np.float64, scale: float = 0.7) -> dict[str, Array]:
    """Parameters in general position: no zeros, no symmetry that would hide an error."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0.0, scale, shape).astype(dtype) for name, shape in model.shapes().items()}


SEQUENCE_MODELS: tuple[Model, ...] = (
    Categorical(5),
    Categorical(5, predict_first=False),
    Bigram(5),
    NGram(5, context=1, dim=2, hidden=3),
    NGram(5, context=3, dim=2, hidden=4),
)
# Every model that has a name is here in some form.
ALL_MODELS: tuple[Model, ...] = (*SEQUENCE_MODELS, SoftmaxRegression(n_features=3, n_classes=4))
assert {model.name for model in ALL_MODELS} == set(MODELS)

# Lengths 0, 1 and 2 are where contexts and first tokens go wrong; ids 0 and 4 are the ends of the vocabulary.
SEQUENCES: tuple[list[int], ...] = ([0, 4, 2, 2, 1], [], [3], [4, 0], [], [1, 3, 3, 0, 4, 4, 2, 1, 0], [2, 2])
