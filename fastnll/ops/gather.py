"""Losses and log-probabilities read at given ids: nll_loss and selected_log_probs."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from fastnll import events
from fastnll.arrays import as_array, as_float_array, as_targets, check_axis, out_rows, rows_view, split_axes
from fastnll.dtypes import float_type, row_dtype
from fastnll.errors import DTypeError, LabelError, OptionError, ShapeError
from fastnll.kernels.spec import CrossEntropyTask, GatherTask, row_blocks
from fastnll.ops._problem import make_problem, reduce_loss
from fastnll.options import LossOptions
from fastnll.plan import make_plan

__all__ = ["nll_loss", "nll_with", "selected_log_probs", "selected_log_probs_vjp"]

Array = npt.NDArray[Any]

# Options that act on the distribution, which log-probabilities have left behind.
_NEEDS_LOGITS = ("label_smoothing", "z_loss", "softcap", "class_mask", "verify")


def nll_with(o: LossOptions, log_probs: npt.ArrayLike, targets: Any) -> Any:
    """Return the loss of given log-probabilities for checked options."""
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    for name in _NEEDS_LOGITS:
        if getattr(o, name) is not None and np.any(getattr(o, name)):
            raise OptionError(f"{name}: expected an option of nll_loss, got one that needs logits; use cross_entropy")
    if o.temperature != 1.0:
        raise OptionError("temperature: expected 1 for nll_loss, whose input is normalised; use cross_entropy")
    p = make_problem(o, log_probs, targets)
    if p.task.targets is None:
        raise OptionError("targets: expected class ids for nll_loss, got probabilities; use cross_entropy")

    def run(task: CrossEntropyTask) -> None:
        assert task.targets is not None
        ids = task.targets.reshape(-1).astype(np.int64)
        inside = (ids >= 0) & (ids < task.x.shape[2])
        weight = np.ones(ids.size) if task.row_weight is None else task.row_weight
        ids = np.where(inside & (weight != 0.0), ids, -1)[:, None]
        picked = np.empty((ids.shape[0], 1))
        p.plan.backend.gather(GatherTask(task.x, ids, picked, normalised=True, threads=task.threads))
        loss = np.where(inside, -picked[:, 0], np.nan)
        loss = np.where(weight != 0.0, loss * weight, 0.0)
        if task.target_weight is not None:
            loss = np.where((weight != 0.0) & (task.target_weight != 0.0), loss * task.target_weight, 0.0)
        if task.loss is not None:
            task.loss[...] = loss
        if task.block_sums is not None:
            padded = np.zeros(row_blocks(loss.size) * 64)
            padded[: loss.size] = loss
            task.block_sums[...] = padded.reshape(-1, 64).sum(axis=1)

    loss = reduce_loss(o, p, run)
    if recorder is not None:
        recorder.done(events.OP, "nll_loss", start)
    return loss


def nll_loss(log_probs: npt.ArrayLike, targets: Any, **options: Any) -> Any:
    r"""Return the negative log-likelihood of the targets, given log-probabilities.

    Parameters
    ----------
    log_probs : array_like (..., V, ...)
        Normalised log-probabilities, as `fastnll.log_softmax` returns them; only the targets' are read.
    targets : integer array
        Class ids, of the shape of `log_probs` without the class axis.
    **options
        As for `fastnll.cross_entropy`, without those that act on logits.

    Returns
    -------
    float or ndarray
        :math:`-\log p_t`, reduced, in nats.

    Raises
    ------
    ShapeError, DTypeError, LabelError, OptionError
        As for `fastnll.cross_entropy`.

    References
    ----------
    The definition of the likelihood: R. A. Fisher (1922).

    Examples
    --------
    >>> import numpy as np
    >>> nll_loss(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 0], reduction="none").round(6).tolist()
    [0.693147, 1.386294]
    """
    return nll_with(LossOptions.make(options), log_probs, targets)


def selected_log_probs(
    logits: npt.ArrayLike, ids: Any, *, axis: SupportsIndex = -1, threads: SupportsIndex | None = None
) -> Array:
    r"""Return :math:`\log\mathrm{softmax}(\mathrm{logits})` at given ids, without forming it elsewhere.

    Parameters
    ----------
    logits : array_like (..., V, ...)
        float64, float32, float16 or bfloat16.
    ids : integer array (...,) or (..., K)
        One id per row, or K of them.
    axis : int
        The class axis of the logits.
    threads : int, optional
        Threads for this call.

    Returns
    -------
    ndarray
        Of the ids' shape, in nats: float64 for float64 logits, else float32.

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.
    LabelError
        If an id is no class.

    References
    ----------
    log p_t = x_t - logsumexp(x); `fastnll.kernels.reference.gather`.

    Examples
    --------
    >>> import numpy as np
    >>> selected_log_probs(np.log([[0.5, 0.25, 0.25]]), [[0, 2]]).round(6).tolist()
    [[-0.693147, -1.386294]]
    """
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    x, _, rows, checked = _selection(logits, ids, axis)
    n = rows.shape[0] * rows.shape[1]
    columns = checked.size // n if n else 1
    out = np.empty((n, columns), row_dtype(x.dtype))
    plan = make_plan(rows.size, threads)
    plan.backend.gather(GatherTask(rows, _flat_ids(checked, n, columns), out, False, plan.threads))
    if recorder is not None:
        recorder.done(events.OP, "selected_log_probs", start)
    return out.reshape(checked.shape)


def selected_log_probs_vjp(
    logits: npt.ArrayLike,
    ids: Any,
    grad: Any,
    *,
    axis: SupportsIndex = -1,
    out: Array | None = None,
    threads: SupportsIndex | None = None,
) -> Array:
    r"""Return the vector-Jacobian product of `selected_log_probs`.

    With :math:`p = \mathrm{softmax}(x)`: :math:`\sum_k g_k\,\partial \log p_{i_k} / \partial x_v
    = \sum_k g_k (\delta_{v i_k} - p_v)`, which is the gradient of the cross-entropy with the sparse targets
    :math:`(i, -g)`: one pass over the logits, and nothing else of their size.

    Parameters
    ----------
    logits : array_like (..., V, ...)
        As given to `selected_log_probs`.
    ids : integer array (...,) or (..., K)
        As given to `selected_log_probs`; an id may come up several times.
    grad : float array
        Upstream gradient, of the ids' shape.
    axis : int
        The class axis of the logits.
    out : ndarray, optional
        Receives the gradient; of the logits' shape and dtype. May be `logits` itself.
    threads : int, optional
        Threads for this call.

    Returns
    -------
    ndarray
        Gradient with respect to the logits, in their shape and dtype.

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.
    LabelError
        If an id is no class.

    References
    ----------
    `fastnll.kernels.reference.cross_entropy` has the derivation.

    Examples
    --------
    >>> import numpy as np
    >>> selected_log_probs_vjp(np.log([[0.5, 0.25, 0.25]]), [0], [1.0]).tolist()
    [[0.5, -0.25, -0.25]]
    """
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    x, index, rows, checked = _selection(logits, ids, axis)
    g = as_array(grad, "grad")
    if float_type(g.dtype) is None and g.dtype.kind not in "iuf":
        raise DTypeError(f"grad: expected numbers, got {g.dtype}")
    if g.shape != checked.shape:
        raise ShapeError(f"grad: expected shape {checked.shape}, that of the ids, got {g.shape}")
    n = rows.shape[0] * rows.shape[1]
    columns = checked.size // n if n else 1
    result, out_view, finish = out_rows(out, (x,), index, rows.shape)
    plan = make_plan(rows.size, threads)
    task = CrossEntropyTask(rows, ids=_flat_ids(checked, n, columns), grad=out_view, threads=plan.threads)
    task.id_probs = -g.astype(np.float64).reshape(n, columns)
    plan.backend.cross_entropy(task)
    if finish is not None:
        finish()
    if recorder is not None:
        recorder.done(events.OP, "selected_log_probs_vjp", start)
    return result


def _selection(logits: npt.ArrayLike, ids: Any, axis: SupportsIndex) -> tuple[Array, int, Array, Array]:
    """Return (logits, class axis, rows, checked ids)."""
    x = as_float_array(logits, "logits")
    index = check_axis(axis, x.ndim, "logits")
    last = split_axes(x, index)
    rows = rows_view(last, "logits")
    shape = last.shape[:-1]
    wanted = as_array(ids, "ids")
    if wanted.shape != shape and wanted.shape[:-1] != shape:
        raise ShapeError(f"ids: expected shape {shape} or {shape} + (K,), got {wanted.shape}")
    checked = as_targets(ids, wanted.shape, "ids")
    bad = (checked < 0) | (checked >= rows.shape[2])
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0]) if checked.shape else ()
        raise LabelError(
            f"ids: expected class ids from 0 to {rows.shape[2] - 1}, got {int(checked[where])} at position "
            f"{where[0] if len(where) == 1 else where} ({int(bad.sum())} of {checked.size} out of range)"
        )
    return x, index, rows, checked


def _flat_ids(ids: Array, n: int, columns: int) -> Array:
    return np.ascontiguousarray(ids.reshape(n, columns), dtype=np.int64)
