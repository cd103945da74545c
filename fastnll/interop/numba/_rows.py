"""Compiled code between arrays and the row formulas of `fastnll.kernels.jit`.

The formulas are called row by row, on memory that is contiguous already or on a copy of the row. The kernels of the
Numba backend, which read every format and put short rows side by side, are not called: LLVM would compile them again
into each caller, for half a minute; a formula takes about a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types as numba_types
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import overload
from numpy.lib.stride_tricks import as_strided

from fastnll.errors import DTypeError, ShapeError
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.constants import BLOCK
from fastnll.kernels.jit.records import ROWS

__all__ = [
    "axis_of",
    "check_out",
    "compiles_to",
    "float_array",
    "given",
    "named",
    "new_record",
    "require_floats",
    "row_loop",
    "row_shape",
    "rows_of",
    "same_shape",
    "types",
]

types: Any = numba_types
set_item: Any = tuple_setitem
_FLOATS = (types.float64, types.float32)


def compiles_to(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator of an overload: types to a function with the same arguments.

    Not strict, or Numba would compare annotations too.
    """
    decorate: Callable[[Callable[..., Any]], Any] = overload(function, strict=False, prefer_literal=True)
    return decorate


def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Give a closure a name of its own.

    The linker knows functions by qualified name and types. A number tells namesakes apart, but it counts the
    compilations of one process: a caller from the cache may bring the numbers of another one.
    """
    function.__name__ = function.__qualname__ = f"fastnll_{name}"
    return function


def given(argument: Any) -> bool:
    """Return whether an optional argument is there, by its type."""
    return argument is not None and not isinstance(argument, types.NoneType | types.Omitted)


def require_floats(name: str, a: Any) -> None:
    """Raise at compile time for anything but an array of float64 or float32."""
    if not (isinstance(a, types.Array) and a.dtype in _FLOATS and a.ndim > 0):
        raise DTypeError(f"{name}: expected an array of float64 or float32 inside njit, got {a}")


def check_out(like: Any, out: Any) -> bool:
    """Return whether an array is given as `out`; raise at compile time for one of another kind."""
    if not given(out):
        return False
    if not (isinstance(out, types.Array) and out.dtype == like.dtype and out.ndim == like.ndim and out.mutable):
        raise DTypeError(f"out: expected a writeable array like {like} inside njit, got {out}")
    if out.ndim > 3 and out.layout != "C":
        raise DTypeError(f"out: expected a C-contiguous array of {out.ndim} axes inside njit, got {out}")
    return True


def float_array(x: Any) -> Any:
    """Return `x` with integers as float64."""
    return x if x.dtype.kind == "f" else x.astype(np.float64)


@compiles_to(float_array)
def _float_array(x: Any) -> Any:
    if isinstance(x, types.Array) and isinstance(x.dtype, types.Integer) and x.ndim > 0:
        return lambda x: x.astype(np.float64)
    require_floats("x", x)
    return lambda x: x


@helper
def axis_of(axis: int, ndim: int) -> int:
    """Return an axis counted from the front."""
    if axis < -ndim or axis >= ndim:
        raise ShapeError("axis: expected one of the array's axes, got one that it does not have")
    return axis if axis >= 0 else axis + ndim


@helper
def same_shape(shape: Any, expected: Any) -> None:
    """Raise unless two shapes are the same."""
    if shape != expected:
        raise ShapeError("out, grad: expected the shape of the first argument, got another")


def row_shape(x: Any, axis: int) -> Any:
    """Return the shape of `x` without one axis."""
    return x.shape[:axis] + x.shape[axis + 1 :]


@compiles_to(row_shape)
def _row_shape(x: Any, axis: int) -> Callable[..., Any]:
    if x.ndim == 1:
        return lambda x, axis: ()

    def rest(x: Any, axis: int) -> Any:
        shape = x.shape[1:]
        for i in range(axis):
            shape = set_item(shape, i, x.shape[i])
        return shape

    return rest


def rows_of(a: Any, axis: int) -> Any:
    """Return `a` as (outer, inner, V): a view, except of more than three axes that are not C-contiguous."""
    moved = np.moveaxis(a, axis, -1)
    return moved.reshape((1,) * (3 - a.ndim) + moved.shape if a.ndim < 3 else (1, -1, moved.shape[-1]))


@compiles_to(rows_of)
def _rows_of(a: Any, axis: int) -> Callable[..., Any]:
    # np.moveaxis would do, but takes seconds to compile. The cut into outer and inner depends on the number of axes
    # alone: rows of input and output are numbered alike.
    if a.ndim > 3:

        def contiguous(a: Any, axis: int) -> Any:
            c = np.ascontiguousarray(a)
            before = after = 1
            for i in range(axis):
                before *= c.shape[i]
            for i in range(axis + 1, c.ndim):
                after *= c.shape[i]
            v, size = c.shape[axis], c.itemsize
            return as_strided(c, (before, after, v), (after * v * size, size, after * size))

        return contiguous
    if a.ndim == 1:
        return lambda a, axis: as_strided(a, (1, 1, a.shape[0]), (0, 0, a.strides[0]))
    if a.ndim == 2:
        return lambda a, axis: as_strided(
            a, (1, a.shape[1 - axis], a.shape[axis]), (0, a.strides[1 - axis], a.strides[axis])
        )

    def three(a: Any, axis: int) -> Any:
        i, j = (1, 2) if axis == 0 else (0, 2) if axis == 1 else (0, 1)
        return as_strided(a, (a.shape[i], a.shape[j], a.shape[axis]), (a.strides[i], a.strides[j], a.strides[axis]))

    return three


@helper
def new_record(rows: Any) -> Any:
    """Return a record for rows, (outer, inner, V), with nothing in it but V."""
    if rows.shape[2] == 0:
        raise ShapeError("logits: expected at least one class, got none")
    record = np.zeros(1, ROWS)
    task = record[0]
    task.classes, task.grad_scale, task.temperature = rows.shape[2], 1.0, 1.0
    return record


def row_loop(formula: Callable[..., float], *, in_place: bool = True) -> Any:
    """Return the loop that applies a row formula to every row, and the sums of its values over blocks of 64.

    ``loop(record, x, second, out)``: (outer, inner, V) arrays, the last two None where there are none. `in_place`:
    whether the formula may work on the rows where they lie.
    """

    def loop(record: Any, x: Any, second: Any, out: Any) -> Any:
        task = record[0]
        n, size = x.shape[2], x.itemsize
        # Terms of a row, its soft targets, the row, the second row.
        wide = max(n, BLOCK)
        work = np.empty(wide + 3 * n, x.dtype)
        terms = work.ctypes.data
        task.soft_at = wide if task.smoothing != 0.0 or task.ids_count != 0 else 0
        row, other = work[wide + n : wide + 2 * n], work[wide + 2 * n :]
        row_at, other_at = row.ctypes.data, other.ctypes.data
        direct = in_place and x.strides[2] == size
        if out is not None:
            task.out = 1
            direct = direct and out.strides[2] == size
        sums = np.zeros((x.shape[0] * x.shape[1] + 63) // 64)
        r = 0
        for o in range(x.shape[0]):
            for i in range(x.shape[1]):
                second_at = 0
                if second is not None:
                    for v in range(n):
                        other[v] = second[o, i, v]
                    second_at = other_at
                if direct:
                    out_at = 0
                    if out is not None:
                        out_at = out.ctypes.data + o * out.strides[0] + i * out.strides[1]
                    at = x.ctypes.data + o * x.strides[0] + i * x.strides[1]
                    value = formula(task, r, o, i, at, second_at, out_at, terms, work)
                else:
                    for v in range(n):
                        row[v] = x[o, i, v]
                    value = formula(task, r, o, i, row_at, second_at, row_at, terms, work)
                    if out is not None:
                        for v in range(n):
                            out[o, i, v] = row[v]
                sums[r // 64] += value
                r += 1
        return sums

    return helper(named(loop, f"loop_over_{formula.__name__}{'' if in_place else '_copied'}"))
