r"""How far parameters can be from the argmin, as a number that is proved and not estimated.

Derivation. Let J(theta) = sum_i [A_i lse(z_i) - <c_i, z_i>] + l2/2 |theta|^2 with logits z linear in theta, c_i the
target's coefficients and A_i their sum. For any distributions alpha_i, lse(z) >= <alpha, z> + H(alpha) (Gibbs), so

    J(theta') >= sum_i A_i H(alpha_i) + <m, theta'> + l2/2 |theta'|^2,   <m, .> = sum_i <A_i alpha_i - c_i, z_i(.)>,

whose least value over theta' is sum_i A_i H(alpha_i) - |m|^2 / (2 l2). Subtracted from J(theta), with p_i the model's
distributions, this leaves (<m, theta> comes from log p = z - lse)

    J(theta) - J* <= sum_i A_i KL(alpha_i || p_i) + |m + l2 theta|^2 / (2 l2).

alpha = p gives |g|^2 / (2 l2), the bound of strong convexity. With alpha_i = p_i (1 - d_i), d_i = u_i - <p_i, u_i> and
u the derivative of the logits in a direction U, m + l2 theta = g - (H + l2) U + l2 U: near the argmin the Newton step
(H + l2) U = g makes the bound g^T (H + l2)^-1 g / 2, which is the gap itself to first order. Any U for which no d_i
is above 1 gives a valid bound; how U was found does not matter. For l2 = 0, <m, theta'> is at least -|m| R for
all |theta'| <= R, and m = g - H U is as small as the solver makes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.errors import OptionError
from fastnll.losses import CrossEntropy
from fastnll.models.base import Grads, Params
from fastnll.models.sums import divergence, fsum
from fastnll.objective.curvature import logit_curvature, times
from fastnll.objective.evaluate import RowSum
from fastnll.objective.grid import parts
from fastnll.objective.narrow import HeldLogits
from fastnll.objective.parallel import ordered_map

__all__ = ["Certificate", "certify", "check_certifiable", "norm"]

Array = npt.NDArray[Any]

# Without a penalty: no parameters with a norm of up to so many times that of these are better by more than the gap.
_RADIUS = 1000.0

# A Newton step is good enough where the residual is this part of the gradient. One run of conjugate gradients, of which
# there are at most four, ends at `_DRIFT`, or where a direction is as flat as this beside the steepest one.
_RESIDUAL, _DRIFT, _FLAT, _RESTARTS = 1e-15, 1e-8, 1e-13, 4


class Certificate(NamedTuple):
    """What is proved about parameters of a convex objective, up to rounding in float64.

    Attributes
    ----------
    value : float
        J at these parameters.
    gradient_norm : float
        Euclidean norm of the gradient of J.
    gap : float
        J minus the least J that any parameters within `radius` have is at most this.
    distance : float
        These parameters are at most this far (Euclidean) from an argmin; inf where that is not known, or there is none.
    radius : float
        inf: the gap holds against all parameters. Else against those whose Euclidean norm is at most this.
    method : str
        "counts": exact. "strong convexity": from the gradient and l2 alone. "duality": from a Newton step. "value":
        the loss cannot be below 0, and nothing better is known.
    """

    value: float
    gradient_norm: float
    gap: float
    distance: float
    radius: float
    method: str

    @property
    def lower_bound(self) -> float:
        """What J cannot be below, within `radius`."""
        return self.value - self.gap


def check_certifiable(rows: RowSum) -> None:
    """Raise OptionError unless the objective is convex in the parameters."""
    if not rows.model.convex:
        raise OptionError(
            f"certificate: expected a convex model, got {rows.model.name!r}, whose argmin no bound is known for; "
            "gradient_norm says whether a point is stationary"
        )
    wrong = [name for name in ("softcap", "z_loss") if getattr(rows.loss.options, name)]
    if wrong:
        raise OptionError(f"certificate: expected a convex loss, got one with {wrong[0]}")


def certify(rows: RowSum, params: Params, l2: float, value: float, grads: Grads, iterations: int) -> Certificate:
    """Return the best certificate that a number of Hessian-vector products gives.

    Parameters
    ----------
    rows : RowSum
    params, grads : dict of ndarray of float64
        Where, and the gradient of J there.
    l2, value : float
    iterations : int
        At most so many products; 0 for none.
    """
    size = norm(grads)
    if not l2 and rows._table is not None:
        gap, distance = rows._table.counted_gap(params, rows._pairs)
        return Certificate(value, size, gap, distance, math.inf, "counts")
    if l2:
        gap, radius, method = size**2 / (2.0 * l2), math.inf, "strong convexity"
    else:
        gap, radius, method = value, math.inf, "value"
    if not math.isfinite(value) or not math.isfinite(size):
        return Certificate(value, size, math.inf, math.inf, math.inf, method)
    if size == 0.0:
        # A stationary point of a convex function is an argmin.
        return Certificate(value, 0.0, 0.0, 0.0, math.inf, "duality")
    if iterations:
        step, residual = _newton(rows, params, l2, grads, iterations)
        found = _dual_gap(rows, params, l2, grads, step, residual)
        if found is not None and found[0] < gap:
            (gap, radius), method = found, "duality"
    distance = min(size / l2, math.sqrt(2.0 * gap / l2)) if l2 else math.inf
    return Certificate(value, size, gap, distance, radius, method)


def _newton(rows: RowSum, params: Params, l2: float, grads: Grads, iterations: int) -> tuple[Grads, Grads]:
    """Return U with (H + l2) U near g, and g - (H + l2) U.

    Conjugate gradients (Hestenes and Stiefel, 1952), started again from the true residual as long as that helps: what
    the recursion calls the residual drifts from what it is.
    """

    def product(u: Grads) -> Grads:
        found = times(rows, params, u)
        return {name: found[name] + l2 * u[name] for name in u}

    step = {name: np.zeros_like(array) for name, array in grads.items()}
    residual, size = grads, norm(grads)
    for _ in range(_RESTARTS):
        more, used = _conjugate_gradients(product, residual, iterations)
        iterations -= used + 1
        candidate = {name: step[name] + more[name] for name in step}
        image = product(candidate)
        left = {name: grads[name] - image[name] for name in step}
        if not norm(left) < 0.5 * norm(residual):
            break
        step, residual = candidate, left
        if norm(residual) <= _RESIDUAL * size or iterations <= 0:
            break
    return step, residual


def _conjugate_gradients(product: Callable[[Grads], Grads], target: Grads, iterations: int) -> tuple[Grads, int]:
    """Return U with ``product(U)`` near the target, and how many products that took."""
    step = {name: np.zeros_like(array) for name, array in target.items()}
    residual = {name: array.copy() for name, array in target.items()}
    direction = {name: array.copy() for name, array in target.items()}
    before = first = _inner(residual, residual)
    steepest = 0.0
    for used in range(1, iterations + 1):
        image = product(direction)
        along, size = _inner(direction, image), _inner(direction, direction)
        steepest = max(steepest, along / size)
        # A direction along which the objective is flat but for rounding: adding a constant to all logits is one.
        if along <= _FLAT * steepest * size:
            return step, used
        length = before / along
        for name in step:
            step[name] += length * direction[name]
            residual[name] -= length * image[name]
        after = _inner(residual, residual)
        if after <= _DRIFT**2 * first:
            return step, used
        for name in step:
            direction[name] *= after / before
            direction[name] += residual[name]
        before = after
    return step, iterations


def _dual_gap(
    rows: RowSum, params: Params, l2: float, grads: Grads, step: Grads, residual: Grads
) -> tuple[float, float] | None:
    """Return the bound of the module's derivation and the radius it holds in; None if U is of no use."""
    largest = max(0.0, *(top for _, top in _divergences(rows, params, step)))
    # A step that would make a probability negative is shortened; what it then leaves undone is in the residual.
    share = 1.0 if largest <= 1.0 else 1.0 / largest
    step = {name: share * array for name, array in step.items()}
    left = {name: (1.0 - share) * grads[name] + share * residual[name] for name in grads}
    total = fsum(part for part, _ in _divergences(rows, params, step))
    if l2:
        both = {name: left[name] + l2 * step[name] for name in left}
        return total + _inner(both, both) / (2.0 * l2), math.inf
    radius = _RADIUS * max(1.0, norm(params))
    return total + norm(left) * (norm(params) + radius), radius


def _divergences(rows: RowSum, params: Params, step: Grads) -> list[tuple[float, float]]:
    """Return sum_i A_i KL(p_i (1 - d_i) || p_i) of some rows at a time, and their largest d where p is above 0."""
    table = rows._table
    if table is not None:
        directions, pairs = step["logits"].reshape(table.n_contexts, -1), rows._pairs
        return [
            _divergence(curvature.vector, directions[pairs.contexts[part]], pairs.totals[part])
            for part, curvature in table.curvatures(params, pairs)
        ]

    held = HeldLogits(rows.model, rows._sum, rows._spare)

    def of(number: int) -> tuple[float, float]:
        block = rows._block(number)
        found = []
        for part in parts(block.targets.size, rows.model.vocab_size):
            inputs, targets = block.inputs[part], block.targets[part]
            with held.room(params, targets.size) as buffer:
                logits, u, _ = rows.model.logits_and_tangent(params, step, inputs, out=buffer)
                probs, total, slope = _distribution(rows.loss, logits, targets)
            found.append(_divergence(probs, u * slope, total))
        return fsum(loss for loss, _ in found), max(top for _, top in found)

    return list(ordered_map(of, range(rows._n_blocks), rows._threads()))


def _divergence(probs: Array, u: Array, total: Array) -> tuple[float, float]:
    d = u - np.einsum("nv,nv->n", probs, u)[:, None]
    present = probs > 0.0
    terms = np.einsum("nv,nv->n", probs, divergence(np.where(present, -d, 0.0).clip(-1.0)))
    return float((terms * total).sum()), float(d[present].max(initial=0.0))


def _distribution(loss: CrossEntropy, logits: Array, targets: Array) -> tuple[Array, Array, float]:
    """Return p and A of every row (0 for ignored ones), and the derivative of the logits the loss sees by z."""
    curvature = logit_curvature(loss, logits, targets)
    slope = 1.0 / loss.options.temperature
    if curvature.scale is None:
        return curvature.vector, (curvature.vector.sum(axis=1) > 0.0).astype(np.float64), slope
    return curvature.vector / slope, curvature.scale[:, 0], slope


def norm(arrays: Params) -> float:
    """Return the Euclidean norm of all numbers together.

    Examples
    --------
    >>> norm({"w": np.array([[3.0]]), "b": np.array([4.0])})
    5.0
    """
    return math.sqrt(fsum(float(np.square(array, dtype=np.float64).sum()) for array in arrays.values()))


def _inner(a: Params, b: Params) -> float:
    return fsum(float(np.vdot(a[name], b[name])) for name in a)
