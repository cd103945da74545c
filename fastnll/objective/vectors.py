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


class ScipyProblem(NamedTuple):
    """An objective in the form of `scipy.optimize.minimize`.

    Attributes
    ----------
    fun : callable
        Vector, shape (P,), to (value, gradient), float64: pass ``jac=True``.
    x0 : callable
        ``x0(params=None, seed=0)``: the vector of some parameters; of ``model.init(seed)`` where none are given.
    unpack : callable
        Vector to a dict of float64 parameters, which are views of it.
    """

    fun: Callable[[Array], tuple[float, Array]]
    x0: Callable[..., Array]
    unpack: Callable[[Array], Grads]


def scipy_problem(model: Model, value_and_grad: Callable[[Params], tuple[float, Grads]]) -> ScipyProblem:
    """Return the three functions for a model and the objective's value and gradient."""
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

    return ScipyProblem(fun, x0, unpack)
