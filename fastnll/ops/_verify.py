"""The self-check: some rows of a batch recomputed in float64 by the reference, after the kernel ran."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.dtypes import float_type, row_dtype
from fastnll.errors import VerificationError
from fastnll.kernels import reference
from fastnll.kernels.spec import OPS, CrossEntropyTask
from fastnll.ops._problem import Problem
from fastnll.options import LossOptions

__all__ = ["verified"]

Array = npt.NDArray[Any]


# Results below this may be flushed, or have few bits.
_TINY = {"float64": 2.0**-1022, "float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-23}


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
        _compare(task, expected, rows, _eps(p.logits), p.shape)

    return run


def _eps(a: Array) -> float:
    found = float_type(a.dtype)
    assert found is not None
    return found.eps


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
    loss_eps = 2.0**-52 if task.x.dtype == np.float64 else 2.0**-23
    # exp of a rounded difference errs by the difference' size, and a transformed logit by its own.
    size, spread = _reach(expected)
    changed = task.temperature != 1.0 or task.softcap != 0.0
    units = 8.0 * OPS["cross_entropy"].eps + spread + (size if changed else 0.0)
    got, want = task.loss[rows].astype(np.float64), expected.loss
    factor = np.ones(rows.size) if expected.row_weight is None else np.abs(expected.row_weight)
    heaviest = 1.0 if task.class_weight is None else float(task.class_weight.max(initial=1.0))
    mass = heaviest * _largest_target(expected)
    with np.errstate(all="ignore"):
        allowed = units * loss_eps * (np.abs(want) + factor * (mass + heaviest * task.smoothing + task.z_loss))
        _raise_beyond(np.abs(got - want), allowed, got, want, rows, "loss", shape)
    if task.grad is not None and expected.grad is not None:
        outer, inner = np.divmod(rows, task.x.shape[1])
        g, w = task.grad[outer, inner].astype(np.float64), expected.grad[0]
        if expected.grad_weight is not None:
            factor = np.abs(expected.grad_weight)
        with np.errstate(all="ignore"):
            gap = np.abs(g - w).max(axis=1, initial=0.0)
            # p - q of a soft target or of smoothing cancels: the error is that of its terms.
            terms = (0.0 if task.targets is not None else mass) + heaviest * task.smoothing / task.x.shape[2]
            if task.softcap or task.z_loss:
                # So do 1 - tanh^2 of a saturated logit, and the target's term with that of z_loss.
                terms = terms + mass + 2.0 * task.z_loss * (size + np.log(task.x.shape[2]))
            terms = terms / task.temperature
            largest = np.abs(w).max(axis=1) + factor * abs(task.grad_scale) * terms
            allowed = units * loss_eps * largest + eps * largest + _TINY[task.grad.dtype.name]
        _raise_beyond(gap, allowed, g.max(axis=1), w.max(axis=1), rows, "gradient", shape)


def _reach(expected: CrossEntropyTask) -> tuple[Array, Array]:
    """Return each row's largest |a| and its spread, as far as exp sees it."""
    a = expected.x[0].astype(np.float64) / expected.temperature
    if expected.class_mask is not None:
        a = np.where(expected.class_mask[0], a, -np.inf)
    finite = np.isfinite(a)
    if expected.softcap:
        a = np.clip(a, -expected.softcap, expected.softcap)
    size = np.where(finite, np.abs(a), 0.0).max(axis=1)
    top = np.where(finite, a, -np.inf).max(axis=1, initial=-1e300)
    spread = top - np.where(finite, a, np.inf).min(axis=1, initial=1e300)
    return size, np.clip(spread, 0.0, 750.0)


def _largest_target(expected: CrossEntropyTask) -> Any:
    if expected.probs is not None:
        return np.abs(expected.probs[0].astype(np.float64)).max(axis=1)
    if expected.id_probs is not None:
        return np.abs(expected.id_probs).sum(axis=1)
    return 1.0


def _raise_beyond(
    gap: Array, allowed: Array, got: Array, want: Array, rows: Array, what: str, shape: tuple[int, ...]
) -> None:
    bad = ~((gap <= allowed) | (np.isnan(got) & np.isnan(want)) | (got == want))
    if bad.any():
        i = int(bad.argmax())
        where = tuple(int(k) for k in np.unravel_index(int(rows[i]), shape)) if shape else ()
        at = where[0] if len(where) == 1 else where
        raise VerificationError(
            f"verify: expected the {what} of row {at} to agree with float64 to {allowed[i]:.3g}, "
            f"got {float(got[i])!r} for "
            f"{float(want[i])!r} ({int(bad.sum())} of {rows.size} rows checked); please report this with fastnll.info()"
        )
