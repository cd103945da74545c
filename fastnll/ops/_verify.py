"""The self-check: some rows of a batch recomputed in float64 by the reference, after the kernel ran."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.dtypes import FLOATS, row_dtype
from fastnll.errors import VerificationError
from fastnll.kernels import reference
from fastnll.kernels.spec import OPS, CrossEntropyTask
from fastnll.ops._problem import Problem
from fastnll.options import LossOptions

__all__ = ["verified"]

Array = npt.NDArray[Any]


def verified(
    o: LossOptions, p: Problem, kernel: Callable[[CrossEntropyTask], None]
) -> Callable[[CrossEntropyTask], None]:
    """Return the kernel, followed by a check of ``verify`` of its rows where that was asked."""
    if not o.verify:
        return kernel

    def run(task: CrossEntropyTask) -> None:
        n = task.x.shape[0] * task.x.shape[1]
        rows = _sample(n, o.verify)
        expected = _rows_of(task, rows)  # copies: the kernel may overwrite the logits
        if task.loss is None:
            task.loss = np.empty(n, row_dtype(p.logits.dtype))
        kernel(task)
        reference.cross_entropy(expected)
        _compare(task, expected, rows, FLOATS[p.logits.dtype.name].eps, p.shape)

    return run


def _sample(n: int, share: float) -> Array:
    """Return evenly spread row numbers, at least one: the same rows for the same batch shape."""
    count = min(n, max(1, math.ceil(n * share)))
    return (np.arange(count) * n) // max(count, 1)


def _rows_of(task: CrossEntropyTask, rows: Array) -> CrossEntropyTask:
    """Return a reference task over copies of some rows."""
    outer, inner = np.divmod(rows, task.x.shape[1])

    def of(a: Array | None, per_row: bool = False) -> Array | None:
        if a is None:
            return None
        if per_row:
            return a[rows]
        if a.shape[0] == 1 and task.x.shape[0] > 1:
            outer_index = np.zeros_like(outer)
        else:
            outer_index = outer
        inner_index = np.zeros_like(inner) if a.shape[1] == 1 and task.x.shape[1] > 1 else inner
        return a[outer_index, inner_index][None].copy()

    x = of(task.x)
    assert x is not None
    expected = CrossEntropyTask(
        x,
        of(task.targets),
        of(task.ids, True),
        of(task.id_probs, True),
        of(task.probs),
        task.class_weight,
        of(task.class_mask),
        of(task.row_weight, True),
        of(task.target_weight, True),
        of(task.grad_weight, True),
        task.grad_scale,
        task.smoothing,
        task.z_loss,
        task.temperature,
        task.softcap,
    )
    expected.loss = np.empty(rows.size)
    if task.grad is not None:
        expected.grad = np.empty(x.shape)
    return expected


def _compare(
    task: CrossEntropyTask, expected: CrossEntropyTask, rows: Array, eps: float, shape: tuple[int, ...]
) -> None:
    """Raise where a row's loss or gradient is further from float64 than the op's bound."""
    assert task.loss is not None and expected.loss is not None
    bound = 8.0 * OPS["cross_entropy"].eps
    loss_eps = 2.0**-52 if task.x.dtype == np.float64 else 2.0**-23
    got, want = task.loss[rows].astype(np.float64), expected.loss
    weight = np.ones(rows.size) if expected.row_weight is None else np.abs(expected.row_weight)
    scale = np.abs(want) + weight * (1.0 + task.z_loss)
    _raise_beyond(np.abs(got - want), bound * loss_eps * scale, got, want, rows, "loss", shape)
    if task.grad is not None and expected.grad is not None:
        outer, inner = np.divmod(rows, task.x.shape[1])
        g, w = task.grad[outer, inner].astype(np.float64), expected.grad[0]
        gap = np.abs(g - w).max(axis=1)
        size = np.abs(w).max(axis=1)
        _raise_beyond(gap, bound * eps * size + 1e-300, g.max(axis=1), w.max(axis=1), rows, "gradient", shape)


def _raise_beyond(
    gap: Array, allowed: Array, got: Array, want: Array, rows: Array, what: str, shape: tuple[int, ...]
) -> None:
    bad = ~((gap <= allowed) | (np.isnan(got) & np.isnan(want)) | (got == want))
    if bad.any():
        i = int(bad.argmax())
        where = tuple(int(k) for k in np.unravel_index(int(rows[i]), shape)) if shape else ()
        raise VerificationError(
            f"verify: expected the {what} of row {where} to agree with float64 to {allowed[i]:.3g}, got {got[i]!r} for "
            f"{want[i]!r} ({int(bad.sum())} of {rows.size} rows checked); please report this with fastnll.info()"
        )
