"""The self-check of the linear head: some rows recomputed in float64, from hidden and weight on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.dtypes import float_type
from fastnll.kernels import reference
from fastnll.kernels.spec import CrossEntropyTask
from fastnll.ops._linear_grads import Grads
from fastnll.ops._linear_problem import LinearProblem, chunk_tasks
from fastnll.ops._verify import _raise_beyond, _sample
from fastnll.options import LossOptions

__all__ = ["verified_linear"]

Array = npt.NDArray[Any]

# Rows recomputed at a time, and classes of their products: what they take is a few rows of logits.
_ROWS, _CLASSES = 4, 2048


def verified_linear(
    o: LossOptions, lp: LinearProblem, grads: Grads | None, run: Callable[[CrossEntropyTask], None]
) -> Callable[[CrossEntropyTask], None]:
    """Return the run, followed by a check of ``verify`` of its rows: the loss, and the hidden gradient if there is one.

    A logit is a sum of D products, whose rounding moves it by up to about delta = sqrt(D) eps |h| |w|; the loss moves
    by no more than delta times the sum of its gradient's absolute values, each gradient by delta times itself.
    """
    if not o.verify or not lp.live.size:
        return run

    def checked(task: CrossEntropyTask) -> None:
        if task.loss is None:
            task.loss = np.empty(lp.hidden.shape[0])
        run(task)
        rows = lp.live[_sample(lp.live.size, o.verify)]
        largest = _largest(lp.weight)
        for start in range(0, rows.size, _ROWS):
            _check(lp, task, grads, rows[start : start + _ROWS], largest)

    return checked


def _largest(weight: Array) -> float:
    """Return the largest norm of a row of the weight."""
    norms = [
        np.sqrt(np.square(weight[v : v + _CLASSES].astype(np.float64)).sum(axis=1)).max()
        for v in range(0, weight.shape[0], _CLASSES)
    ]
    return float(max(norms))


def _check(lp: LinearProblem, task: CrossEntropyTask, grads: Grads | None, rows: Array, largest: float) -> None:
    assert task.loss is not None
    v, d = lp.weight.shape
    h = lp.hidden[rows].astype(np.float64)
    x, want = np.empty((rows.size, v)), np.empty(rows.size)
    blocks = [slice(at, min(at + _CLASSES, v)) for at in range(0, v, _CLASSES)]
    with np.errstate(all="ignore"):
        for b in blocks:
            x[:, b] = h @ lp.weight[b].astype(np.float64).T
        if lp.bias is not None:
            x += lp.bias
    size = np.abs(np.where(np.isfinite(x), x, 0.0)).max(axis=1)
    grad, scale = task.grad, task.grad_scale
    task.grad = x  # what the parts take for "with a gradient"
    for part in chunk_tasks(task, rows, x, want, 1):
        reference.cross_entropy(part)
    task.grad = grad
    g = x  # overwritten by the gradient
    found = float_type(lp.hidden.dtype)
    assert found is not None
    eps = float(np.finfo(found.compute).eps)
    with np.errstate(all="ignore"):
        delta = eps * ((4.0 + math.sqrt(d)) * np.linalg.norm(h, axis=1) * largest + 4.0 * size)
        mass = np.abs(g).sum(axis=1)
        factor = np.ones(rows.size) if task.grad_weight is None else task.grad_weight[rows]
        own = np.ones(rows.size) if task.row_weight is None else task.row_weight[rows]
        if task.grad_weight is None:
            factor = own
        # The loss' own gradient: that of the call without the reduction's factor.
        loss_mass = mass * np.abs(own / np.where(factor * scale == 0.0, 1.0, factor * scale))
        got = task.loss[rows].astype(np.float64)
        allowed = 8.0 * (loss_mass * delta + eps * (np.abs(want) + np.abs(own)))
        _raise_beyond(np.abs(got - want), allowed, got, want, rows, "loss", lp.problem.shape)
        if grads is None or grads.hidden_rows is None:
            return
        true = np.zeros((rows.size, d))
        for b in blocks:
            true += g[:, b] @ lp.weight[b].astype(np.float64)
        result = grads.hidden_rows[rows].astype(np.float64)
        rounding = 0.0 if grads.hidden_rows.dtype == found.compute else found.eps
        allowed = largest * mass * (8.0 * delta + 64.0 * eps) + rounding * np.abs(true).max(axis=1) + 1e-30
        if rounding:
            allowed += 2.0**-24  # what float16 may flush
        gap = np.abs(result - true).max(axis=1)
        _raise_beyond(gap, allowed, result.max(axis=1), true.max(axis=1), rows, "hidden gradient", lp.problem.shape)
