"""The true result of a case, in wider arithmetic, and how far a contender's result is from it.

Independent of the kernels and of their reference: a benchmark must not certify itself. float64 for results of 32 bits
and less, long double for float64 (80 bits on x86-64; where long double is float64 the errors of float64 contenders
are upper bounds). Written so that no digit is lost to cancellation: log1p over the other classes for a confident row,
and p_t - 1 as minus the sum of the other probabilities.

The mean loss is checked over all rows. Arrays of the logits' size are checked on a sample of rows, the first and the
last among them, of at most `SAMPLE` elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.bench.data import Data

__all__ = ["SAMPLE", "Error", "Oracle", "RowTruth", "Truth", "row_truth", "ulp_error"]

Array = npt.NDArray[Any]

SAMPLE = 2**20
_CHUNK = 2**20
# Largest error of an admitted result, as a multiple of the eps of the logits' dtype. 32 and 64 bits: a naive sum over
# a million rows passes. 16 bits: frameworks round log-probabilities and means to the logits' dtype.
_TOLERANCE = {8: 1000.0, 4: 1000.0, 2: 4.0}


@dataclass(frozen=True)
class Error:
    """The error of one output: worst and root-mean-square, in units in the last place of its dtype."""

    worst: float
    rms: float


@dataclass(frozen=True)
class RowTruth:
    """The truth about some rows in wide arithmetic: softmax, log-softmax, logsumexp and loss."""

    probs: Array
    log_probs: Array
    lse: Array
    loss: Array
    grad: Array


class Truth(NamedTuple):
    """The true value of one output.

    Attributes
    ----------
    value : array
        In wide arithmetic.
    dtype : dtype
        Whose units in the last place count.
    scale : array, optional
        The size of the terms of which the value is a difference; the value itself where not given.
    lenient : array, optional
        In place of `scale` for the decision whether a result is admitted: what the usual formulas lose, p_t - 1 in a
        confident row and an exp of a rounded log-probability, is an error to report, not a wrong result.
    """

    value: Array
    dtype: Any
    scale: Array | None = None
    lenient: Array | None = None


def row_truth(x: Array, targets: Array | None) -> RowTruth:
    """Return what is true of rows of logits.

    Parameters
    ----------
    x : (n, V) array
        Logits, already in the wide dtype.
    targets : (n,) int array, optional
        Class ids; class 0 where not given.

    Examples
    --------
    >>> row_truth(np.log([[0.25, 0.75]]), np.array([1])).grad.round(12).tolist()
    [[0.25, -0.25]]
    """
    rows = np.arange(x.shape[0])
    t = np.zeros(x.shape[0], np.int64) if targets is None else targets
    top = x.argmax(axis=1)
    high = x[rows, top]
    shifted = x - high[:, None]
    e = np.exp(shifted)
    e[rows, top] = 0
    rest = e.sum(axis=1)  # the largest class itself is exactly 1 and is left out
    log_rest = np.log1p(rest)
    e[rows, top] = 1
    probs = e / (1 + rest)[:, None]
    log_probs = shifted - log_rest[:, None]
    grad = probs.copy()
    grad[rows, t] = 0
    grad[rows, t] = -grad.sum(axis=1)
    return RowTruth(probs, log_probs, high + log_rest, -log_probs[rows, t], grad)


def _format(dtype: np.dtype[Any]) -> tuple[float, int]:
    """Return the smallest normal number of a dtype and the stored bits of its mantissa."""
    if dtype.name == "bfloat16":
        return 2.0**-126, 7
    info = np.finfo(dtype)
    return float(info.tiny), int(info.nmant)


def _eps(dtype: np.dtype[Any]) -> float:
    return float(2.0 ** -_format(dtype)[1])


def _ulp(size: Array, dtype: np.dtype[Any]) -> Array:
    """Return the spacing of the numbers of a dtype around each size, never below its smallest subnormal."""
    tiny, mantissa = _format(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(size), tiny).astype(np.float64))
    spacing: Array = np.ldexp(1.0, exponent - 1 - mantissa)
    return spacing


def ulp_error(got: Array, truth: Array, dtype: Any, scale: Array | None = None) -> Error:
    """Return the error in ulp of `dtype`.

    Parameters
    ----------
    got, truth : array
        Result, and wide truth of the same shape.
    dtype : dtype
        Whose units in the last place count.
    scale : array, optional
        Where the result is a difference of larger terms: their size, around which the spacing is taken.

    Notes
    -----
    A true value below the smallest normal number may be flushed to zero, as processors in that mode do.

    Examples
    --------
    >>> ulp_error(np.array([1.0 + 2.0**-23]), np.array([1.0]), np.float32).worst
    1.0
    """
    dtype = np.dtype(dtype)
    wide = np.asarray(got, dtype=truth.dtype)
    size = np.abs(truth) if scale is None else np.maximum(np.abs(truth), scale)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(wide - truth) / _ulp(size, dtype)
        if dtype.itemsize > 2 or dtype.name == "bfloat16":
            tiny, _ = _format(dtype)
            off = np.where((np.abs(truth) < tiny) & (np.abs(wide) <= tiny), 0.0, off)
    off = np.where((wide == truth) | (np.isnan(wide) & np.isnan(truth)), 0.0, off).astype(np.float64)
    if not off.size:
        return Error(0.0, 0.0)
    off = np.where(np.isnan(off), np.inf, off)
    return Error(float(off.max()), float(np.sqrt(np.mean(off**2))))


class Oracle:
    """The truth about one case.

    Parameters
    ----------
    data : Data
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        case = data.case
        self._wide = np.longdouble if case.dtype == "float64" else np.float64
        self._loss_dtype = np.float64 if case.dtype == "float64" else np.float32
        self._loss: Any = None
        if case.op == "sgd_update":
            self._sample = np.unique(np.linspace(0, data.x.size - 1, min(data.x.size, SAMPLE)).astype(np.int64))
            return
        n = min(case.rows, max(4, SAMPLE // case.classes))
        self._sample = np.unique(np.linspace(0, case.rows - 1, n).astype(np.int64))

    def _rows(self, a: Array, ids: Array) -> Array:
        """Return rows of an array of the logits' shape as (n, V), wide."""
        moved = np.moveaxis(a, self.data.case.axis, -1)
        return moved[np.unravel_index(ids, moved.shape[:-1])].astype(self._wide)

    def mean_loss(self) -> Any:
        """Return the mean loss over all rows, in wide arithmetic."""
        if self._loss is None:
            case, total = self.data.case, self._wide(0)
            step = max(1, _CHUNK // case.classes)
            targets = self.data.targets.reshape(-1)
            for start in range(0, case.rows, step):
                ids = np.arange(start, min(start + step, case.rows))
                x = self._rows(self.data.x, ids)
                picked = x[np.arange(ids.size), targets[ids]]
                total += (-picked if case.op == "nll_loss" else row_truth(x, targets[ids]).loss).sum()
            self._loss = total / case.rows
        return self._loss

    def truth(self) -> dict[str, Truth]:
        """Return the true value of each output: "loss" is the scalar, "out" the sampled rows (n, V) or numbers (n,)."""
        case, data, ids = self.data.case, self.data, self._sample
        dtype = data.x.dtype
        if case.op == "sgd_update":
            p: Array = data.x[ids].astype(self._wide)
            g: Array = data.extra[ids].astype(self._wide)
            direction = 0.9 * g + g  # the buffer starts as the gradient: momentum 0.9, then + g
            return {"out": Truth(p - 0.001 * direction, dtype, np.abs(p))}
        if case.op in ("cross_entropy", "nll_loss"):
            return {"loss": Truth(np.asarray(self.mean_loss()), self._loss_dtype)}
        x = self._rows(data.x, ids)
        if case.op in ("softmax_vjp", "log_softmax_vjp"):
            g = self._rows(data.extra, ids)
            if case.op == "softmax_vjp":
                dot, size = (a.sum(axis=1, keepdims=True) for a in (g * x, np.abs(g * x)))
                return {"out": Truth(x * (g - dot), dtype, x * (np.abs(g) + size))}
            total, size = (a.sum(axis=1, keepdims=True) for a in (g, np.abs(g)))
            return {"out": Truth(g - np.exp(x) * total, dtype, np.abs(g) + np.exp(x) * size)}
        t = data.targets.reshape(-1)[ids]
        row = row_truth(x, t)
        if case.op == "cross_entropy_value_and_grad":
            factor = self._wide(case.grad_output) / case.rows
            lenient = row.probs * (1 - row.log_probs)
            lenient[np.arange(ids.size), t] = 1
            return {
                "loss": Truth(np.asarray(self.mean_loss()), self._loss_dtype),
                "out": Truth(row.grad * factor, dtype, None, lenient * factor),
            }
        if case.op in ("logsumexp", "selected_log_probs"):
            return {"out": Truth(row.lse if case.op == "logsumexp" else -row.loss, self._loss_dtype)}
        if case.op == "softmax":
            return {"out": Truth(row.probs, dtype, None, row.probs * (1 - row.log_probs))}
        return {"out": Truth(row.log_probs, dtype, None, np.maximum(np.abs(row.log_probs), 1))}

    def check(self, outputs: dict[str, Any]) -> tuple[dict[str, Error], str | None]:
        """Compare a contender's outputs with the truth.

        Parameters
        ----------
        outputs : dict
            "loss": a number; "out": an array of the logits' shape, or of the rows' for one number a row.

        Returns
        -------
        errors : dict of str to Error
        reason : str or None
            Why the result is not admitted.
        """
        errors: dict[str, Error] = {}
        allowed = _TOLERANCE[self.data.case.itemsize] * _eps(self.data.x.dtype)
        for name, truth in self.truth().items():
            got = np.asarray(outputs[name])
            if name == "out":
                got = self._sampled(got, truth.value.ndim)
            if got.shape != truth.value.shape:
                return errors, f"{name} is wrong: expected shape {truth.value.shape}, got {got.shape}"
            errors[name] = ulp_error(got, truth.value, truth.dtype, truth.scale)
            off = errors[name].worst
            if truth.lenient is not None:
                off = ulp_error(got, truth.value, truth.dtype, truth.lenient).worst
            off *= _eps(np.dtype(truth.dtype))
            if not off <= allowed:
                return errors, f"{name} is wrong: off by up to {off:.1e} of its size, {allowed:.1e} is allowed"
        return errors, None

    def _sampled(self, a: Array, ndim: int) -> Array:
        case = self.data.case
        if case.op == "sgd_update":
            return a[self._sample]
        if ndim == 1:
            return a.reshape(-1)[self._sample]
        if a.shape != case.shape:
            return a  # reported as a wrong shape
        return self._rows(a, self._sample)
