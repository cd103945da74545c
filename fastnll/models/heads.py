"""Models whose last step is linear."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnll.errors import OptionError
from fastnll.models.base import Grads, HiddenVjp, Model, Params, Pull, Vjp
from fastnll.models.curvature import Curvature

__all__ = ["Each", "HeadModel", "one_by_one", "part_of"]

Array = npt.NDArray[Any]
# each(function, count): calls function(0) .. function(count - 1), perhaps on several threads, and waits for all.
Each = Callable[[Callable[[int], None], int], None]


def one_by_one(function: Callable[[int], None], count: int) -> None:
    """Call ``function(0)`` to ``function(count - 1)`` on the calling thread: the least of what `Each` may be."""
    for number in range(count):
        function(number)


def part_of(number: int, size: int, total: int) -> slice:
    """Return part `number` of so many rows, of `size` each: the parts that `Each` goes through."""
    return slice(number * size, min((number + 1) * size, total))


class HeadModel(Model):
    """A model whose last step is linear: logits = hidden @ weight.T + bias.

    What comes before is `hidden_and_vjp`. `head` names the two parameters, so that the loss may be taken through
    the head without ever holding the logits.
    """

    head: ClassVar[tuple[str, str]] = ("weight", "bias")
    dtypes: ClassVar[tuple[str, ...]] = ("float64", "float32")  # what BLAS multiplies

    @abstractmethod
    def hidden_and_vjp(self, params: Params, inputs: Array, each: Each = one_by_one) -> tuple[Array, HiddenVjp | None]:
        """Return the last hidden layer, (N, H), and the function that pulls its gradient back.

        Parameters
        ----------
        params : dict of ndarray
        inputs : ndarray, shape (N, ...)
        each : callable
            ``each(function, count)`` calls ``function(0)`` to ``function(count - 1)``, perhaps on several threads. Work
            that is cut into parts by its sizes alone, each with results of its own, has the same bits on any
            number of them.

        Returns
        -------
        hidden : ndarray, shape (N, H)
        vjp : callable or None
            ``vjp(grad, into)`` adds to the arrays of `into` and may overwrite `grad`; None where nothing but the head
            has parameters.
        """

    def hidden_and_tangent(self, params: Params, tangent: Params, inputs: Array) -> tuple[Array, Array, Pull] | None:
        """Return the last hidden layer, its derivative in a direction, and `pull` as in `logits_and_tangent`.

        None where nothing but the head has parameters, as in `hidden_and_vjp`.
        """
        raise OptionError(f"model: expected one with second derivatives (hidden_and_tangent), got {self.name!r}")

    def add_hidden_diagonal(
        self, params: Params, inputs: Array, hidden_grad: Array, curvature: Curvature, into: Grads
    ) -> None:
        """Add the diagonal of the Hessian for the parameters before the head; as `add_diagonal`."""
        raise OptionError(f"model: expected one with second derivatives (add_hidden_diagonal), got {self.name!r}")

    def logits_and_vjp(self, params: Params, inputs: Array, *, out: Array | None = None) -> tuple[Array, Vjp]:
        """Return the logits and their vector-Jacobian product, derived from `hidden_and_vjp`.

        With G the gradient of the logits: d weight = G.T @ hidden, d bias = column sums of G,
        d hidden = G @ weight.
        """
        weight, bias = (params[name] for name in self.head)
        hidden, hidden_vjp = self.hidden_and_vjp(params, inputs)
        logits = np.matmul(hidden, weight.T, out=out if out is not None and out.dtype == weight.dtype else None)
        logits += bias

        def vjp(grad: Array, into: Grads | None = None) -> Grads:
            grads = self.zeros(params) if into is None else into
            grads[self.head[0]] += grad.T @ hidden
            grads[self.head[1]] += grad.sum(axis=0)
            if hidden_vjp is not None:
                hidden_vjp(grad @ weight, grads)
            return grads

        return logits, vjp

    def logits_and_tangent(
        self, params: Params, tangent: Params, inputs: Array, *, out: Array | None = None
    ) -> tuple[Array, Array, Pull]:
        """Return the logits, their derivative in a direction, and `pull`, derived from `hidden_and_tangent`.

        The derivative of G.T @ hidden is dG.T @ hidden + G.T @ dhidden, that of G @ weight is dG @ weight +
        G @ dweight.
        """
        (weight, bias), (d_weight, d_bias) = ([arrays[name] for name in self.head] for arrays in (params, tangent))
        before = self.hidden_and_tangent(params, tangent, inputs)
        hidden = before[0] if before is not None else self.hidden_and_vjp(params, inputs)[0]
        logits = np.matmul(hidden, weight.T, out=out if out is not None and out.dtype == weight.dtype else None)
        logits += bias
        logits_tangent = hidden @ d_weight.T
        logits_tangent += d_bias
        if before is not None:
            logits_tangent += before[1] @ weight.T

        def pull(grad: Array, grad_tangent: Array, into: Grads) -> None:
            into[self.head[0]] += grad_tangent.T @ hidden
            into[self.head[1]] += grad_tangent.sum(axis=0)
            if before is not None:
                into[self.head[0]] += grad.T @ before[1]
                before[2](grad @ weight, grad_tangent @ weight + grad @ d_weight, into)

        return logits, logits_tangent, pull

    def add_diagonal(self, params: Params, inputs: Array, grad: Array, curvature: Curvature, into: Grads) -> None:
        """Add the diagonal: the logits are linear in the head, so H_vv * hidden**2 is all there is of it."""
        hidden, vjp = self.hidden_and_vjp(params, inputs)
        entries = curvature.entries()
        into[self.head[0]] += entries.T @ np.square(hidden)
        into[self.head[1]] += entries.sum(axis=0)
        if vjp is not None:
            self.add_hidden_diagonal(params, inputs, grad @ params[self.head[0]], curvature, into)
