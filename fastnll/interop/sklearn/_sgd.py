"""The same objective by stochastic gradient descent, with fastnll's optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.interop.sklearn._curvature import inverse_curvature, largest_curvature
from fastnll.interop.sklearn._rows import WeightedRows
from fastnll.optim import SGD

__all__ = ["descend"]

Array = npt.NDArray[Any]


def descend(
    problem: WeightedRows,
    theta: Array,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    random: np.random.RandomState,
) -> Array:
    """Return the parameters after some passes over the rows, in random order, the rate falling linearly to 0.

    Gradients are multiplied with an inverse of the curvature at the start, so that features of any scale do, and the
    rate is relative to the largest curvature that is left.
    """
    inverse = inverse_curvature(problem, theta)
    rate = learning_rate * (1.0 - momentum) / max(1.0, largest_curvature(problem, theta, inverse))
    params = {"theta": theta.copy()}
    optimizer = SGD(params, lr=0.0, momentum=momentum)
    batches = max(1, -(-problem.n // batch_size))
    steps, done = epochs * batches, 0
    for _ in range(epochs):
        order = random.permutation(problem.n)
        for number in range(batches):
            ids = order[number * batch_size : (number + 1) * batch_size]
            optimizer.lr = rate * (1.0 - done / steps)
            optimizer.step({"theta": inverse(_gradient(problem, params["theta"], ids))})
            done += 1
    return params["theta"]


def _gradient(problem: WeightedRows, theta: Array, ids: Array) -> Array:
    """Return the gradient of the objective as some rows estimate it."""
    features, labels = problem.features[ids], problem.labels[ids]
    weights = None if problem.weights is None else problem.weights[ids]
    _, g = problem.loss(problem.logits(features, *problem.split(theta)), labels, weights)
    grad = np.zeros(problem.shape, problem.features.dtype)
    problem.gradient(g, features, grad)
    result: Array = grad.astype(np.float64) * (problem.n / ids.size)
    result[:, : problem.d] += problem.l2 * theta[:, : problem.d]
    return result
