"""The objective as a function of one vector, which is what SciPy's optimisers minimise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.errors import ShapeError
from fastnll.models.base import Grads, Model, Params

__all__ = ["ScipyProblem", "scipy_problem"]

Array = npt.NDArray[Any]


class _Functions(NamedTuple):
    """What is unpacked."""

    fun: Callable[[Array], tuple[float, Array]]
    x0: Callable[..., Array]
    unpack: Callable[[Array], Grads]


class ScipyProblem(_Functions):
    """An objective in the form of `scipy.optimize.minimize`: unpacks into ``fun, x0, unpack``.

    Attributes
    ----------
    fun : callable
        Vector, shape (P,), to (value, gradient), float64: pass ``jac=True``.
    x0 : callable
        ``x0(params=None, seed=0)``: the vector of some parameters; of ``model.init(seed)`` where none are given.
    unpack : callable
        Vector to a dict of float64 parameters, which are views of it.
    hessp : callable
        ``hessp(x, p)``: the product of the Hessian at x and p, for ``method="trust-ncg"`` and its like.
    """

    hessp: Callable[[Array, Array], Array]

    def __new__(
        cls,
        fun: Callable[[Array], tuple[float, Array]],
        x0: Callable[..., Array],
        unpack: Callable[[Array], Grads],
        hessp: Callable[[Array, Array], Array],
    ) -> ScipyProblem:
        """Make the three, with the fourth beside them."""
        self = super().__new__(cls, fun, x0, unpack)
        self.hessp = hessp
        return self


def scipy_problem(
    model: Model,
    value_and_grad: Callable[[Params], tuple[float, Grads]],
    hvp: Callable[[Params, Params], Grads],
) -> ScipyProblem:
    """Return the functions for a model, and the objective's value, gradient and Hessian-vector product."""
    shapes = model.shapes()
    size = model.n_parameters

    def unpack(x: Array) -> Grads:
        vector = np.asarray(x, np.float64)
        if vector.shape != (size,):
            raise ShapeError(f"x: expected shape ({size},), all parameters of model {model.name!r}, got {vector.shape}")
        params, start = {}, 0
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            params[name] = vector[start:stop].reshape(shape)
            start = stop
        return params

    def pack(arrays: Params) -> Array:
        return np.concatenate([np.asarray(arrays[name], np.float64).reshape(-1) for name in shapes])

    def x0(params: Params | None = None, seed: int = 0) -> Array:
        return pack(model.init(seed, np.float64) if params is None else model.check_params(params))

    def fun(x: Array) -> tuple[float, Array]:
        value, grads = value_and_grad(unpack(x))
        return value, pack(grads)

    def hessp(x: Array, p: Array) -> Array:
        return pack(hvp(unpack(x), unpack(p)))

    return ScipyProblem(fun, x0, unpack, hessp)
