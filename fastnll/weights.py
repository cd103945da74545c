"""What the options do to one batch: live rows, row weights, and what the mean divides by.

Ignored ids, masks, token weights, next-token shifts and the mean's 1/sum all become per-row numbers
here, once; no kernel knows any of these options.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fastnll.arrays import as_array
from fastnll.errors import DTypeError, LabelError, OptionError, ShapeError
from fastnll.kernels.spec import TargetScan
from fastnll.options import LossOptions
from fastnll.plan import Plan

__all__ = ["RowWeights", "row_weights"]

Array = npt.NDArray[Any]


class RowWeights(NamedTuple):
    """The per-row numbers of one batch.

    Attributes
    ----------
    targets : (outer, inner) integer array
        The targets, shifted where asked.
    row_weight : (N,) float64 array or None
        Weight of each row's loss; None where every row weighs 1.
    target_weight : (N,) float64 array or None
        Class weight of each row's target.
    n_live : int
        Rows that count.
    total : float
        Sum over live rows of token weight times target weight.
    """

    targets: Array
    row_weight: Array | None
    target_weight: Array | None
    n_live: int
    total: float


def row_weights(
    o: LossOptions, targets: Array, n_classes: int, plan: Plan, hard: bool = True, padded: int | None = None
) -> RowWeights:
    """Return the row numbers for a batch.

    Parameters
    ----------
    o : LossOptions
    targets : integer array
        In the shape the user gave. Where `hard` is False: any array of that shape, its values unused.
    n_classes : int
        Classes that take part.
    plan : Plan
        Whose backend scans the targets.
    hard : bool
        Whether the targets are class ids.
    padded : int, optional
        Columns of the logits, where more than `n_classes`: for the message.

    Raises
    ------
    LabelError
        If a live row's target is no class id.
    ShapeError, OptionError
        If a mask or weight does not fit the targets.
    """
    plain = o.mask is None and o.token_weight is None and not o.shift
    if hard and plain and len(o.ignore_index) <= 1:
        ignore = o.ignore_index[0] if o.ignore_index else None
        if o.validate == "off" and ignore is None:
            scan = TargetScan(0, 0, -1)
        else:
            scan = plan.backend.scan_targets(targets, n_classes, ignore, plan.threads)
        if scan.n_bad and o.validate == "on":
            _raise_bad(o, targets, np.ones(targets.size, bool), n_classes, padded)
        if scan.n_ignored == 0:
            return _weighted(o, targets, None, hard, n_classes)
        return _weighted(o, targets, targets.reshape(-1) != ignore, hard, n_classes)
    live = _live(o, targets, hard)
    if o.shift:
        targets, live = _shifted(o, targets, live)
    flat = targets.reshape(-1)
    if hard and o.ignore_index:
        live &= ~np.isin(flat, o.ignore_index)
    if hard and o.validate == "on" and (live & ((flat < 0) | (flat >= n_classes))).any():
        _raise_bad(o, targets, live, n_classes, padded)
    return _weighted(o, targets, live, hard, n_classes)


def _raise_bad(o: LossOptions, targets: Array, live: Array, n_classes: int, padded: int | None) -> NoReturn:
    """Raise LabelError for the bad targets of live rows, with what may be behind them."""
    flat = targets.reshape(-1)
    live = live & ~np.isin(flat, o.ignore_index) if o.ignore_index else live
    bad = live & ((flat < 0) | (flat >= n_classes))
    first = int(bad.argmax())
    index = tuple(int(i) for i in np.unravel_index(first, targets.shape))
    if o.shift and o.offsets is not None:  # the position in what the user gave, before the shift
        index = tuple(int(i) for i in np.unravel_index(first + o.shift, targets.shape))
    elif o.shift:
        index = (*index[:-1], index[-1] + o.shift)
    where = index[0] if len(index) == 1 else index
    raise LabelError(
        f"targets: expected class ids from 0 to {n_classes - 1}{_ignored_text(o, padded, n_classes)}, got "
        f"{int(flat[first])} at position {where} ({int(bad.sum())} of {targets.size} out of range)"
        f"{_label_hint(flat[live], flat[bad], n_classes, padded)}"
    )


def _label_hint(live: Array, bad: Array, n_classes: int, padded: int | None) -> str:
    """Return what targets out of range look like, or nothing."""
    low, high = int(bad.min()), int(bad.max())
    if low == high and (low < 0 or (bad.size > 1 and low != n_classes)):
        return f"; {low} looks like padding: if so, pass ignore_index={low}"
    if low < 0:
        return ""
    if high == n_classes and int(live.min()) >= 1:
        return "; the ids look as if they start at 1: if so, subtract 1"
    if padded is not None and n_classes <= high < padded:
        return f"; the largest id is {high}: valid_classes would have to be at least {high + 1}"
    return f"; the largest id is {high}: the logits would need {high + 1} classes"


def _ignored_text(o: LossOptions, padded: int | None, n_classes: int) -> str:
    text = ""
    if padded is not None and padded != n_classes:
        text += f" (valid_classes={n_classes} of {padded} columns)"
    if o.ignore_index:
        ids = ", ".join(map(str, o.ignore_index))
        text += f", or ignore_index={ids}"
    return text


def _live(o: LossOptions, targets: Array, hard: bool) -> Array:
    if o.mask is None:
        return np.ones(targets.size, bool)
    mask = as_array(o.mask, "mask")
    if mask.dtype != bool:
        raise OptionError(
            f"mask: expected booleans (True where a row counts), got {mask.dtype}; "
            "for a 0/1 mask pass mask != 0, for weights token_weight"
        )
    return _broadcast("mask", mask, targets.shape).copy()


def _broadcast(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    try:
        return np.broadcast_to(value, shape).reshape(-1)
    except ValueError:
        raise ShapeError(
            f"{name}: expected a shape that broadcasts to the targets' shape {shape}, got {value.shape}"
        ) from None


def _shifted(o: LossOptions, targets: Array, live: Array) -> tuple[Array, Array]:
    """Move targets `shift` places to the left inside their own sequence; rows left without one die."""
    k = o.shift
    moved = np.zeros_like(targets)
    flat, new = targets.reshape(-1), moved.reshape(-1)
    if targets.ndim == 0:
        raise ShapeError("shift: expected targets with a position axis, got a scalar")
    if o.offsets is not None:
        new[: max(flat.size - k, 0)] = flat[k:]
        left = np.repeat(o.offsets[1:], np.diff(o.offsets)) - np.arange(flat.size)
        return moved, live & (left > k)
    moved[..., : max(targets.shape[-1] - k, 0)] = targets[..., k:]
    position = np.arange(targets.shape[-1]) < targets.shape[-1] - k
    return moved, live & np.broadcast_to(position, targets.shape).reshape(-1)


def _floats(value: Any) -> Array:
    raw = as_array(value, "token_weight")
    if raw.dtype.kind in "cOSUMm":
        raise DTypeError(f"token_weight: expected numbers, got {raw.dtype}")
    return raw.astype(np.float64)


def _weighted(o: LossOptions, targets: Array, live: Array | None, hard: bool, n_classes: int) -> RowWeights:
    if live is not None and live.all() and o.token_weight is None:
        live = None
    n_live = targets.size if live is None else int(live.sum())
    weight = None if live is None else live.astype(np.float64)
    if o.token_weight is not None:
        given = _broadcast("token_weight", _floats(o.token_weight), targets.shape)
        bad = ~np.isfinite(given) if live is None else ~np.isfinite(given) & live
        if bad.any():
            first = int(bad.argmax())
            raise OptionError(
                f"token_weight: expected finite numbers, got {given[first]} at row {first} "
                f"({int(bad.sum())} of {given.size})"
            )
        weight = np.where(live, given, 0.0) if live is not None else given.astype(np.float64)
        n_live = int((weight != 0).sum())
    target_weight = None
    if o.weight is not None and hard:
        safe = targets.reshape(-1).astype(np.int64)
        safe = np.where((safe >= 0) & (safe < n_classes), safe, 0)
        target_weight = o.weight[safe]
    if weight is None and target_weight is None:
        total = float(n_live)
    else:
        product = np.ones(1) if weight is None else weight
        total = math.fsum((product * target_weight if target_weight is not None else product).tolist())
    return RowWeights(targets, weight, target_weight, n_live, total)
