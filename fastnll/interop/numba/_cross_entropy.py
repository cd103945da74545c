"""cross_entropy and cross_entropy_value_and_grad inside ``njit``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll import ops
from fastnll.errors import DTypeError, OptionError, ShapeError
from fastnll.interop.numba._rows import (
    axis_of,
    check_out,
    compiles_to,
    float_array,
    given,
    named,
    new_record,
    row_loop,
    row_shape,
    rows_of,
    same_shape,
    types,
)
from fastnll.interop.numba._targets import (
    check_options,
    divisor,
    ids_of,
    reduction_of,
    row_weights,
    same_rows,
    sum_of,
    target_weights,
)
from fastnll.kernels.jit.ce_general import general_row
from fastnll.kernels.jit.ce_rows import plain_row
from fastnll.kernels.jit.compiler import helper

__all__ = ["loss_for", "numbers_of", "out_or_fresh", "scale_of", "upstream_of", "weights_of"]

_plain_loop, _general_loop = row_loop(plain_row), row_loop(general_row, in_place=False)


@helper
def _cap(softcap: Any) -> float:
    """Return the softcap as the kernels know it: 0 for none."""
    if softcap is None:
        return 0.0
    cap = float(softcap)
    if not (math.isfinite(cap) and cap > 0.0):
        raise OptionError("softcap: expected a finite number above 0, got another")
    return cap


@helper
def _check_numbers(smoothing: float, z_loss: float, temperature: float) -> None:
    if not 0.0 <= smoothing <= 1.0:
        raise OptionError("label_smoothing: expected a number from 0 to 1, got another")
    if not (math.isfinite(z_loss) and z_loss >= 0.0):
        raise OptionError("z_loss: expected a finite number of at least 0, got another")
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise OptionError("temperature: expected a finite number above 0, got another")


def batch_loss(loop: Any, mean: bool) -> Callable[..., Any]:
    """Return the compiled loss of a batch: (sum or mean, losses), gradient to `results`; for one row loop.

    The arrays it takes are rows, (outer, inner, V); `ids`, `weight`, `of_target`, `upstream`, `losses` have one element
    a row, and all but the first two may be None.
    """

    def loss(
        rows: Any,
        results: Any,
        ids: Any,
        weight: Any,
        of_target: Any,
        by_class: Any,
        upstream: Any,
        losses: Any,
        numbers: Any,
    ) -> float:
        record = new_record(rows)
        task = record[0]
        task.smoothing, task.z_loss, task.temperature, task.softcap = numbers[0], numbers[1], numbers[2], numbers[3]
        task.targets, task.targets_code = ids.ctypes.data, 7
        task.targets_inner, task.targets_outer = 8, 8 * rows.shape[1]
        task.row_weight = weight.ctypes.data
        if of_target is not None:
            task.target_weight = of_target.ctypes.data
        if by_class is not None:
            real = by_class.astype(rows.dtype)
            task.class_weight = real.ctypes.data
        if losses is not None:
            task.loss, task.loss_code = losses.ctypes.data, 0 if losses.itemsize == 8 else 1
        total, live = divisor(weight, of_target, mean)
        task.grad_scale = numbers[4]
        if mean:
            # Nothing to learn from where nothing is live; rows that weigh nothing have no mean.
            task.grad_scale = numbers[4] / total if total != 0.0 else math.nan if live else 0.0
        if upstream is not None:
            task.grad_weight = upstream.ctypes.data
        value = sum_of(loop(record, rows, None, results))
        # Used after the loop that knows their addresses only, so that they are not freed before.
        kept = ids.size + weight.size
        if of_target is not None:
            kept += of_target.size
        if by_class is not None:
            kept += real.size
        if upstream is not None:
            kept += upstream.size
        if not mean or kept < 0:
            return value
        if not live or (total == 0.0 and value == 0.0):
            return math.nan
        return value / total if total != 0.0 else value * math.inf

    return helper(named(loss, f"{'mean' if mean else 'sum'}_by_{loop.py_func.__name__}"))


_LOSSES = {(loop, mean): batch_loss(loop, mean) for loop in (_plain_loop, _general_loop) for mean in (False, True)}


@helper
def weights_of(ids: Any, classes: int, weight: Any) -> Any:
    """Return `target_weights`, or (None, None) where there are no class weights."""
    if weight is None:
        return None, None
    return target_weights(ids, classes, weight)


@helper
def numbers_of(label_smoothing: float, z_loss: float, temperature: float, softcap: Any, scale: float) -> Any:
    """Return the checked options, and the factor of the gradient, as one vector."""
    _check_numbers(label_smoothing, z_loss, temperature)
    return np.array([label_smoothing, z_loss, temperature, _cap(softcap), scale])


def batch(loss: Any) -> Any:
    """Return compiled code from arrays to (sum or mean, losses), the gradient going to `out`; for one loss."""

    def run(
        x: Any,
        targets: Any,
        at: int,
        out: Any,
        ignore_index: Any,
        mask: Any,
        token_weight: Any,
        weight: Any,
        numbers: Any,
        upstream: Any,
    ) -> Any:
        rows = rows_of(x, at)
        losses = np.empty(row_shape(x, at), x.dtype)
        same_rows(targets, losses)
        ids = ids_of(targets)
        w = row_weights(ids, rows.shape[2], ignore_index, mask, token_weight)
        of_target, by_class = weights_of(ids, rows.shape[2], weight)
        results = _rows_or_none(out, at)
        up = upstream_of(upstream, w)
        return loss(rows, results, ids, w, of_target, by_class, up, losses, numbers), losses

    return helper(named(run, f"batch_of_{loss.py_func.__name__}"))


@helper
def _rows_or_none(out: Any, at: int) -> Any:
    if out is None:
        return None
    return rows_of(out, at)


@helper
def upstream_of(upstream: Any, weight: Any) -> Any:
    """Return the factor of each row's gradient, 0 where the row is absent; None where there is no upstream array."""
    if upstream is None:
        return None
    if upstream.size != weight.size:
        raise ShapeError("grad_output: expected a number or an array of the losses' shape, got another")
    factor = np.zeros(weight.size)
    for i, g in enumerate(upstream.flat):
        if weight[i] != 0.0:
            factor[i] = g * weight[i]
    return factor


_BATCHES = {key: batch(loss) for key, loss in _LOSSES.items()}


def _loop_for(label_smoothing: Any, z_loss: Any, softcap: Any, temperature: Any) -> Any:
    """Return the row loop for options by their types: those left out need the plain formula only."""
    left_out = all(isinstance(o, types.Omitted | float | int) for o in (label_smoothing, z_loss, temperature))
    return _plain_loop if left_out and not given(softcap) else _general_loop


def loss_for(label_smoothing: Any, z_loss: Any, softcap: Any, temperature: Any, mean: bool) -> Any:
    """Return the compiled loss of rows for options by their types."""
    return _LOSSES[_loop_for(label_smoothing, z_loss, softcap, temperature), mean]


def batch_for(label_smoothing: Any, z_loss: Any, softcap: Any, temperature: Any, mean: bool) -> Any:
    """Return the compiled loss of arrays for options by their types."""
    return _BATCHES[_loop_for(label_smoothing, z_loss, softcap, temperature), mean]


@compiles_to(ops.cross_entropy)
def _cross_entropy(
    logits: Any,
    targets: Any,
    reduction: Any = "mean",
    ignore_index: Any = -100,
    mask: Any = None,
    token_weight: Any = None,
    weight: Any = None,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    softcap: Any = None,
    temperature: Any = 1.0,
    axis: Any = -1,
) -> Callable[..., Any]:
    check_options(targets, logits.ndim, ignore_index, mask, token_weight, weight)
    kind = reduction_of(reduction)
    run = batch_for(label_smoothing, z_loss, softcap, temperature, kind == "mean")
    which = 1 if kind == "none" else 0

    def value(
        logits: Any,
        targets: Any,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        weight: Any = None,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        softcap: Any = None,
        temperature: Any = 1.0,
        axis: Any = -1,
    ) -> Any:
        x = float_array(logits)
        numbers = numbers_of(label_smoothing, z_loss, temperature, softcap, 1.0)
        at = axis_of(axis, x.ndim)
        return run(x, targets, at, None, ignore_index, mask, token_weight, weight, numbers, None)[which]

    return named(value, f"cross_entropy_{kind}_{run.py_func.__name__}")


def out_or_fresh(x: Any, out: Any) -> Any:
    """Return `out`, checked, or a fresh array like `x`."""
    return np.empty_like(x) if out is None else out


@compiles_to(out_or_fresh)
def _make_out(x: Any, out: Any) -> Callable[..., Any]:
    if not check_out(x, out):
        return lambda x, out: np.empty(x.shape, x.dtype)

    def checked(x: Any, out: Any) -> Any:
        same_shape(out.shape, x.shape)
        return out

    return checked


@helper
def scale_of(grad_output: Any) -> float:
    """Return a scalar upstream gradient; 1 where there is none."""
    return 1.0 if grad_output is None else float(grad_output)


@compiles_to(ops.cross_entropy_value_and_grad)
def _value_and_grad(
    logits: Any,
    targets: Any,
    grad_output: Any = None,
    out: Any = None,
    reduction: Any = "mean",
    ignore_index: Any = -100,
    mask: Any = None,
    token_weight: Any = None,
    weight: Any = None,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    softcap: Any = None,
    temperature: Any = 1.0,
    axis: Any = -1,
) -> Callable[..., Any]:
    check_options(targets, logits.ndim, ignore_index, mask, token_weight, weight)
    kind = reduction_of(reduction)
    run = batch_for(label_smoothing, z_loss, softcap, temperature, kind == "mean")
    which = 1 if kind == "none" else 0
    per_row = isinstance(grad_output, types.Array)
    if per_row and kind != "none":
        raise DTypeError(f"grad_output: expected a number for reduction {kind!r} inside njit, got {grad_output}")

    def with_rows(
        logits: Any,
        targets: Any,
        grad_output: Any = None,
        out: Any = None,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        weight: Any = None,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        softcap: Any = None,
        temperature: Any = 1.0,
        axis: Any = -1,
    ) -> Any:
        x = float_array(logits)
        numbers = numbers_of(label_smoothing, z_loss, temperature, softcap, 1.0)
        grad = out_or_fresh(x, out)
        at = axis_of(axis, x.ndim)
        found = run(x, targets, at, grad, ignore_index, mask, token_weight, weight, numbers, grad_output)
        return found[which], grad

    def with_number(
        logits: Any,
        targets: Any,
        grad_output: Any = None,
        out: Any = None,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        weight: Any = None,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        softcap: Any = None,
        temperature: Any = 1.0,
        axis: Any = -1,
    ) -> Any:
        x = float_array(logits)
        numbers = numbers_of(label_smoothing, z_loss, temperature, softcap, scale_of(grad_output))
        grad = out_or_fresh(x, out)
        at = axis_of(axis, x.ndim)
        found = run(x, targets, at, grad, ignore_index, mask, token_weight, weight, numbers, None)
        return found[which], grad

    made = with_rows if per_row else with_number
    return named(made, f"{made.__name__}_{kind}_{run.py_func.__name__}")
