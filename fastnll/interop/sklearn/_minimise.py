"""L-BFGS from a given curvature, and the order of problems it is applied to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.interop.sklearn._curvature import Inverse, inverse_curvature, is_formed
from fastnll.interop.sklearn._rows import WeightedRows

__all__ = ["Minimum", "minimise"]

Array = npt.NDArray[Any]

# Pairs of steps and changes of the gradient that are kept, and steps after which a Hessian is formed anew. Coarser
# curvatures are not: the pairs, which a new one ends, know more. Features that are sums of others, by the diagonal: 56
# steps to 2e-6 of the coefficients with them, 460 to 6e-5 without.
_MEMORY, _STEPS = 16, 16
# Problems of at least so many blocks are solved on every sixteenth block first, to this part of a coefficient.
_STRIDE, _BLOCKS, _ROUGH = 16, 128, 0.02
# Relative errors of the value whose logits have so many bytes a number.
_ROUNDING = {8: 1e-13, 4: 1e-7}


class Minimum(NamedTuple):
    """Where a minimisation ended.

    Attributes
    ----------
    theta : ndarray (V, D + 1)
    n_iter : int
        Steps on all rows.
    converged : bool
        Whether the last step was within the tolerance, or rounding left nothing to gain.
    """

    theta: Array
    n_iter: int
    converged: bool


class _State(NamedTuple):
    theta: Array
    value: float
    grad: Array


def minimise(problem: WeightedRows, theta: Array, tol: float, max_iter: int) -> Minimum:
    """Return the minimum of a problem, from `theta` on.

    Parameters
    ----------
    problem : WeightedRows
    theta : array of float64, shape (V, D + 1)
    tol : float
        The largest change of a parameter, as the curvature at hand estimates it, that is left undone.
    max_iter : int
        Most steps on all rows.

    Notes
    -----
    D. C. Liu and J. Nocedal, "On the limited memory BFGS method" (1989), with a curvature that is estimated from a
    sample of the rows in place of the identity, and first on a part of the rows: as in R. H. Byrd et al., "On the use
    of stochastic Hessian information in optimization methods for machine learning" (2011).
    """
    if problem.n_blocks >= _BLOCKS:
        estimate: Callable[[Array], tuple[float, Array]] = lambda t: problem.value_and_grad(t, _STRIDE)  # noqa: E731
        theta, _, _ = _converge(problem, estimate, theta, max(tol, _ROUGH), max_iter)
    return Minimum(*_converge(problem, problem.value_and_grad, theta, tol, max_iter))


def _converge(
    problem: WeightedRows, fun: Callable[[Array], tuple[float, Array]], theta: Array, tol: float, max_iter: int
) -> tuple[Array, int, bool]:
    state = _State(theta, *fun(theta))
    most, done = _STEPS if is_formed(problem) else max_iter, 0
    while done < max_iter:
        state, steps, ended = _descend(
            fun,
            state,
            inverse_curvature(problem, state.theta),
            tol,
            min(most, max_iter - done),
            _ROUNDING[problem.features.dtype.itemsize],
        )
        done += steps
        if ended:
            return state.theta, done, True
    return state.theta, done, False


def _direction(grad: Array, pairs: list[tuple[Array, Array, float]], inverse: Inverse) -> Array:
    """Return minus the inverse Hessian, as the pairs know it, times the gradient."""
    q = grad.copy()
    shares = []
    for s, y, inner in reversed(pairs):
        share = float(np.vdot(s, q)) / inner
        q -= share * y
        shares.append(share)
    z = inverse(q)
    if pairs:
        s, y, inner = pairs[-1]
        z *= inner / float(np.vdot(y, inverse(y)))
    for (s, y, inner), share in zip(pairs, reversed(shares), strict=True):
        z += s * (share - float(np.vdot(y, z)) / inner)
    return -z


def _descend(
    fun: Callable[[Array], tuple[float, Array]],
    state: _State,
    inverse: Inverse,
    tol: float,
    most: int,
    rounding: float,
) -> tuple[_State, int, bool]:
    """Take at most so many steps; return (state, steps taken, whether that is the end)."""
    pairs: list[tuple[Array, Array, float]] = []
    for step in range(most):
        direction = _direction(state.grad, pairs, inverse)
        slope = float(np.vdot(state.grad, direction))
        if not slope < 0.0:  # also NaN
            return state, step, True
        if float(np.abs(direction).max()) <= tol:
            return state, step, True
        moved = _search(fun, state, direction, slope, rounding)
        if moved is None:
            return state, step, True
        s, y = moved.theta - state.theta, moved.grad - state.grad
        inner = float(np.vdot(s, y))
        if inner > 1e-14 * float(np.linalg.norm(s) * np.linalg.norm(y)):
            pairs = [*pairs[1 - _MEMORY :], (s, y, inner)]
        state = moved
    return state, most, False


def _search(
    fun: Callable[[Array], tuple[float, Array]], state: _State, direction: Array, slope: float, rounding: float
) -> _State | None:
    """Return the end of a step along a direction of descent; None where rounding hides any descent."""
    length = 1.0
    noise = rounding * abs(state.value)
    for _ in range(30):
        theta = state.theta + length * direction
        value, grad = fun(theta)
        along = float(np.vdot(grad, direction))
        if value <= state.value + 1e-4 * length * slope:
            return _State(theta, value, grad)
        # So close to the minimum that the value is rounding, its slope still says where it is.
        if value <= state.value + noise and abs(along) <= 0.9 * abs(slope):
            return _State(theta, value, grad)
        if length * abs(slope) <= _ROUNDING[8] * abs(state.value):
            return None
        # The parabola through the value and slope at the start and the value here, or half.
        parabola = -0.5 * slope * length / ((value - state.value) / length - slope) if np.isfinite(value) else 0.0
        length = min(max(parabola, 0.1 * length), 0.5 * length)
    return None
