"""One call of the linear head: from user arrays to checked ones, and to chunks of rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.arrays import as_float_array
from fastnll.dtypes import float_type
from fastnll.errors import DTypeError, OptionError, ShapeError
from fastnll.kernels.spec import CrossEntropyTask
from fastnll.ops._problem import Problem, make_problem
from fastnll.options import LossOptions

__all__ = ["LinearProblem", "chunk_tasks", "make_linear"]

Array = npt.NDArray[Any]


class LinearProblem(NamedTuple):
    """A batch of the linear head in kernel terms.

    Attributes
    ----------
    hidden : (N, D) array
    weight : (V, D) array
        Of the classes that take part.
    bias : (V,) array or None
        In the compute dtype.
    shape : tuple of int
        Of hidden, as given.
    columns : int
        Classes of the weight as given.
    live : (L,) int64 array
        Rows that count: no others are read.
    problem : Problem
        The loss' own view of the batch; its logits are of the right shape and hold nothing.
    copies : tuple of (str, int)
        Inputs that had to be copied, with their bytes.
    """

    hidden: Array
    weight: Array
    bias: Array | None
    shape: tuple[int, ...]
    columns: int
    live: Array
    problem: Problem
    copies: tuple[tuple[str, int], ...]

    @property
    def kind(self) -> np.dtype[Any]:
        """What the logits are computed in."""
        return compute_dtype(self.hidden.dtype, self.problem)


def compute_dtype(storage: np.dtype[Any], p: Problem) -> np.dtype[Any]:
    """Return the compute dtype of a storage dtype; the reference computes everything in float64."""
    found = float_type(storage)
    assert found is not None
    return np.dtype(np.float64) if p.plan.backend.__name__ == "fastnll.kernels.reference" else found.compute


def _matrix(name: str, a: Array, copies: list[tuple[str, int]]) -> Array:
    """Return an array whose rows have their elements side by side."""
    if a.size and (a.strides[-1] != a.itemsize or (a.ndim == 2 and a.strides[0] < 0)):
        copies.append((name, a.nbytes))
        return np.ascontiguousarray(a)
    return a


def make_linear(o: LossOptions, hidden: Any, weight: Any, targets: Any, bias: Any) -> LinearProblem:
    """Check a batch of the linear head.

    Raises
    ------
    ShapeError, DTypeError, LabelError, OptionError
        As `fastnll.linear_cross_entropy` documents.
    """
    if o.axis != -1:
        raise OptionError(f"axis: expected -1 (the last axis of hidden is the features), got {o.axis}")
    h, w = as_float_array(hidden, "hidden"), as_float_array(weight, "weight")
    if h.ndim == 0:
        raise ShapeError("hidden: expected at least one axis (the features), got a scalar")
    if w.ndim != 2:
        raise ShapeError(f"weight: expected shape (V, D), one row per class, got {w.shape}")
    v, d = w.shape
    if h.shape[-1] != d or d == 0:
        hint = f"; weight looks transposed: pass weight.T of shape ({d}, {v})" if h.shape[-1] == v and d != v else ""
        raise ShapeError(f"hidden: expected {d} features (weight is (V, D) = {w.shape}), got shape {h.shape}{hint}")
    if h.dtype != w.dtype:
        raise DTypeError(f"weight: expected dtype {h.dtype} (that of hidden), got {w.dtype}; convert one of them")
    if v == 0:
        raise ShapeError(f"weight: expected at least one class, got shape {w.shape}")
    found = float_type(h.dtype)
    assert found is not None
    # Logits of the right shape that take no memory: whatever the loss checks, it checks on them.
    nothing = np.broadcast_to(np.zeros((), found.compute), (*h.shape[:-1], v))
    p = make_problem(o, nothing, targets)
    copies: list[tuple[str, int]] = []
    flat = h.reshape(-1, d)
    if not np.may_share_memory(flat, h):
        copies.append(("hidden", h.nbytes))
    flat = _matrix("hidden", flat, copies)
    n_valid = p.task.x.shape[2]
    w = _matrix("weight", w, copies)[:n_valid]
    b = None
    if bias is not None:
        b = as_float_array(bias, "bias")
        if b.shape != (v,):
            raise ShapeError(f"bias: expected shape ({v},), one number per class, got {b.shape}")
        if b.dtype != h.dtype and b.dtype != found.compute:
            raise DTypeError(f"bias: expected dtype {h.dtype} or {found.compute}, got {b.dtype}")
        b = np.ascontiguousarray(b[:n_valid], dtype=compute_dtype(h.dtype, p))
    weights = p.task.row_weight
    live = np.arange(flat.shape[0]) if weights is None else np.flatnonzero(weights)
    return LinearProblem(flat, w, b, h.shape, v, live, p, tuple(copies))


def _runs(rows: Array, inner: int) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of runs of consecutive rows that do not cross the outer axis."""
    if rows.size == 0:
        return
    breaks = np.flatnonzero((np.diff(rows) != 1) | (rows[1:] % inner == 0)) + 1
    edges = [0, *breaks.tolist(), rows.size]
    yield from itertools.pairwise(edges)


def chunk_tasks(
    task: CrossEntropyTask, rows: Array, logits: Array, loss: Array, threads: int
) -> Iterator[CrossEntropyTask]:
    """Yield the loss' tasks for some rows, whose logits lie side by side in a buffer.

    There is one, or, where something of the batch's own N x V size belongs to each row and need not be copied,
    one for each run of consecutive rows.
    """
    inner = task.x.shape[1]
    wide = [a for a in (task.probs, task.class_mask) if a is not None and a.shape[:2] != (1, 1)]
    # A batch of one row has arrays of that shape, too: they are the same for all of its rows.
    pieces: Iterable[tuple[int, int]] = _runs(rows, inner) if wide else [(0, rows.size)]

    def some(a: Array | None, at: Array) -> Array | None:
        return None if a is None else a[at]

    for first, stop in pieces:
        at = rows[first:stop]

        def rows_of(a: Array | None, at: Array = at) -> Array | None:
            if a is None or a.shape[:2] == (1, 1):
                return a
            o, i = divmod(int(at[0]), inner)
            o, i = (0 if a.shape[0] == 1 else o), (0 if a.shape[1] == 1 and inner > 1 else i)
            return a[o : o + 1, i : i + at.size]

        x = logits[None, first:stop]
        yield CrossEntropyTask(
            x,
            targets=None if task.targets is None else task.targets.reshape(-1)[at][None],
            ids=some(task.ids, at),
            id_probs=some(task.id_probs, at),
            probs=rows_of(task.probs),
            class_weight=task.class_weight,
            class_mask=rows_of(task.class_mask),
            row_weight=some(task.row_weight, at),
            target_weight=some(task.target_weight, at),
            grad_weight=some(task.grad_weight, at),
            grad_scale=task.grad_scale,
            smoothing=task.smoothing,
            z_loss=task.z_loss,
            temperature=task.temperature,
            softcap=task.softcap,
            loss=loss[first:stop],
            grad=None if task.grad is None else x,
            threads=threads,
        )
