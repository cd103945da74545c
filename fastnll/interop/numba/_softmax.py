"""logsumexp, softmax, log_softmax and their vector-Jacobian products inside ``njit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll import ops
from fastnll.errors import DTypeError
from fastnll.interop.numba._rows import (
    axis_of,
    check_out,
    compiles_to,
    float_array,
    named,
    new_record,
    require_floats,
    row_loop,
    row_shape,
    rows_of,
    same_shape,
)
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.kernels import softmax_row, vjp_row

_softmax_loop, _vjp_loop = row_loop(softmax_row), row_loop(vjp_row)


@helper
def _lse(x: Any, axis: int) -> Any:
    rows = rows_of(x, axis)
    record = new_record(rows)
    lse = np.empty(rows.shape[0] * rows.shape[1], x.dtype)
    task = record[0]
    task.lse, task.lse_code = lse.ctypes.data, 0 if x.itemsize == 8 else 1
    _softmax_loop(record, rows, None, None)
    return lse


@compiles_to(ops.logsumexp)
def _logsumexp(x: Any, axis: Any = -1) -> Callable[..., Any]:
    if getattr(x, "ndim", 0) == 1:

        def one(x: Any, axis: Any = -1) -> Any:
            a = float_array(x)
            return _lse(a, axis_of(axis, 1))[0]

        return one

    def many(x: Any, axis: Any = -1) -> Any:
        a = float_array(x)
        at = axis_of(axis, a.ndim)
        return _lse(a, at).reshape(row_shape(a, at))

    return many


@helper
def _write(x: Any, axis: int, out: Any, log: int) -> None:
    rows, results = rows_of(x, axis), rows_of(out, axis)
    record = new_record(rows)
    record[0].log = log
    _softmax_loop(record, rows, None, results)


def _softmax_of(log: int) -> Callable[..., Any]:
    def normalise(x: Any, axis: Any = -1, out: Any = None) -> Callable[..., Any]:
        if check_out(x, out):

            def into(x: Any, axis: Any = -1, out: Any = None) -> Any:
                same_shape(out.shape, x.shape)
                _write(float_array(x), axis_of(axis, x.ndim), out, log)
                return out

            return named(into, f"softmax_into_{log}")

        def fresh(x: Any, axis: Any = -1, out: Any = None) -> Any:
            a = float_array(x)
            result = np.empty(a.shape, a.dtype)
            _write(a, axis_of(axis, a.ndim), result, log)
            return result

        return named(fresh, f"softmax_{log}")

    return normalise


compiles_to(ops.softmax)(_softmax_of(0))
compiles_to(ops.log_softmax)(_softmax_of(1))


@helper
def _vjp(y: Any, grad: Any, axis: int, out: Any, log: int) -> None:
    same_shape(grad.shape, y.shape)
    same_shape(out.shape, y.shape)
    rows, results = rows_of(y, axis), rows_of(out, axis)
    record = new_record(rows)
    record[0].log = log
    _vjp_loop(record, rows, rows_of(grad, axis), results)


def _check_vjp(name: str, y: Any, grad: Any) -> None:
    require_floats(name, y)
    if getattr(grad, "dtype", None) != y.dtype or grad.ndim != y.ndim:
        raise DTypeError(f"grad: expected an array like {y} inside njit, got {grad}")


@compiles_to(ops.log_softmax_vjp)
def _log_softmax_vjp(log_probs: Any, grad: Any, axis: Any = -1, out: Any = None) -> Callable[..., Any]:
    _check_vjp("log_probs", log_probs, grad)
    if check_out(log_probs, out):

        def into(log_probs: Any, grad: Any, axis: Any = -1, out: Any = None) -> Any:
            _vjp(log_probs, grad, axis_of(axis, log_probs.ndim), out, 1)
            return out

        return into

    def fresh(log_probs: Any, grad: Any, axis: Any = -1, out: Any = None) -> Any:
        result = np.empty(log_probs.shape, log_probs.dtype)
        _vjp(log_probs, grad, axis_of(axis, log_probs.ndim), result, 1)
        return result

    return fresh


@compiles_to(ops.softmax_vjp)
def _softmax_vjp(probs: Any, grad: Any, axis: Any = -1, out: Any = None) -> Callable[..., Any]:
    _check_vjp("probs", probs, grad)
    if check_out(probs, out):

        def into(probs: Any, grad: Any, axis: Any = -1, out: Any = None) -> Any:
            _vjp(probs, grad, axis_of(axis, probs.ndim), out, 0)
            return out

        return into

    def fresh(probs: Any, grad: Any, axis: Any = -1, out: Any = None) -> Any:
        result = np.empty(probs.shape, probs.dtype)
        _vjp(probs, grad, axis_of(axis, probs.ndim), result, 0)
        return result

    return fresh
