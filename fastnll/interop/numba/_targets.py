"""Compiled code that turns targets and options into the numbers a row has: ids, weights, what the sum is divided by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll.errors import DTypeError, LabelError, OptionError, ShapeError
from fastnll.interop.numba._rows import compiles_to, given, types
from fastnll.kernels.jit.compiler import helper

__all__ = ["check_options", "divisor", "ids_of", "reduction_of", "row_weights", "same_rows", "sum_of", "target_weights"]


def reduction_of(reduction: Any) -> str:
    """Return the reduction, which must be known when the caller is compiled: the result's type depends on it."""
    value = getattr(reduction, "literal_value", getattr(reduction, "value", reduction))
    if value not in ("mean", "sum", "none"):
        raise OptionError(
            f"reduction: expected the literal 'mean', 'sum' or 'none' inside njit, got {reduction}; "
            "pass it as a constant, not as a variable"
        )
    return str(value)


def check_options(targets: Any, ndim: int, ignore_index: Any, mask: Any, token_weight: Any, weight: Any) -> None:
    """Raise at compile time for options of types that compiled code does not take."""
    if ndim == 1:
        scalar = isinstance(targets, types.Integer) or (isinstance(targets, types.Array) and targets.ndim == 0)
        if not scalar:
            raise ShapeError(f"targets: expected one class id for logits of one axis inside njit, got {targets}")
    elif not (
        isinstance(targets, types.Array) and isinstance(targets.dtype, types.Integer) and targets.ndim == ndim - 1
    ):
        raise DTypeError(f"targets: expected an integer array of {ndim - 1} axes inside njit, got {targets}")
    if given(ignore_index) and not isinstance(ignore_index, int | types.Integer):
        raise OptionError(f"ignore_index: expected one integer or None inside njit, got {ignore_index}")
    for name, value, kind in (("mask", mask, types.Boolean), ("token_weight", token_weight, types.Float)):
        fits = isinstance(value, types.Array) and isinstance(value.dtype, kind) and value.ndim == ndim - 1
        if given(value) and not fits:
            raise DTypeError(f"{name}: expected an array of the targets' {ndim - 1} axes inside njit, got {value}")
    if given(weight) and not (isinstance(weight, types.Array) and weight.ndim == 1):
        raise ShapeError(f"weight: expected an array of one axis inside njit, got {weight}")


def ids_of(targets: Any) -> Any:
    """Return class ids as contiguous int64; what int64 cannot hold becomes negative and never equals an ignored id."""
    return np.ravel(targets).astype(np.int64)


@compiles_to(ids_of)
def _ids_of(targets: Any) -> Callable[..., Any]:
    if isinstance(targets, types.Integer):
        return lambda targets: np.array([np.int64(targets)])
    if targets.ndim == 0:
        return lambda targets: np.array([np.int64(targets[()])])
    huge = targets.dtype == types.uint64

    def ids(targets: Any) -> Any:
        found = np.empty(targets.size, np.int64)
        for i, t in enumerate(targets.flat):
            found[i] = -9223372036854775808 if huge and t > 9223372036854775807 else t
        return found

    return ids


def same_rows(targets: Any, losses: Any) -> None:
    """Raise unless there is one target for every row."""
    if np.shape(targets) != losses.shape:
        raise ShapeError("targets: expected the shape of the logits without the class axis, got another")


@compiles_to(same_rows)
def _same_rows(targets: Any, losses: Any) -> Callable[..., Any]:
    if losses.ndim == 0:
        return lambda targets, losses: None

    def check(targets: Any, losses: Any) -> None:
        if targets.shape != losses.shape:
            raise ShapeError("targets: expected the shape of the logits without the class axis, got another")

    return check


@helper
def row_weights(ids: Any, classes: int, ignore_index: Any, mask: Any, token_weight: Any) -> Any:
    """Return the weight of each row, 0 where it is absent; raise for a live row without a class."""
    weight = np.ones(ids.size)
    if mask is not None:
        if mask.size != ids.size:
            raise ShapeError("mask: expected the targets' shape, got another")
        for i, live in enumerate(mask.flat):
            if not live:
                weight[i] = 0.0
    if ignore_index is not None:
        for i in range(ids.size):
            if ids[i] == ignore_index:
                weight[i] = 0.0
    bad = 0
    first = -1
    for i in range(ids.size):
        if weight[i] != 0.0 and (ids[i] < 0 or ids[i] >= classes):
            bad += 1
            if first < 0:
                first = i
    if bad > 0:
        # Numba cannot write out this one, which also stands for unsigned ids beyond int64.
        lowest = ids[first] == -9223372036854775808
        got = "one beyond the range of int64" if lowest else str(ids[first])
        raise LabelError(
            "targets: expected class ids from 0 to "
            + str(classes - 1)
            + ", or ignore_index, got "
            + got
            + " in row "
            + str(first)
            + " ("
            + str(bad)
            + " of "
            + str(ids.size)
            + " out of range)"
        )
    if token_weight is not None:
        if token_weight.size != ids.size:
            raise ShapeError("token_weight: expected the targets' shape, got another")
        for i, w in enumerate(token_weight.flat):
            if weight[i] != 0.0:
                if not math.isfinite(w):
                    raise OptionError("token_weight: expected finite numbers in live rows, got NaN or infinity")
                weight[i] = w
    return weight


@helper
def target_weights(ids: Any, classes: int, weight: Any) -> Any:
    """Return the class weight of each row's target, and the class weights in float64."""
    if weight.size != classes:
        raise ShapeError("weight: expected one weight per class, got another number of them")
    by_class = np.empty(classes)
    for v in range(classes):
        w = float(weight[v])
        if not (math.isfinite(w) and w >= 0.0):
            raise OptionError("weight: expected finite numbers of at least 0, got another")
        by_class[v] = w
    of_target = np.ones(ids.size)
    for i in range(ids.size):
        if 0 <= ids[i] < classes:
            of_target[i] = by_class[ids[i]]
    return of_target, by_class


@helper
def sum_of(values: Any) -> float:
    """Return a sum as exact as `math.fsum` to an ulp or so: A. Neumaier (1974)."""
    total = 0.0
    lost = 0.0
    for value in values:
        moved = total + value
        if abs(total) >= abs(value):
            lost += (total - moved) + value
        else:
            lost += (value - moved) + total
        total = moved
    return total + lost if math.isfinite(lost) else total


@helper
def divisor(weight: Any, of_target: Any, mean: bool) -> tuple[float, bool]:
    """Return what the sum of the losses is divided by, and whether any row is live."""
    live = False
    for w in weight:
        if w != 0.0:
            live = True
    if not mean:
        return 1.0, live
    if of_target is not None:
        return sum_of(weight * of_target), live
    return sum_of(weight), live
