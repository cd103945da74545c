r"""Approximate inverses of the Hessian, from a sample of the rows: what L-BFGS starts from in place of the identity.

With :math:`p_i` the probabilities of row i the Hessian is

.. math:: \sum_i s_i\,(\mathrm{diag}\,p_i - p_i p_i^T) \otimes x_i x_i^T + \lambda I.

Where the parameters are few it is formed, from some thousand rows; for more features as the product of its two factors'
means (J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", 2015); beyond
that, its diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from fastnll.interop.sklearn._rows import WeightedRows

__all__ = ["Inverse", "inverse_curvature", "is_formed", "largest_curvature"]

Array = npt.NDArray[Any]
Inverse = Callable[[Array], Array]

# Parameters up to which the Hessian is formed, and features up to which the second moments are.
_PARAMETERS, _FEATURES = 3000, 1500
_SAMPLE = 5000
# Directions that nothing depends on (one number added to all classes) get this share of the mean curvature.
_JITTER = 1e-10


def inverse_curvature(problem: WeightedRows, theta: Array) -> Inverse:
    """Return a function that multiplies (V, D + 1) arrays with about the inverse of the Hessian at `theta`."""
    v, e = problem.shape
    if is_formed(problem):
        return _formed(problem, theta, max(_SAMPLE, 5 * v * e // 2))
    return _product(problem, theta, max(_SAMPLE, 4 * e)) if e <= _FEATURES else _diagonal(problem, theta, _SAMPLE)


def is_formed(problem: WeightedRows) -> bool:
    """Return whether `inverse_curvature` has the Hessian itself, as a sample shows it."""
    v, e = problem.shape
    return bool(v * e <= _PARAMETERS)


def largest_curvature(problem: WeightedRows, theta: Array, inverse: Inverse) -> float:
    """Return the largest eigenvalue of inverse times Hessian, by some steps of the power method on a sample."""
    features, probs, count = _sampled(problem, theta, _SAMPLE)
    direction = np.random.RandomState(0).standard_normal(problem.shape)
    largest = 1.0
    for _ in range(12):
        matrix = direction[:, : problem.d]
        u = features @ matrix.T + (direction[:, problem.d] if problem.intercept else 0.0)
        g = count[:, None] * probs * (u - (probs * u).sum(axis=1, keepdims=True))
        product = np.zeros(problem.shape)
        problem.gradient(g, features, product)
        product += _penalty(problem) * direction
        direction = inverse(product)
        largest = float(np.linalg.norm(direction))
        direction /= max(largest, np.finfo(np.float64).tiny)
    return largest


def _sampled(problem: WeightedRows, theta: Array, most: int) -> tuple[Any, Array, Array]:
    """Return features, probabilities, and what each row counts."""
    features, weights, share = problem.sample(most)
    count = np.full(features.shape[0], share) if weights is None else share * weights
    return features, problem.probabilities(features, theta), count


def _with_ones(problem: WeightedRows, features: Any) -> Array:
    dense = features.toarray() if scipy.sparse.issparse(features) else features
    dense = np.asarray(dense, np.float64)
    return np.hstack([dense, np.ones((dense.shape[0], 1))]) if problem.intercept else dense


def _penalty(problem: WeightedRows) -> Array:
    penalty = np.full(problem.shape[1], problem.l2)
    penalty[problem.d :] = 0.0
    return penalty


def _factor(matrix: Array, scale: float) -> Any:
    """Return the Cholesky factor of a matrix that may be singular by rounding: plus as little as it takes."""
    added = _JITTER * scale
    while True:
        try:
            return scipy.linalg.cho_factor(matrix, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            added *= 100.0
            matrix[np.diag_indices_from(matrix)] += added


def _formed(problem: WeightedRows, theta: Array, most: int) -> Inverse:
    features, probs, count = _sampled(problem, theta, most)
    x = _with_ones(problem, features)
    v, e = problem.shape
    # p_i (x) x_i in rows, so that the second part is one symmetric product.
    z = (np.sqrt(count)[:, None] * probs)[:, :, None] * x[:, None, :]
    z = z.reshape(x.shape[0], v * e)
    hessian = -(z.T @ z)
    for c in range(v):
        at = slice(c * e, (c + 1) * e)
        hessian[at, at] += (x * (count * probs[:, c])[:, None]).T @ x
    diagonal = hessian.reshape(-1)[:: v * e + 1]
    scale = max(float(diagonal.mean()), np.finfo(np.float64).tiny)
    diagonal += np.tile(_penalty(problem), v) + _JITTER * scale
    if problem.intercept:
        last = np.arange(v) * e + e - 1
        hessian[np.ix_(last, last)] += scale / v
    factor = _factor(hessian, scale)

    def solve(g: Array) -> Array:
        solved: Array = scipy.linalg.cho_solve(factor, g.reshape(-1), check_finite=False).reshape(g.shape)
        return solved

    return solve


def _product(problem: WeightedRows, theta: Array, most: int) -> Inverse:
    features, probs, count = _sampled(problem, theta, most)
    x = _with_ones(problem, features)
    v = problem.shape[0]
    between = np.diag(count @ probs) - (probs * count[:, None]).T @ probs
    spread = 1.0 - np.square(probs).sum(axis=1)  # the trace of a row's first factor weighs its second
    mean = max(float(count @ spread), np.finfo(np.float64).tiny)
    within = (x * (count * spread / mean)[:, None]).T @ x
    between += max(float(np.trace(between)), np.finfo(np.float64).tiny) / v**2
    values, vectors = np.linalg.eigh(between)
    penalty = _penalty(problem)
    factors = []
    for value in np.maximum(values, 1e-8 * values[-1]):
        matrix = value * within
        scale = max(float(np.trace(matrix)) / penalty.size, np.finfo(np.float64).tiny)
        matrix[np.diag_indices_from(matrix)] += penalty + _JITTER * scale
        factors.append(_factor(matrix, scale))

    def solve(g: Array) -> Array:
        turned = vectors.T @ g
        pairs = zip(factors, turned, strict=True)
        solved: Array = vectors @ np.stack([scipy.linalg.cho_solve(f, r, check_finite=False) for f, r in pairs])
        return solved

    return solve


def _diagonal(problem: WeightedRows, theta: Array, most: int) -> Inverse:
    features, probs, count = _sampled(problem, theta, most)
    squares = features.multiply(features) if scipy.sparse.issparse(features) else np.square(features)
    curvature = np.empty(problem.shape)
    spread = probs * (1.0 - probs) * count[:, None]
    curvature[:, : problem.d] = (squares.T @ spread).T
    curvature[:, problem.d :] = spread.sum(axis=0)[:, None]
    curvature += _penalty(problem)
    # A feature that the sample does not show still counts for something.
    curvature += 1e-3 * float(curvature.mean()) + np.finfo(np.float64).tiny
    return lambda g: g / curvature
