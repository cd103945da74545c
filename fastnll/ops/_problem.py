"""One call of the loss: from checked options and user arrays to a kernel task and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.arrays import as_array, as_float_array, check_axis, out_rows, rows_view, split_axes
from fastnll.dtypes import row_dtype
from fastnll.errors import DTypeError, OptionError, ShapeError, VerificationError
from fastnll.kernels.spec import CrossEntropyTask, row_blocks
from fastnll.ops._targets import check_soft_targets, class_mask_rows, fill_targets
from fastnll.options import LossOptions
from fastnll.plan import Plan, make_plan
from fastnll.weights import RowWeights, row_weights

__all__ = ["Problem", "grad_factors", "make_problem", "prepare_grad", "raise_nonfinite", "reduce_loss"]

Array = npt.NDArray[Any]


class Problem(NamedTuple):
    """A batch in kernel terms.

    Attributes
    ----------
    logits : ndarray
        What the user gave, as an array.
    axis : int
        Its class axis, from the front.
    shape : tuple of int
        Shape of the targets.
    weights : RowWeights
    task : CrossEntropyTask
        Without outputs.
    plan : Plan
    """

    logits: Array
    axis: int
    shape: tuple[int, ...]
    weights: RowWeights
    task: CrossEntropyTask
    plan: Plan


def make_problem(o: LossOptions, logits: npt.ArrayLike, targets: Any) -> Problem:
    """Check a batch and return it in kernel terms.

    Raises
    ------
    ShapeError, DTypeError, LabelError, OptionError
        As `fastnll.cross_entropy` documents.
    """
    x = as_float_array(logits, "logits")
    axis = check_axis(o.axis, x.ndim, "logits")
    last = split_axes(x, axis)
    rows = rows_view(last, "logits")
    columns = rows.shape[2]
    if o.valid_classes is not None:
        if o.valid_classes > columns:
            raise OptionError(f"valid_classes: expected at most {columns} (the logits' classes), got {o.valid_classes}")
        rows = rows[..., : o.valid_classes]
    v = rows.shape[2]
    shape = last.shape[:-1]
    plan = make_plan(rows.size, o.threads)
    task = CrossEntropyTask(
        rows,
        smoothing=o.label_smoothing,
        z_loss=o.z_loss,
        temperature=o.temperature,
        softcap=o.softcap or 0.0,
        threads=plan.threads,
    )
    if o.weight is not None:
        if o.weight.shape != (columns,):
            raise ShapeError(f"weight: expected shape ({columns},), one weight per class, got {o.weight.shape}")
        task.class_weight = o.weight[:v]
    if o.class_mask is not None:
        task.class_mask = class_mask_rows(o.class_mask, x, axis, rows.shape, v)
    hard = fill_targets(task, o, x, axis, targets, shape, v)
    ids = task.targets if hard and task.targets is not None else np.zeros(shape, np.uint8)
    if o.offsets is not None and o.offsets[-1] != ids.size:
        raise ShapeError(f"offsets: expected a last boundary of {ids.size} (the number of rows), got {o.offsets[-1]}")
    weights = row_weights(o, ids, v, plan, hard, columns)
    if hard:
        task.targets = weights.targets.reshape(rows.shape[:2])
        task.target_weight = weights.target_weight
    task.row_weight = weights.row_weight
    if not hard:
        check_soft_targets(task, o, shape, v)
    return Problem(x, axis, shape, weights, task, plan)


def _sequence_ids(o: LossOptions, shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Return each row's sequence and the shape of per-sequence results."""
    if o.offsets is not None:
        lengths = np.diff(o.offsets)
        return np.repeat(np.arange(lengths.size), lengths), (lengths.size,)
    if not shape:
        raise ShapeError(f"reduction: expected targets with a position axis for {o.reduction!r}, got a scalar")
    outer = shape[:-1]
    count = math.prod(outer)
    return np.repeat(np.arange(count), shape[-1]), outer


def _row_sums(o: LossOptions, p: Problem, values: Array | None) -> tuple[Array, tuple[int, ...]]:
    """Return per-sequence sums of per-row values (of the weights, where None)."""
    ids, shape = _sequence_ids(o, p.shape)
    if values is None:
        w = p.weights
        values = np.ones(ids.size)
        for factor in (w.row_weight, w.target_weight):
            values = values if factor is None else values * factor
    return np.bincount(ids, values, math.prod(shape)).astype(np.float64), shape


def divisor(o: LossOptions, p: Problem) -> float:
    """Return what the sum of the losses is divided by for a scalar reduction; raise if nothing is live."""
    if p.weights.n_live == 0 and o.empty == "raise":
        raise OptionError(
            f"targets: expected at least one live row, got none of {math.prod(p.shape)}: every row is ignored, masked "
            "or of weight 0; pass empty='nan' or empty='zero' to go on"
        )
    if o.normalizer is not None:
        return o.normalizer
    return p.weights.total if o.reduction == "mean" else 1.0


def reduce_loss(o: LossOptions, p: Problem, run: Callable[[CrossEntropyTask], None]) -> Any:
    """Run the task with the outputs that the reduction needs and return the loss."""
    task = p.task
    n = task.x.shape[0] * task.x.shape[1]
    scalar = o.reduction in {"mean", "sum"}
    div = divisor(o, p)
    if not scalar or o.nonfinite == "raise":
        task.loss = np.empty(n, row_dtype(p.logits.dtype) if o.reduction == "none" else np.float64)
    if scalar:
        task.block_sums = np.empty(row_blocks(n))
    run(task)
    if o.nonfinite == "raise" and task.loss is not None:
        raise_nonfinite(task.loss, p.shape)
    if scalar:
        assert task.block_sums is not None
        total = (
            math.fsum(task.block_sums.tolist()) if np.isfinite(task.block_sums).all() else float(task.block_sums.sum())
        )
        if p.weights.n_live == 0 and o.reduction == "mean" and o.normalizer is None:
            return 0.0 if o.empty == "zero" else math.nan
        return total / div if div != 0.0 else _over_zero(total, o.empty)
    assert task.loss is not None
    if o.reduction == "none":
        return task.loss.reshape(p.shape)
    sums, shape = _row_sums(o, p, task.loss)
    if o.reduction == "sequence_mean":
        weight, _ = _row_sums(o, p, None)
        if o.empty == "raise" and (weight == 0.0).any():
            first = int((weight == 0.0).argmax())
            raise OptionError(
                f"targets: expected a live row in every sequence, got none in sequence {first} "
                f"({int((weight == 0.0).sum())} of {weight.size}); pass empty='nan' or empty='zero' to go on"
            )
        empty = 0.0 if o.empty == "zero" else math.nan
        sums = np.divide(sums, weight, out=np.full_like(sums, empty), where=weight != 0.0)
    return sums.astype(row_dtype(p.logits.dtype)).reshape(shape)


def _over_zero(total: float, empty: str) -> float:
    if total == 0.0 and empty == "zero":  # live rows, but of classes that weigh nothing
        return 0.0
    return math.nan if total == 0.0 or math.isnan(total) else math.copysign(math.inf, total)


def raise_nonfinite(loss: Array, shape: tuple[int, ...]) -> None:
    """Raise VerificationError for the first row whose loss is NaN or infinite."""
    bad = ~np.isfinite(loss)
    if bad.any():
        first = int(bad.argmax())
        where = tuple(int(i) for i in np.unravel_index(first, shape)) if shape else ()
        raise VerificationError(
            f"logits: expected finite losses, got {float(loss[first])} in row {where[0] if len(where) == 1 else where} "
            f"({int(bad.sum())} of {loss.size} rows); look for NaN or inf in that row's logits, or a target "
            "whose logit is -inf"
        )


def grad_factors(o: LossOptions, p: Problem, grad_output: Any) -> None:
    """Fold the reduction's 1/sum and the upstream gradient into the task's gradient factors.

    Raises
    ------
    ShapeError
        If `grad_output` is neither a scalar nor of the loss' shape.
    """
    task, n = p.task, math.prod(p.shape)
    div = divisor(o, p)
    up = 1.0 if grad_output is None else _upstream(grad_output)
    if o.reduction in {"mean", "sum"}:
        if np.ndim(up):
            raise ShapeError(f"grad_output: expected a scalar for reduction {o.reduction!r}, got shape {np.shape(up)}")
        if div == 0.0:
            # Nothing to learn from: the gradient of an empty mean is nan, or 0 where the loss is.
            task.grad_scale = 0.0 if o.empty == "zero" or p.weights.n_live == 0 else math.nan
        else:
            task.grad_scale = float(up) / div
        return
    if o.reduction == "none":
        if np.ndim(up) == 0:
            task.grad_scale = float(up)
            return
        if np.shape(up) != p.shape:
            raise ShapeError(f"grad_output: expected a scalar or shape {p.shape}, got {np.shape(up)}")
        factor = np.array(up, dtype=np.float64).reshape(-1)
    else:
        ids, shape = _sequence_ids(o, p.shape)
        if np.ndim(up) and np.shape(up) != shape:
            raise ShapeError(f"grad_output: expected a scalar or shape {shape}, one per sequence, got {np.shape(up)}")
        per = np.broadcast_to(np.asarray(up, dtype=np.float64), shape).reshape(-1)
        if o.reduction == "sequence_mean":
            weight, _ = _row_sums(o, p, None)
            per = np.divide(per, weight, out=np.zeros(per.shape), where=weight != 0.0)
        factor = per[ids] if n else np.zeros(0)
    task.grad_weight = factor if task.row_weight is None else factor * task.row_weight
    if task.row_weight is not None:
        task.grad_weight[task.row_weight == 0.0] = 0.0


def _upstream(value: Any) -> Array:
    try:
        given = as_array(value, "grad_output")
        if np.iscomplexobj(given):  # NumPy would drop the imaginary part with a warning
            raise TypeError
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise DTypeError(f"grad_output: expected a number or an array of numbers, got {value!r}") from None


def prepare_grad(p: Problem, out: Array | None) -> tuple[Array, Callable[[], None] | None]:
    """Give the task a gradient array; return what the user gets and what is left to do after the kernel."""
    x, task = p.logits, p.task
    columns = x.shape[p.axis]
    full_shape = (*task.x.shape[:2], columns)
    sources = (x,) if task.probs is None else (x, task.probs)
    result, rows, finish = out_rows(out, sources, p.axis, full_shape)
    if out is not None and task.targets is not None and np.may_share_memory(out, task.targets):
        task.targets = task.targets.copy()
    v = task.x.shape[2]
    task.grad, task.fresh = rows[..., :v], out is None
    if v == columns:
        return result, finish

    def clear_padding() -> None:
        rows[..., v:] = 0.0
        if finish is not None:
            finish()

    return result, clear_padding
