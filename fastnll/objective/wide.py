"""Models with a linear head over many classes: loss and gradient through the head, whose logits are never held.

Where the vocabulary is large, nearly all work is the three products of the head, and the gradient of its weights is the
largest array of all. Sharing out blocks among threads would give each thread one of its own, to be cleared, filled and
added up in turn. So here blocks come one after the other, and the threads share the work inside of one:
`fastnll.linear_cross_entropy` deals slices of the vocabulary, and what lies before the head is cut into
parts of rows, or of columns, by size alone. No bit depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll import events
from fastnll.losses import CrossEntropy
from fastnll.models.base import Grads, Params
from fastnll.models.heads import HeadModel
from fastnll.objective.parallel import ordered_map
from fastnll.ops import LinearGrads

__all__ = ["WideHead"]

Array = npt.NDArray[Any]


class WideHead:
    """Loss and gradient of blocks of rows under a model with a wide head.

    Parameters
    ----------
    model : HeadModel
    loss : CrossEntropy
        Its reduction is "sum".
    threads : int
        Those that share each block.
    """

    def __init__(self, model: HeadModel, loss: CrossEntropy, threads: int) -> None:
        self.model, self._sum, self._threads = model, loss.replace(threads=threads), threads

    def losses(self, params: Params, inputs: Array, targets: Array, reduction: str) -> Any:
        """Return the loss of some rows: each (reduction "none") or their sum."""
        hidden, _ = events.timed(events.SPAN, "model.hidden", self.model.hidden_and_vjp, params, inputs, self._each)
        return self._sum.linear(hidden, *self._head(params, targets), reduction=reduction)

    def value_and_grad(self, params: Params, inputs: Array, targets: Array, into: Grads) -> float:
        """Return the sum of the losses of some rows, and add its gradient to `into`."""
        hidden, vjp = events.timed(events.SPAN, "model.hidden", self.model.hidden_and_vjp, params, inputs, self._each)
        weight, bias = (into[name] for name in self.model.head)
        wrt = ("weight", "bias") if vjp is None else ("hidden", "weight", "bias")
        grad_hidden = None if vjp is None else np.zeros_like(hidden)
        loss, _ = self._sum.linear_value_and_grad(
            hidden,
            *self._head(params, targets),
            out=LinearGrads(grad_hidden, weight, bias),
            accumulate=True,
            wrt=wrt,
        )
        if vjp is not None:
            events.timed(events.SPAN, "model.vjp", vjp, grad_hidden, into)
        return float(loss)

    def _head(self, params: Params, targets: Array) -> tuple[Array, Array, Array]:
        weight, bias = self.model.head
        return params[weight], targets, params[bias]

    def _each(self, function: Callable[[int], None], count: int) -> None:
        for _ in ordered_map(function, range(count), min(self._threads, max(1, count))):
            pass
