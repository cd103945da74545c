"""Linear heads to test on, and what they have to give: products written out in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import fastnll as fn
from tests.cases import DTYPES

Array = np.ndarray[Any, Any]


class Head(NamedTuple):
    """One batch of a linear head.

    Attributes
    ----------
    hidden, weight, bias : arrays (N, D), (V, D), (V,)
    targets : array (N,)
    """

    hidden: Array
    weight: Array
    bias: Array
    targets: Array

    @property
    def logits(self) -> Array:
        """The logits, in float64, of the numbers as stored."""
        h, w, b = (a.astype(np.float64) for a in self[:3])
        return h @ w.T + b


def make_head(n: int, d: int, v: int, dtype: str = "float64", seed: int = 0) -> Head:
    """Return a head whose logits have a spread of about 2, with targets anywhere and an ignored row now and then."""
    rng = np.random.default_rng([n, d, v, seed])
    kind = DTYPES[dtype]
    hidden = rng.standard_normal((n, d)).astype(kind)
    weight = (2.0 / np.sqrt(d) * rng.standard_normal((v, d))).astype(kind)
    targets = rng.integers(0, v, n)
    targets[2::7] = -100
    head = Head(hidden, weight, rng.standard_normal(v).astype(kind), targets)
    x = head.logits
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert v == 1 or p.max(axis=1).mean() < 0.99, "the targets' terms must not be all there is"
    return head


class Truth(NamedTuple):
    """Loss and gradients in float64, and what rounding in the compute dtype may cost each of them."""

    loss: Any
    hidden: Array
    weight: Array
    bias: Array
    grad: Array


def truth(head: Head, targets: Any = None, **options: Any) -> Truth:
    """Return the loss and gradients of the reference over float64 logits: no code of the linear head."""
    o = {("weight" if k == "class_weight" else k): a for k, a in options.items()}
    with fn.using(backend="reference"):
        loss, g = fn.cross_entropy_value_and_grad(head.logits, head.targets if targets is None else targets, **o)
    h, w = head.hidden.astype(np.float64), head.weight.astype(np.float64)
    return Truth(loss, g @ w, g.T @ h, g.sum(axis=0), g)


# Relative error of a product of some hundred terms: float32 rounds each, 16-bit inputs are computed with in float32.
TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "float16": 2e-5, "bfloat16": 2e-5}


def assert_grads(found: fn.LinearGrads, want: Truth, dtype: str = "float64", context: str = "") -> None:
    """Compare every gradient that is there, relative to its largest element."""
    for name in ("hidden", "weight", "bias"):
        a, b = getattr(found, name), getattr(want, name)
        if a is None:
            continue
        scale = np.abs(b).max() or 1.0
        gap = np.abs(a.astype(np.float64) - b).max() / scale
        assert gap <= TOLERANCE[dtype], f"{context} {name}: relative error {gap:.3g}"


def smallest_bound(**plan: Any) -> int:
    """Return the least ``max_memory`` that `fastnll.memory_plan` takes, found by bisection."""
    low, high = 0, 1 << 34
    while high - low > 1:
        middle = (low + high) // 2
        try:
            fn.memory_plan(**plan, max_memory=middle)
            high = middle
        except fn.OptionError:
            low = middle
    return high
