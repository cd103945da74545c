"""What the public functions are given: checked, with one class axis, masks and labels as the calls take them."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp

from fastnll.errors import DTypeError, ShapeError

__all__ = ["checked_axes", "classes_last", "floating", "in_range", "integers", "live", "one_axis", "static_axis"]

Array = jax.Array


def floating(name: str, value: Any) -> Array:
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DTypeError(
            f"{name}: expected floating-point numbers, got {array.dtype}; convert with .astype(jnp.float32)"
        )
    return array


def integers(name: str, value: Any) -> Array:
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise DTypeError(f"{name}: expected class ids of an integer dtype, got {array.dtype}")
    return array


def checked_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes as distinct numbers from 0."""
    given = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    found = []
    for a in given:
        at = operator.index(a)
        if not -ndim <= at < ndim:
            raise ShapeError(f"axis: expected a number from {-ndim} to {ndim - 1} for {ndim} axes, got {at}")
        found.append(at % ndim)
    if len(set(found)) < len(found):
        raise ShapeError(f"axis: expected each axis once, got {axis}")
    return tuple(found)


def classes_last(a: Array, axes: tuple[int, ...]) -> Array:
    """Return an array whose last axis is all of `axes`, in their order."""
    batch = tuple(i for i in range(a.ndim) if i not in axes)
    a = a.transpose(batch + axes)
    return a.reshape((*a.shape[: len(batch)], -1)) if axes else a[..., None]


def live(where: Any, logits: Array, axis: Any) -> Array | None:
    """Return the mask with as many axes as the logits."""
    if where is None:
        return None
    mask = jnp.asarray(where).astype(bool)
    if mask.ndim != logits.ndim:
        mask = jnp.expand_dims(mask, checked_axes(axis, logits.ndim))
    if mask.ndim != logits.ndim:
        raise ShapeError(f"where: expected the shape of the logits {logits.shape} or of the rows, got {where.shape}")
    try:
        fits = jnp.broadcast_shapes(mask.shape, logits.shape) == logits.shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"where: expected a shape that broadcasts to {logits.shape}, that of the logits, got {jnp.shape(where)}"
        )
    return mask


def in_range(labels: Array, v: int) -> Array:
    """Return labels from 0 to V: negative ones count from the end, as in NumPy; V stands for what is no class."""
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    outside = labels >= v
    if jnp.issubdtype(labels.dtype, jnp.signedinteger):
        outside |= labels < -v
        labels = jnp.where(labels < 0, labels + v, labels)
    return jnp.where(outside, v, labels).astype(jnp.int32)


def one_axis(
    logits: Array, axis: Any, mask: Array | None, *others: Array
) -> tuple[int, Array, Array | None, tuple[Array, ...]]:
    """Return one class axis, counted from the end, and the arrays with it."""
    axes = checked_axes(axis, logits.ndim)
    if len(axes) == 1:
        return axes[0] - logits.ndim, logits, mask, others
    if mask is not None:
        full = (*(n if i in axes else m for i, (n, m) in enumerate(zip(logits.shape, mask.shape, strict=True))),)
        partly = any(mask.shape[i] != logits.shape[i] for i in axes) and any(mask.shape[i] != 1 for i in axes)
        mask = classes_last(jnp.broadcast_to(mask, full) if partly else mask, axes)
    return -1, classes_last(logits, axes), mask, tuple(classes_last(a, axes) for a in others)


def static_axis(axis: Any) -> Any:
    """Return `axis` as something that can be compared: NumPy's integers too."""
    if axis is None:
        return None
    return tuple(operator.index(a) for a in axis) if isinstance(axis, tuple | list) else operator.index(axis)
