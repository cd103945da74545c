"""Where the gradients of a linear head go: the user's arrays, or fresh ones, and the sums behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.arrays import shared_array
from fastnll.buffers import pool
from fastnll.dtypes import float_type
from fastnll.errors import DTypeError, OptionError, ShapeError
from fastnll.ops._linear_filter import FilterReport
from fastnll.ops._linear_problem import LinearProblem

__all__ = ["WRT", "Grads", "LinearGrads", "check_wrt", "prepare_grads"]

Array = npt.NDArray[Any]

WRT = ("hidden", "weight", "bias")


class _Three(NamedTuple):
    hidden: Array | None
    weight: Array | None
    bias: Array | None


class LinearGrads(_Three):
    """Gradients of a linear head; None for those that were not asked for. A tuple of the three.

    Attributes
    ----------
    hidden : ndarray (..., D) or None
    weight : ndarray (V, D) or None
        None, too, where ``sgd`` has used it up.
    bias : ndarray (V,) or None
    filtered : FilterReport or None
        What ``filter`` has left out; not one of the three.

    Examples
    --------
    >>> hidden, weight, bias = LinearGrads(None, np.zeros((2, 3)), None)
    >>> weight.shape
    (2, 3)
    """

    filtered: FilterReport | None = None


def check_wrt(wrt: Any, bias: Any) -> tuple[str, ...]:
    """Return the gradients that are asked for, in order.

    Raises
    ------
    OptionError
        For a name that is none, or the gradient of a bias that is not there.
    """
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    unknown = [name for name in names if name not in WRT]
    if unknown or not names:
        raise OptionError(f"wrt: expected some of {', '.join(map(repr, WRT))}, got {wrt!r}")
    return tuple(name for name in WRT if name in names and (name != "bias" or bias is not None))


class Grads(NamedTuple):
    """The arrays that a call writes.

    Attributes
    ----------
    hidden, weight, bias : ndarray or None
        What the user gets.
    hidden_rows : (N, D) array or None
    weight_sum : (V, D) array or None
        In the compute dtype, or what the user gets.
    bias_sum : (V,) float64 array or None
    finish : callable
        Rounds and adds the sums to what the user gets, where those are not the same.
    """

    hidden: Array | None
    weight: Array | None
    bias: Array | None
    hidden_rows: Array | None
    weight_sum: Array | None
    bias_sum: Array | None
    finish: Callable[[], None]

    @property
    def weight_sum_is_users(self) -> bool:
        """Whether the sum of the weight's gradient is the user's own array, and not rounded to it at the end."""
        return self.weight is not None and self.weight_sum is not None and self.weight.dtype == self.weight_sum.dtype


def _target(name: str, given: Any, shape: tuple[int, ...], allowed: tuple[Any, ...], inputs: Iterable[Array]) -> Array:
    """Check one buffer of `out`."""
    a = shared_array(given, f"out.{name}")
    if not isinstance(a, np.ndarray):
        raise DTypeError(f"out.{name}: expected a numpy array, got {type(a).__name__}")
    if a.shape != shape:
        raise ShapeError(f"out.{name}: expected shape {shape}, got {a.shape}")
    if a.dtype not in allowed:
        raise DTypeError(f"out.{name}: expected dtype {' or '.join(map(str, dict.fromkeys(allowed)))}, got {a.dtype}")
    if not (a.flags.c_contiguous and a.flags.writeable and a.flags.aligned):
        raise DTypeError(f"out.{name}: expected a writeable C-contiguous array, got one that is not")
    if any(np.may_share_memory(a, other) for other in inputs):
        raise OptionError(f"out.{name}: expected memory of its own, got an array that overlaps another one of the call")
    return a


def prepare_grads(
    lp: LinearProblem, wrt: tuple[str, ...], out: Any, accumulate: bool, grad_dtype: Any, user: tuple[Any, ...]
) -> Grads:
    """Check or make the gradient arrays.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        If `out` does not fit, or `grad_dtype` is neither the inputs' dtype nor what is computed in.
    """
    storage = lp.hidden.dtype
    found = float_type(storage)
    assert found is not None
    allowed = (storage, found.compute)
    dtype = found.compute if grad_dtype is None else np.dtype(grad_dtype)
    if dtype not in allowed:
        raise OptionError(
            f"grad_dtype: expected {' or '.join(map(str, dict.fromkeys(allowed)))} for {storage} inputs, got {dtype}"
        )
    shapes = {"hidden": lp.shape, "weight": (lp.columns, lp.shape[-1]), "bias": (lp.columns,)}
    given = dict.fromkeys(WRT) if out is None else _three(out)
    if accumulate and any(given[name] is None for name in wrt):
        missing = ", ".join(name for name in wrt if given[name] is None)
        raise OptionError(f"out: expected buffers to add to beside accumulate=True, got none for {missing}")
    inputs = [a for a in user if isinstance(a, np.ndarray)]
    arrays: dict[str, Array | None] = dict.fromkeys(WRT)
    for name in wrt:
        if given[name] is not None:
            arrays[name] = _target(name, given[name], shapes[name], allowed, inputs)
            inputs.append(arrays[name])  # type: ignore[arg-type]
        else:
            arrays[name] = pool.empty(shapes[name], dtype)
    hidden, weight, bias = (arrays[name] for name in WRT)
    return _with_sums(lp, hidden, weight, bias, accumulate)


def _three(out: Any) -> dict[str, Any]:
    if not isinstance(out, tuple) or len(out) != 3:
        raise OptionError("out: expected LinearGrads, or a tuple (hidden, weight, bias) with None for those to be made")
    return dict(zip(WRT, out, strict=True))


def _with_sums(lp: LinearProblem, hidden: Array | None, weight: Array | None, bias: Array | None, add: bool) -> Grads:
    v, d = lp.weight.shape
    rows = None if hidden is None else hidden.reshape(-1, d)
    if rows is not None and not add and lp.live.size < rows.shape[0]:
        dead = np.ones(rows.shape[0], bool)
        dead[lp.live] = False
        rows[dead] = 0.0
    found = float_type(lp.hidden.dtype)
    assert found is not None
    weight_sum = None
    if weight is not None:
        weight_sum = weight[:v] if weight.dtype == found.compute else np.empty((v, d), found.compute)
        if not add:
            weight[v:] = 0.0
    bias_sum = None if bias is None else np.zeros(v)

    def finish() -> None:
        if weight is not None and weight_sum is not None and weight.dtype != weight_sum.dtype:
            for r in range(0, v, 1024):  # no second copy of the whole
                part = weight_sum[r : r + 1024]
                weight[r : min(r + 1024, v)] = part + weight[r : min(r + 1024, v)] if add else part
        if bias is not None:
            with np.errstate(all="ignore"):
                bias[:v] = bias_sum + bias[:v] if add else bias_sum
            if not add:
                bias[v:] = 0.0

    return Grads(hidden, weight, bias, rows, weight_sum, bias_sum, finish)
