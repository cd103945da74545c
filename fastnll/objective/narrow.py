"""Blocks of rows whose logits are held: one thread a block, in memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll import events
from fastnll.losses import CrossEntropy
from fastnll.models.base import Grads, Model, Params, compute_dtype
from fastnll.objective.spare import Spare

__all__ = ["HeldLogits", "params_dtype"]

Array = npt.NDArray[Any]


class HeldLogits:
    """Loss and gradient of blocks of rows under any model.

    Parameters
    ----------
    model : Model
    loss : CrossEntropy
        Of one thread: blocks share out the threads. Its reduction is "sum".
    spare : Spare
        Where room for logits comes from.
    """

    def __init__(self, model: Model, loss: CrossEntropy, spare: Spare) -> None:
        self.model, self._sum, self._spare = model, loss, spare

    def losses(self, params: Params, inputs: Array, targets: Array, reduction: str) -> Any:
        """Return the loss of some rows: each (reduction "none") or their sum."""
        with self.room(params, targets.size) as out:
            logits = events.timed(events.SPAN, "model.logits", self.model.logits_and_vjp, params, inputs, out=out)[0]
            return self._sum(logits, targets, reduction=reduction)

    def value_and_grad(self, params: Params, inputs: Array, targets: Array, into: Grads) -> float:
        """Return the sum of the losses of some rows, and add its gradient to `into`."""
        with self.room(params, targets.size) as out:
            logits, vjp = events.timed(events.SPAN, "model.logits", self.model.logits_and_vjp, params, inputs, out=out)
            loss, grad = self._sum.value_and_grad(logits, targets, out=logits)
            events.timed(events.SPAN, "model.vjp", vjp, grad, into)
        return float(loss)

    @contextmanager
    def room(self, params: Params, rows: int) -> Iterator[Array]:
        """Lend room for the logits of so many rows: fresh pages for every block would cost more than the loss."""
        dtype = compute_dtype(params_dtype(params))
        key = ("logits", dtype)
        buffer: Array | None = self._spare.take(key)
        if buffer is None or buffer.shape[0] < rows:
            buffer = np.empty((rows, self.model.vocab_size), dtype)
        try:
            yield buffer[:rows]
        finally:
            self._spare.give(key, buffer)


def params_dtype(params: Params) -> np.dtype[Any]:
    """Return the dtype of parameters, which all have the same."""
    return next(iter(params.values())).dtype
