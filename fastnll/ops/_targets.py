"""Targets of a batch in kernel terms: class ids, dense probabilities or sparse (ids, probs); class masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.arrays import as_array, as_float_array, as_targets, shared_array, split_axes
from fastnll.dtypes import float_type
from fastnll.errors import DTypeError, LabelError, OptionError, ShapeError
from fastnll.kernels.spec import CrossEntropyTask
from fastnll.options import LossOptions

__all__ = ["check_soft_targets", "class_mask_rows", "fill_targets"]

Array = npt.NDArray[Any]


def class_mask_rows(value: Any, x: Array, axis: int, row_shape: tuple[int, ...], v: int) -> Array:
    """Return a class mask as rows that broadcast to the logits' rows."""
    mask = as_array(value, "class_mask")
    if mask.dtype != bool:
        raise OptionError(f"class_mask: expected booleans (True where a class takes part), got {mask.dtype}")
    if mask.ndim == 1:
        if mask.shape[0] != x.shape[axis]:
            raise ShapeError(f"class_mask: expected {x.shape[axis]} classes, got {mask.shape[0]}")
        return np.ascontiguousarray(mask[:v]).reshape(1, 1, v)
    try:
        full = np.broadcast_to(mask, x.shape)
    except ValueError:
        raise ShapeError(
            f"class_mask: expected shape ({x.shape[axis]},) or one that broadcasts to {x.shape}, got {mask.shape}"
        ) from None
    return split_axes(full, axis)[..., :v].reshape(row_shape)


def fill_targets(
    task: CrossEntropyTask, o: LossOptions, x: Array, axis: int, targets: Any, shape: tuple[int, ...], v: int
) -> bool:
    """Put the targets into the task; return whether they are class ids."""
    if isinstance(targets, tuple) and len(targets) == 2 and np.ndim(shared_array(targets[0], "targets[0]")):
        _no_shift(o)
        _sparse_targets(task, targets, shape, v)
        return False
    t = targets if isinstance(targets, np.ndarray) else _quiet_array(targets)
    if t.dtype.kind not in "iub" and t.shape == x.shape and x.ndim > 0 and (t.size or x.ndim > 1):
        _no_shift(o)
        probs = as_float_array(t, "targets")
        task.probs = split_axes(probs, axis)[..., :v].reshape(task.x.shape)
    else:
        _explain_shape(t, x, axis, shape)
        task.targets = as_targets(t if isinstance(targets, np.ndarray) else targets, shape)
        return True
    return False


def _no_shift(o: LossOptions) -> None:
    if o.shift:
        raise OptionError("shift: expected class ids as targets, got probabilities; shift those yourself")


def _quiet_array(value: Any) -> Array:
    try:
        return as_array(value, "targets") if hasattr(value, "__dlpack__") else np.asarray(value)
    except ValueError as error:
        raise ShapeError(
            f"targets: expected a rectangular array of class ids, got ragged sequences ({error})"
        ) from None


def _explain_shape(t: Array, x: Array, axis: int, shape: tuple[int, ...]) -> None:
    """Raise the errors that say more than "wrong shape"."""
    if t.shape == shape:
        return
    if t.ndim == x.ndim and float_type(t.dtype) is not None and t.shape != x.shape:
        raise ShapeError(f"targets: expected probabilities of the logits' shape {x.shape}, got {t.shape}")
    if t.ndim > x.ndim and float_type(t.dtype) is not None:
        raise ShapeError(
            f"logits, targets: expected logits first and targets second, got shapes {x.shape} and {t.shape}: "
            "they look swapped"
        )
    if t.shape == x.shape and t.dtype.kind in "iu":
        raise ShapeError(
            f"targets: expected shape {shape} (class ids), got {t.shape} of {t.dtype}, the logits' own shape; "
            "for one-hot or soft targets pass floats, for class ids drop the class axis"
        )
    for other in range(x.ndim):
        if other != axis and t.shape == x.shape[:other] + x.shape[other + 1 :]:
            raise ShapeError(
                f"targets: expected shape {shape} for class axis {axis} of logits {x.shape}, got {t.shape}; "
                f"that shape fits axis={other}"
            )


def _sparse_targets(task: CrossEntropyTask, pair: tuple[Any, Any], shape: tuple[int, ...], v: int) -> None:
    ids, probs = as_array(pair[0], "targets[0]"), as_array(pair[1], "targets[1]")
    if ids.dtype.kind not in "iu":
        raise DTypeError(f"targets: expected (ids, probs) with integer ids, got ids of {ids.dtype}")
    if float_type(probs.dtype) is None and probs.dtype.kind not in "iu":
        raise DTypeError(f"targets: expected (ids, probs) with float probs, got probs of {probs.dtype}")
    if ids.shape != probs.shape or ids.shape[:-1] != shape or ids.ndim == 0:
        raise ShapeError(f"targets: expected (ids, probs) of shape {shape} + (K,), got {ids.shape} and {probs.shape}")
    k = ids.shape[-1]
    if ids.dtype == np.uint64:  # what int64 cannot hold is no class either
        ids = np.minimum(ids, np.uint64(np.iinfo(np.int64).max))
    task.ids = np.array(ids.reshape(-1, k), dtype=np.int64)
    task.id_probs = np.array(probs.reshape(-1, k), dtype=np.float64)


def check_soft_targets(task: CrossEntropyTask, o: LossOptions, shape: tuple[int, ...], v: int) -> None:
    """Check the probabilities of the live rows, and make sparse ids safe to index with.

    Raises
    ------
    LabelError
        If a sparse id of a live row, of probability other than 0, is no class.
    OptionError
        If a live row has a dense probability below 0, or one that is not finite.
    """
    live = None if task.row_weight is None else task.row_weight != 0.0
    if task.probs is not None:
        if o.validate == "on":
            _check_probs(task.probs, shape, live)
        return
    assert task.ids is not None and task.id_probs is not None
    ids, probs = task.ids, task.id_probs
    if live is not None:
        probs[~live] = 0.0
    outside = (ids < 0) | (ids >= v)
    bad = outside & (probs != 0.0)
    first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.any() else (0, 0)
    value = int(ids[first]) if bad.any() else 0
    ids[outside] = 0
    if o.validate == "off":
        probs[bad] = np.nan  # memory safe, and the row says so
        return
    if bad.any():
        where = (*(int(i) for i in np.unravel_index(first[0], shape)), first[1]) if shape else first[1]
        raise LabelError(
            f"targets: expected ids from 0 to {v - 1}, got {value} at position {where} "
            f"({int(bad.sum())} of {ids.size} out of range)"
        )
    if not np.isfinite(probs).all():
        row = int((~np.isfinite(probs)).any(axis=1).argmax())
        raise OptionError(f"targets: expected finite probabilities, got NaN or infinity in row {_where(row, shape)}")


def _where(row: int, shape: tuple[int, ...]) -> Any:
    index = tuple(int(i) for i in np.unravel_index(row, shape)) if shape else ()
    return index[0] if len(index) == 1 else index


def _check_probs(probs: Array, shape: tuple[int, ...], live: Array | None) -> None:
    """Refuse probabilities below 0 or not finite: a loss from them would be nonsense."""
    # A minimum and a maximum a row, no N x V temporary; both are NaN for NaN.
    low, high = probs.min(axis=2).reshape(-1), probs.max(axis=2).reshape(-1)
    bad = ~((low >= 0) & (high < np.inf))
    if live is not None:
        bad &= live
    if bad.any():
        raise OptionError(
            f"targets: expected finite probabilities of at least 0, got a negative, infinite or NaN one in row "
            f"{_where(int(bad.argmax()), shape)} ({int(bad.sum())} of {bad.size} rows)"
        )
