"""Objectives by name against their formulas written out, and central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll import named
from tests.cases import Engine
from tests.loss.longhand import numeric_gradient

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 4))
TOKENS = RNG.integers(0, 4, (2, 5))
MASK = np.array([[True, False, False, True, True], [False, True, True, False, False]])
ADVANTAGES = RNG.standard_normal((2, 5))


def log_p(x: Array, b: int, i: int, token: int) -> float:
    return float(x[b, i, token] - np.log(sum(np.exp(v) for v in x[b, i])))


def next_token(x: Array, places: list[tuple[int, int]]) -> float:
    return -sum(log_p(x, b, i, TOKENS[b, i + 1]) for b, i in places) / len(places)


ALL = [(b, i) for b in range(2) for i in range(4)]
ANSWERS = [(0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]  # prompts of 3 and 1 tokens
PROMPTS = np.arange(5) < np.array([[3], [1]])
PLACES = [(b, i) for b in range(2) for i in range(5)]
CASES: dict[str, Any] = {
    "causal": (lambda x: named.causal_lm_loss(x, TOKENS), lambda x: next_token(x, ALL)),
    "conditional, lengths": (
        lambda x: named.conditional_lm_loss(x, TOKENS, [3, 1]), lambda x: next_token(x, ANSWERS)),
    "conditional, mask": (
        lambda x: named.conditional_lm_loss(x, TOKENS, PROMPTS), lambda x: next_token(x, ANSWERS)),
    "masked": (
        lambda x: named.masked_lm_loss(x, TOKENS, MASK),
        lambda x: -sum(log_p(x, b, i, TOKENS[b, i]) for b, i in PLACES if MASK[b, i]) / MASK.sum()),
    "policy": (
        lambda x: named.policy_gradient_loss(x, TOKENS, ADVANTAGES),
        lambda x: -sum(ADVANTAGES[b, i] * log_p(x, b, i, TOKENS[b, i]) for b, i in PLACES) / 10),
    "policy, masked": (
        lambda x: named.policy_gradient_loss(x, TOKENS, ADVANTAGES, mask=MASK),
        lambda x: -sum(ADVANTAGES[b, i] * log_p(x, b, i, TOKENS[b, i]) for b, i in PLACES if MASK[b, i]) / MASK.sum()),
    "policy, normalizer": (
        lambda x: named.policy_gradient_loss(x, TOKENS, ADVANTAGES, normalizer=3.0),
        lambda x: -sum(ADVANTAGES[b, i] * log_p(x, b, i, TOKENS[b, i]) for b, i in PLACES) / 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_objective(engine: Engine, name: str) -> None:
    ours, longhand = CASES[name]
    loss, grad = ours(X)
    assert loss == pytest.approx(longhand(X), rel=1e-13)
    np.testing.assert_allclose(grad, numeric_gradient(longhand, X), rtol=1e-7, atol=1e-10)


def test_packed_documents(engine: Engine) -> None:
    packed = named.causal_lm_loss(X.reshape(10, 4), TOKENS.reshape(10), offsets=[0, 5, 10])
    square = named.causal_lm_loss(X, TOKENS)
    assert packed[0] == pytest.approx(square[0], rel=1e-14)
    np.testing.assert_allclose(packed[1].reshape(X.shape), square[1], rtol=1e-13)
    with pytest.raises(fn.ShapeError, match="prompt"):
        named.conditional_lm_loss(X, TOKENS, np.ones((2, 4), bool))


def test_sequence_log_probs(engine: Engine) -> None:
    want = [sum(log_p(X, b, i, TOKENS[b, i]) for i in range(5) if MASK[b, i]) for b in range(2)]
    np.testing.assert_allclose(named.sequence_log_probs(X, TOKENS, mask=MASK), want, rtol=1e-13)


def minus_log_sigmoid(d: float) -> float:
    return float(np.log1p(np.exp(-d)))


def test_bradley_terry() -> None:
    plus, minus = RNG.standard_normal(6), RNG.standard_normal(6)
    found = named.bradley_terry_loss(plus, minus)

    def longhand(r: Array) -> float:
        return float(np.mean([minus_log_sigmoid(a - b) for a, b in zip(r[0], r[1], strict=True)]))

    both = np.stack([plus, minus])
    assert found.loss == pytest.approx(longhand(both), rel=1e-13)
    np.testing.assert_allclose([found.chosen, found.rejected], numeric_gradient(longhand, both), rtol=1e-7, atol=1e-10)
    two_classes = fn.cross_entropy(both.T, np.zeros(6, int))
    assert found.loss == pytest.approx(two_classes, rel=1e-13)
    assert named.bradley_terry_loss([1000.0], [-1000.0]).loss == 0
    assert named.bradley_terry_loss([-1000.0], [1000.0]).loss == 2000
    with pytest.raises(fn.ShapeError, match="rejected"):
        named.bradley_terry_loss(plus, minus[:3])


def test_dpo(engine: Engine) -> None:
    other = np.random.default_rng(1).standard_normal((2, 3, 4))
    other_tokens = np.random.default_rng(1).integers(0, 4, (2, 3))
    reference = (np.array([-5.0, -4.0]), np.array([-3.0, -6.0]))
    beta = 0.4

    def longhand(x: Array, y: Array) -> float:
        total = 0.0
        for b in range(2):
            plus = sum(log_p(x, b, i, TOKENS[b, i]) for i in range(5) if MASK[b, i]) - reference[0][b]
            minus = sum(log_p(y, b, i, other_tokens[b, i + 1]) for i in range(2)) - reference[1][b]
            total += minus_log_sigmoid(beta * (plus - minus))
        return total / 2

    found = named.dpo_loss(
        X, TOKENS, other, other_tokens, reference=reference, beta=beta,
        chosen_options={"mask": MASK}, rejected_options={"shift": 1},
    )  # fmt: skip
    assert found.loss == pytest.approx(longhand(X, other), rel=1e-13)
    np.testing.assert_allclose(found.chosen, numeric_gradient(lambda z: longhand(z, other), X), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(found.rejected, numeric_gradient(lambda z: longhand(X, z), other), rtol=1e-6, atol=1e-10)
    with pytest.raises(fn.ShapeError, match="reference"):
        named.dpo_loss(X, TOKENS, other, other_tokens, reference=([0.0], [0.0]))
