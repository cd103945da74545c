"""The losses as tests call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.ops.oracle import assert_same_bits

Array = np.ndarray[Any, Any]

# Each takes logits (N, V) and targets, as the loss does.
LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": fn.cross_entropy,
    "cross_entropy_value_and_grad": fn.cross_entropy_value_and_grad,
    "nll_loss": lambda x, t, **kw: fn.nll_loss(np.minimum(x, 0), t, **kw),
}
by_loss = pytest.mark.parametrize("loss", [pytest.param(f, id=name) for name, f in LOSSES.items()])


def losses_and_grad(x: Array, t: Any, **kw: Any) -> tuple[Array, Array]:
    """Return per-row losses and gradient; the value alone must be the same to the bit."""
    loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none", **kw)
    assert_same_bits("value alone", fn.cross_entropy(x, t, reduction="none", **kw), loss)
    return loss, grad
