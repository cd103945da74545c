"""nll_loss, selected_log_probs and its vector-Jacobian product inside ``njit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll import ops
from fastnll.errors import DTypeError, LabelError, ShapeError
from fastnll.interop.numba._cross_entropy import out_or_fresh, weights_of
from fastnll.interop.numba._rows import (
    axis_of,
    compiles_to,
    float_array,
    named,
    new_record,
    row_loop,
    row_shape,
    rows_of,
    types,
)
from fastnll.interop.numba._targets import check_options, divisor, ids_of, reduction_of, row_weights, same_rows, sum_of
from fastnll.kernels.jit.ce_general import general_row
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.kernels import gather_row

_gather_loop, _vjp_loop = row_loop(gather_row), row_loop(general_row, in_place=False)


@helper
def _product(weight: Any, of_target: Any) -> Any:
    if of_target is None:
        return weight
    return weight * of_target


@helper
def _losses(x: Any, targets: Any, at: int, ignore_index: Any, mask: Any, token_weight: Any, weight: Any) -> Any:
    """Return (losses, row weights, target weights) of normalised rows."""
    rows = rows_of(x, at)
    losses = np.empty(row_shape(x, at), x.dtype)
    same_rows(targets, losses)
    ids = ids_of(targets)
    w = row_weights(ids, rows.shape[2], ignore_index, mask, token_weight)
    of_target = weights_of(ids, rows.shape[2], weight)[0]
    factors, values = _product(w, of_target), np.zeros(ids.size)
    for r in range(ids.size):
        if factors[r] != 0.0:
            values[r] = -factors[r] * rows[r // rows.shape[1], r % rows.shape[1], ids[r]]
    return values, w, of_target


@compiles_to(ops.nll_loss)
def _nll_loss(
    log_probs: Any,
    targets: Any,
    reduction: Any = "mean",
    ignore_index: Any = -100,
    mask: Any = None,
    token_weight: Any = None,
    weight: Any = None,
    axis: Any = -1,
) -> Callable[..., Any]:
    check_options(targets, log_probs.ndim, ignore_index, mask, token_weight, weight)
    kind = reduction_of(reduction)
    mean = kind == "mean"

    def scalar(
        log_probs: Any,
        targets: Any,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        weight: Any = None,
        axis: Any = -1,
    ) -> Any:
        x = float_array(log_probs)
        at = axis_of(axis, x.ndim)
        values, w, of_target = _losses(x, targets, at, ignore_index, mask, token_weight, weight)
        total, live = divisor(w, of_target, mean)
        value = sum_of(values)
        if not mean:
            return value
        if not live or (total == 0.0 and value == 0.0):
            return np.nan
        return value / total if total != 0.0 else value * np.inf

    def each(
        log_probs: Any,
        targets: Any,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        weight: Any = None,
        axis: Any = -1,
    ) -> Any:
        x = float_array(log_probs)
        at = axis_of(axis, x.ndim)
        values, _, _ = _losses(x, targets, at, ignore_index, mask, token_weight, weight)
        return values.astype(x.dtype).reshape(row_shape(x, at))

    return named(each if kind == "none" else scalar, f"nll_loss_{kind}")


def _check_ids(logits: Any, ids: Any) -> None:
    if not (
        isinstance(ids, types.Array)
        and isinstance(ids.dtype, types.Integer)
        and logits.ndim - 1 <= ids.ndim <= logits.ndim
        and ids.ndim > 0
    ):
        raise DTypeError(f"ids: expected an integer array of shape (...,) or (..., K) inside njit, got {ids}")


@helper
def _checked_ids(x: Any, at: int, ids: Any) -> Any:
    """Return (ids as contiguous int64, ids a row)."""
    rows = rows_of(x, at)
    n = rows.shape[0] * rows.shape[1]
    columns = ids.size // n if n > 0 else 1
    lead = np.empty(row_shape(x, at), np.bool_)
    for i in range(lead.ndim):
        if ids.shape[i] != lead.shape[i]:
            raise ShapeError("ids: expected the shape of the logits without the class axis, or that and (K,)")
    flat = ids_of(ids)
    for t in flat:
        if t < 0 or t >= rows.shape[2]:
            raise LabelError("ids: expected class ids from 0 to V - 1, got " + str(t))
    return flat, columns


@compiles_to(ops.selected_log_probs)
def _selected_log_probs(logits: Any, ids: Any, axis: Any = -1) -> Callable[..., Any]:
    _check_ids(logits, ids)

    def selected(logits: Any, ids: Any, axis: Any = -1) -> Any:
        x = float_array(logits)
        at = axis_of(axis, x.ndim)
        flat, columns = _checked_ids(x, at, ids)
        rows = rows_of(x, at)
        record = new_record(rows)
        picked = np.empty(ids.shape, x.dtype)
        task = record[0]
        task.picked, task.picked_code = picked.ctypes.data, 0 if x.itemsize == 8 else 1
        task.ids, task.ids_count = flat.ctypes.data, columns
        _gather_loop(record, rows, None, None)
        task.ids_count = flat.size  # after the loop, which knows the address of the ids only: they are not freed before
        return picked

    return selected


@compiles_to(ops.selected_log_probs_vjp)
def _selected_log_probs_vjp(logits: Any, ids: Any, grad: Any, axis: Any = -1, out: Any = None) -> Callable[..., Any]:
    _check_ids(logits, ids)
    if not (isinstance(grad, types.Array) and isinstance(grad.dtype, types.Float) and grad.ndim == ids.ndim):
        raise DTypeError(f"grad: expected a float array of the ids' {ids.ndim} axes inside njit, got {grad}")

    def product(logits: Any, ids: Any, grad: Any, axis: Any = -1, out: Any = None) -> Any:
        x = float_array(logits)
        at = axis_of(axis, x.ndim)
        if grad.shape != ids.shape:
            raise ShapeError("grad: expected the shape of the ids, got another")
        flat, columns = _checked_ids(x, at, ids)
        result = out_or_fresh(x, out)
        rows = rows_of(x, at)
        record = new_record(rows)
        minus = np.empty(grad.size)
        for i, g in enumerate(grad.flat):
            minus[i] = -g
        task = record[0]
        task.ids, task.ids_count, task.id_probs = flat.ctypes.data, columns, minus.ctypes.data
        _vjp_loop(record, rows, None, rows_of(result, at))
        task.ids_count = flat.size + minus.size  # as above
        return result

    return product
