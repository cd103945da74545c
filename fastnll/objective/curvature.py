"""Second derivatives of the sum over the rows: their product with a direction, and their diagonal.

The same blocks, the same groups and the same order of sums as for the gradient, so that no bit depends on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll import ops
from fastnll.losses import CrossEntropy
from fastnll.models.base import Grads, Params
from fastnll.models.curvature import Curvature
from fastnll.models.walking import Walk
from fastnll.objective.checks import counts_suffice
from fastnll.objective.evaluate import RowSum, add_group
from fastnll.objective.grid import parts
from fastnll.objective.narrow import HeldLogits
from fastnll.objective.parallel import ordered_map

__all__ = ["diagonal", "logit_curvature", "over_groups", "times"]

Array = npt.NDArray[Any]


def times(rows: RowSum, params: Params, tangent: Params) -> Grads:
    """Return the product of the Hessian of the sum of the losses and a direction, float32 or float64."""
    model = rows.model
    if rows._table is not None:
        into = model.zeros(params)
        rows._table.counted_times(params, tangent, rows._pairs, into)
        return into

    def add(inputs: Array, targets: Array, buffer: Array, into: Grads) -> None:
        logits, direction, pull = model.logits_and_tangent(params, tangent, inputs, out=buffer)
        curvature = logit_curvature(rows.loss, logits, targets)
        grad = rows._sum.value_and_grad(logits, targets, out=logits)[1]
        pull(grad, curvature.times(direction, out=direction), into)

    return over_groups(rows, params, add)


def diagonal(rows: RowSum, params: Params) -> Grads:
    """Return the diagonal of the Hessian of the sum of the losses, float32 or float64."""
    model = rows.model
    if rows._table is not None:
        into = model.zeros(params)
        rows._table.counted_diagonal(params, rows._pairs, into)
        return into

    def add(inputs: Array, targets: Array, buffer: Array, into: Grads) -> None:
        logits, _ = model.logits_and_vjp(params, inputs, out=buffer)
        curvature = logit_curvature(rows.loss, logits, targets)
        grad = rows._sum.value_and_grad(logits, targets, out=logits)[1]
        model.add_diagonal(params, inputs, grad, curvature, into)

    return over_groups(rows, params, add)


def over_groups(rows: RowSum, params: Params, add: Callable[[Array, Array, Array, Grads], None]) -> Grads:
    """Return what `add` adds up over all blocks, on the grid of the gradient.

    Parameters
    ----------
    rows : RowSum
    params : dict of ndarray
    add : callable
        ``add(inputs, targets, buffer, into)`` for the rows of one block, with room for its logits.
    """
    held = HeldLogits(rows.model, rows._sum, rows._spare)

    def group_sum(group: int) -> Grads:
        into = rows.model.zeros(params)
        first = group * rows._group
        for number in range(first, min(first + rows._group, rows._n_blocks)):
            block = rows._block(number)
            for part in parts(block.targets.size, rows.model.vocab_size):
                targets = block.targets[part]
                with held.room(params, targets.size) as buffer:
                    add(block.inputs[part], targets, buffer, into)
        return into

    size = rows._group * rows.block_rows
    walk = Walk(rows.data, rows.spans)

    def announced() -> Iterator[int]:
        for group in range(rows.n_groups):
            walk.at(group * size)
            yield group

    total: Grads | None = None
    threads = min(rows._threads(params), max(1, rows.n_groups))
    for group, sums in enumerate(ordered_map(group_sum, announced(), threads)):
        walk.done(min((group + 1) * size, rows.spans.n_rows))
        if rows.n_groups == 1:
            return sums
        total = add_group(sums, total)
    return rows.model.zeros(params) if total is None else total


def logit_curvature(loss: CrossEntropy, logits: Array, targets: Array) -> Curvature:
    r"""Return the second derivative of the loss of each row by its logits; zeros for ignored rows.

    Parameters
    ----------
    loss : CrossEntropy
    logits : ndarray, shape (N, V)
    targets : ndarray of int, shape (N,)

    Notes
    -----
    With a(z) the logits as the loss sees them (divided by the temperature, softcapped), p = softmax(a), and the
    gradient by a written as A p - c, A = sum of c + 2 k lse, with c the target's coefficients and k the z-loss
    (`fastnll.kernels.reference.cross_entropy`), the Hessian by a is A diag(p) - A p p^T + 2 k p p^T, and by z

    .. math:: \mathrm{diag}(A s^2 p + a'' (A p - c)) - (A - 2 k) (s p) (s p)^T, \qquad s = a'(z).

    Examples
    --------
    >>> curvature = logit_curvature(CrossEntropy(), np.zeros((1, 2)), np.array([1]))
    >>> curvature.times(np.array([[1.0, 0.0]]))
    array([[ 0.25, -0.25]])
    """
    ignored = np.isin(targets, loss.options.ignore_index) if loss.options.ignore_index else np.zeros(targets.size, bool)
    if counts_suffice(loss):
        probs = ops.softmax(logits)
        probs[ignored] = 0.0
        return Curvature(probs, probs, None)
    z = logits.astype(np.float64)
    z[ignored] = 0.0
    parts = _derivatives(loss, z, np.where(ignored, 0, targets).astype(np.int64))
    for part in parts:
        part[ignored] = 0.0
    return Curvature(*(part.astype(logits.dtype, copy=False) for part in parts))


def _derivatives(loss: CrossEntropy, z: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Return the diagonal, the vector and the scale of the curvature, float64, for any options."""
    o, v = loss.options, z.shape[1]
    a, slope = z / o.temperature, np.full_like(z, 1.0 / o.temperature)
    bend: Array | None = None
    if o.softcap is not None:
        ratio = np.tanh(a / o.softcap)
        with np.errstate(invalid="ignore"):
            bend = np.where(a == -np.inf, 0.0, -2.0 * ratio * (1.0 - np.square(ratio)) / (o.softcap * o.temperature**2))
            slope *= np.where(a == -np.inf, 0.0, 1.0 - np.square(ratio))
            a = np.where(a == -np.inf, a, o.softcap * ratio)
    live = np.ones(v, bool) if o.class_mask is None else np.asarray(o.class_mask, bool).copy()
    live[o.valid_classes if o.valid_classes is not None else v :] = False
    finite = live & (a > -np.inf)
    a = np.where(finite, a, -np.inf)
    probs = ops.softmax(a)
    class_weight = np.ones(v) if o.weight is None else np.zeros(v)
    if o.weight is not None:
        class_weight[: o.weight.size] = o.weight
    eps, z_loss = o.label_smoothing, o.z_loss
    coefficients = eps * np.where(finite, class_weight, 0.0) / finite.sum(axis=1, keepdims=True)
    coefficients[np.arange(targets.size), targets] += (1.0 - eps) * class_weight[targets]
    lse = ops.logsumexp(a, axis=1, keepdims=True)
    total = coefficients.sum(axis=1, keepdims=True) + 2.0 * z_loss * lse
    diagonal = total * np.square(slope) * probs
    if bend is not None:
        diagonal += bend * (total * probs - coefficients)
    return np.where(finite, diagonal, 0.0), slope * probs, total - 2.0 * z_loss
