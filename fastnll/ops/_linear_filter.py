"""Leaving out of the gradients' products what cannot be seen in them, with a proof of how little that changes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.errors import OptionError
from fastnll.kernels.blas import single_threaded_blas
from fastnll.kernels.spec import CrossEntropyTask, LinearTask

__all__ = ["Filter", "FilterReport", "check_filter"]

Array = npt.NDArray[Any]

# Of the allowed error, what the thresholds aim at: they come from samples, and what they did is checked.
_AIM = 0.7
# Every so manyth row of a chunk, and of the weight, is looked at.
_ROWS, _CLASSES = 32, 64
# Thresholds tried, as shares of the largest factor of a row: 2^-8 to 2^-30.
_SHARES = 2.0 ** -np.arange(8.0, 31.0)


class FilterReport(NamedTuple):
    """What ``filter`` left out of the gradients of a linear head.

    Let Delta be what was left out of the gradient of the logits, G. The error of the weight's gradient is
    ``Delta.T @ hidden``, of Frobenius norm at most ``|Delta|_F |hidden|_2``; that of row r of the hidden gradient is
    ``Delta_r @ (weight - m)``, of norm at most ``|Delta_r|_1 max_v |weight_v - m|``, for whatever m it is the sum of
    Delta_r times m that is put back. The norms of Delta are summed as it is left out; ``|hidden|_2`` is bounded through
    ``A = hidden.T @ hidden`` by ``|A^8|_F ** (1/16)``. With e the error's bound and F the norm of the gradient that was
    computed, the true one has at least F - e, and the relative error is at most e / (F - e).

    Attributes
    ----------
    allowed : float
        The relative error asked for.
    weight_error, hidden_error : float
        Bounds, as derived, on the relative errors in the Frobenius norm; 0 where nothing was left out, or no such
        gradient asked for.
    dropped_mass : float
        Sum of the absolute values that were left out of the gradient of the logits.
    kept : float
        Share of the elements of that gradient which were multiplied.
    repeated : bool
        Whether a bound came out larger than what is allowed, so that all was computed again, in full.

    Examples
    --------
    >>> FilterReport(1e-3, 0.0, 0.0, 0.0, 1.0, False).kept
    1.0
    """

    allowed: float
    weight_error: float
    hidden_error: float
    dropped_mass: float
    kept: float
    repeated: bool


def check_filter(value: Any) -> float | None:
    """Return the allowed relative error, or None.

    Raises
    ------
    OptionError
        If it is no number between 0 and 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0.0 < float(value) < 1.0:
        raise OptionError(f"filter: expected an allowed relative error between 0 and 1, got {value!r}")
    return float(value)


class Filter:
    """The thresholds of one call, and the sums behind its report.

    Parameters
    ----------
    allowed : float
    hidden, weight : (N, D) and (V, D) arrays
    live : (L,) int64 array
        The rows that count.
    wrt : tuple of str
    backend : module
        With ``linear_farthest``, ``linear_spectrum`` and ``linear_slices``.
    threads : int
    compute : numpy.dtype
        What is computed in.
    """

    def __init__(
        self,
        allowed: float,
        hidden: Array,
        weight: Array,
        live: Array,
        wrt: tuple[str, ...],
        backend: Any,
        threads: int,
        compute: np.dtype[Any],
    ) -> None:
        self.allowed, self.wrt, self.backend, self.threads = allowed, wrt, backend, threads
        self.weight = weight
        self.slices = backend.linear_slices(weight.dtype, weight.shape[0])
        self.hidden_norm, self.row_norm = _spectral_bound(hidden, live) if "weight" in wrt else (0.0, 0.0)
        some = weight[::_CLASSES].astype(np.float64)
        self.center = some.mean(axis=0).astype(compute)
        away = np.sqrt(np.square(some - self.center).sum(axis=1)) if "hidden" in wrt else np.zeros(1)
        # Of the weights' distances from their middle: the largest, seen in a sample until it matters, and what a hidden
        # gradient has of it for each unit of its logits' gradient.
        self.largest, self.usual = float(away.max()), float(np.sqrt(np.square(away).mean()))
        self.measured = False
        self.total = live.size * weight.shape[0]
        self.mass = self.mass_squares = self.squares = self.kept = self.whole = 0.0

    def prepare(self, task: LinearTask, loss: CrossEntropyTask, rows: Array) -> None:
        """Give the task its threshold, or none where every element matters."""
        c = task.logits.shape[0]
        task.threshold = self._threshold(task, loss, rows)
        if task.threshold is not None:
            task.mass, task.sums = np.empty((2, self.slices, c))
            task.squares, task.kept = np.empty((2, self.slices))

    def _threshold(self, task: LinearTask, loss: CrossEntropyTask, rows: Array) -> float | None:
        factors = loss.grad_weight if loss.grad_weight is not None else loss.row_weight
        size = abs(loss.grad_scale) * (1.0 if factors is None else float(np.abs(factors[rows]).max()))
        if not (0.0 < size < math.inf):
            return None
        thresholds = size * _SHARES
        found = self.backend.linear_spectrum(task, np.arange(0, rows.size, _ROWS), thresholds)
        k = thresholds.size
        with np.errstate(all="ignore"):
            whole = self.whole = math.sqrt(found[:, 0].mean())
            mass = np.sqrt(np.square(found[:, 1 : 1 + k]).mean(axis=0))
            squares = np.sqrt(found[:, 1 + k :].mean(axis=0))
            # What the errors would be if what rows contribute were uncorrelated: all that can be known here.
            fits = (mass * self.largest <= _AIM * self.allowed * whole * self.usual) & (
                squares * self.hidden_norm <= _AIM * self.allowed * whole * self.row_norm
            )
        if not fits.any() or mass[int(fits.argmax())] == 0.0:  # nothing is so small: nothing to look for
            return None
        return float(thresholds[int(fits.argmax())])

    def add(self, task: LinearTask) -> None:
        """Take in what the products of a chunk have left out; mend its hidden gradient, in full if need be."""
        if task.threshold is None or task.mass is None or task.sums is None or task.squares is None:
            self.kept += task.logits.size
            return
        assert task.kept is not None
        mass = task.mass.sum(axis=0)
        self.squares += float(task.squares.sum())
        self.kept += float(task.kept.sum())
        self.mass += float(mass.sum())
        if task.grad_hidden is None or not mass.any():
            return
        if not self.measured:
            self.largest = self.backend.linear_farthest(self.weight, self.center, self.threads)
            self.measured = True
        to = task.grad_hidden
        mended = to[task.rows].astype(self.center.dtype) + np.outer(task.sums.sum(axis=0), self.center)
        norm = float(np.linalg.norm(mended))
        error = self.largest * float(np.linalg.norm(mass))
        if error > self.allowed * max(norm - error, 0.0):
            task.threshold, weight, bias = None, task.grad_weight, task.grad_bias
            task.grad_weight = task.grad_bias = None
            self.backend.linear_grads(task)
            task.grad_weight, task.grad_bias = weight, bias
            norm = float(np.linalg.norm(to[task.rows].astype(self.center.dtype)))
        else:
            to[task.rows] = mended
            self.mass_squares += float(np.square(mass).sum())
        if self.whole > 0.0:
            self.usual = norm / (math.sqrt(task.rows.size) * self.whole)

    def report(self, weight: Array | None, hidden: Array | None, live: Array) -> FilterReport:
        """Return what is known in the end, from the gradients as computed."""
        kept = self.kept / self.total if self.total else 1.0
        if self.mass == 0.0:
            return FilterReport(self.allowed, 0.0, 0.0, 0.0, kept, False)
        # The sums have roundings of their own, the product of a norm and a bound as well: a thousandth on top.
        errors = [
            _relative(1.001 * math.sqrt(self.squares) * self.hidden_norm, weight, None),
            _relative(1.001 * math.sqrt(self.mass_squares) * self.largest, hidden, live),
        ]
        return FilterReport(self.allowed, errors[0], errors[1], self.mass, kept, False)


def _relative(error: float, computed: Array | None, rows: Array | None) -> float:
    """Return the bound on an error relative to the true norm, from the norm of what was computed."""
    if computed is None or error == 0.0:
        return 0.0
    total = 0.0
    n = computed.shape[0] if rows is None else rows.size
    with single_threaded_blas:
        for at in range(0, n, 2048):
            block = computed[at : at + 2048] if rows is None else computed[rows[at : at + 2048]]
            flat = block.reshape(-1)
            flat = flat if flat.dtype.itemsize >= 4 else flat.astype(np.float32)
            total += float(np.dot(flat, flat))
    norm = math.sqrt(total) * (1.0 - 1e-4)
    return error / (norm - error) if norm > error else math.inf


def _spectral_bound(hidden: Array, live: Array) -> tuple[float, float]:
    """Return an upper bound on the largest singular value of the live rows, and the root of their mean square norm."""
    d = hidden.shape[1]
    gram = np.zeros((d, d))
    with single_threaded_blas:
        for at in range(0, live.size, 2048):
            h = hidden[live[at : at + 2048]]
            h = h if h.dtype.itemsize >= 4 else h.astype(np.float32)
            gram += h.T @ h
        trace = float(np.trace(gram))
        if not 0.0 < trace < math.inf:
            return (0.0 if trace == 0.0 else math.inf), 0.0
        # Powers of it neither overflow nor vanish: the largest eigenvalue is at least 1 / D.
        power = (gram / trace).astype(np.float32)
        for _ in range(3):
            power = power @ power
        largest = trace * float(np.linalg.norm(power.astype(np.float64))) ** 0.125
    return math.sqrt(largest) * (1.0 + 1e-4), math.sqrt(trace / max(live.size, 1))
