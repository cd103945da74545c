"""The losses of rows of logits: checks and shapes as optax has them, then the calls."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.typing

from fastnll.errors import DTypeError, OptionError, ShapeError
from fastnll.interop.jax import _calls
from fastnll.interop.jax._arguments import (
    checked_axes,
    classes_last,
    floating,
    in_range,
    integers,
    live,
    one_axis,
    static_axis,
)

__all__ = ["log_softmax", "softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels"]

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Axis = int | tuple[int, ...] | None


def log_softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> Array:
    r"""Return :math:`x_v - \log \sum_u \exp x_u` along an axis; `jax.nn.log_softmax`, faster on CPUs.

    Parameters
    ----------
    x : array_like (..., V, ...)
        float32, bfloat16, float16 or float64; integers and booleans are taken as floats.
    axis : int, tuple of int, or None
        The class axis; several are one; None is all.
    where : bool array, optional
        What takes part; of a shape that broadcasts to that of `x`. -inf elsewhere.

    Returns
    -------
    Array
        Log-probabilities in nats, of x's shape and dtype; computed in float32 at least, whatever the dtype.

    Raises
    ------
    ShapeError
        A ValueError: if there is no such axis, or `where` does not fit.

    References
    ----------
    `fastnll.log_softmax` has the references.

    Examples
    --------
    >>> jnp.exp(log_softmax(jnp.log(jnp.array([1.0, 3.0])))).round(5).tolist()
    [0.25, 0.75]
    """
    found: Array = _log_softmax(x, where, axis=static_axis(axis))
    return found


@partial(jax.jit, static_argnames=("axis",))
def _log_softmax(x: Any, where: Any, *, axis: Any) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise DTypeError(f"x: expected real numbers, got {x.dtype}")
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = checked_axes(axis, x.ndim)
    mask = None if where is None else jnp.broadcast_to(jnp.asarray(where).astype(bool), x.shape)
    if x.size == 0 or not axes:
        return jax.nn.log_softmax(x, axes, mask)
    safe = x if mask is None else jnp.where(mask, x, -jnp.inf)
    if len(axes) == 1:
        found = _calls.log_softmax(safe, axes[0] - x.ndim)
    else:
        batch = tuple(i for i in range(x.ndim) if i not in axes)
        found = _calls.log_softmax(classes_last(safe, axes), -1)
        moved = batch + axes
        found = found.reshape([x.shape[i] for i in moved]).transpose([moved.index(i) for i in range(x.ndim)])
    return found if mask is None else jnp.where(mask, found, -jnp.inf)


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...] = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return :math:`\log \sum_v \exp x_v - x_t` of each row, as optax does, faster on CPUs.

    Parameters
    ----------
    logits : array_like (..., V, ...)
        float32, bfloat16, float16 or float64.
    labels : integer array
        Class ids, of the logits' shape without `axis`. Negative ones count from the end; others outside 0 .. V - 1 give
        NaN, and the gradient of the logsumexp alone.
    axis : int or tuple of int
        The class axis. Several are one, with ids that count through them in their order.
    where : bool array, optional
        What takes part: rows, of the shape of the labels, or classes, of a shape that broadcasts to the logits'. A row
        without any has loss 0 and gradient 0; a label may be a class that takes no part.

    Returns
    -------
    Array
        In nats, of the shape of the labels and the dtype of the logits.

    Raises
    ------
    DTypeError
        A TypeError: if the logits are no floating-point numbers, or the labels no integers.
    ShapeError
        A ValueError: if shapes do not fit each other, or there is no such axis.
    OptionError
        A ValueError: if `axis` is neither a number nor a tuple of them.

    References
    ----------
    `fastnll.kernels.reference.cross_entropy` has the derivation.

    Examples
    --------
    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]))
    >>> print(softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1])).round(4))
    [0.6931 2.0794]
    >>> mean = lambda x: softmax_cross_entropy_with_integer_labels(x, jnp.array([0, 1])).mean()
    >>> jax.jit(jax.grad(mean))(logits).round(5).tolist()
    [[-0.25, 0.125, 0.125], [0.0625, -0.4375, 0.375]]
    """
    if not isinstance(axis, int | tuple):
        raise OptionError(f"axis: expected an int or a tuple of them, got {type(axis).__name__}")
    found: Array = _hard(logits, labels, where, axis=static_axis(axis))
    return found


@partial(jax.jit, static_argnames=("axis",))
def _hard(logits: Any, labels: Any, where: Any, *, axis: Any) -> Array:
    x, t = floating("logits", logits), integers("labels", labels)
    axis, x, mask, _ = one_axis(x, axis, live(where, x, axis))
    rows = list(x.shape)
    v = rows.pop(axis)
    if t.shape != tuple(rows):
        raise ShapeError(
            f"labels: expected shape {tuple(rows)}, that of the logits without the class axis, got {t.shape}"
        )
    if v == 0:
        raise ShapeError(f"logits: expected at least one class, got shape {x.shape}")
    return _calls.cross_entropy(x, in_range(t, v), mask, axis).astype(x.dtype)


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return :math:`-\sum_v q_v \log \mathrm{softmax}(x)_v` of each row, as optax does, faster on CPUs.

    Parameters
    ----------
    logits : array_like (..., V, ...)
        float32, bfloat16, float16 or float64.
    labels : array_like
        Target distributions q: numbers of any kind, of a shape that broadcasts with the logits'.
    axis : int, tuple of int, or None
        The class axis; several are one; None is all.
    where : bool array, optional
        What takes part, as for `softmax_cross_entropy_with_integer_labels`.

    Returns
    -------
    Array
        In nats, of the shape without `axis`, and of the dtype that logits and labels promote to.

    Raises
    ------
    DTypeError
        A TypeError: if the logits are no floating-point numbers.
    ShapeError
        A ValueError: if shapes do not fit each other, or there is no such axis.

    Notes
    -----
    Where optax multiplies a label of 0 with the -inf of an impossible class, which is NaN, that class counts for
    nothing here, as in ``optax.safe_softmax_cross_entropy``. Gradients of the labels are there too.

    References
    ----------
    `fastnll.kernels.reference.cross_entropy` has the derivation.

    Examples
    --------
    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> print(softmax_cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0]])).round(4))
    [1.0397]
    """
    found: Array = _soft(logits, labels, where, axis=static_axis(axis))
    return found


@partial(jax.jit, static_argnames=("axis",))
def _soft(logits: Any, labels: Any, where: Any, *, axis: Any) -> Array:
    x, q = floating("logits", logits), jnp.asarray(labels)
    dtype = jnp.result_type(x, q)
    if not jnp.issubdtype(q.dtype, jnp.floating):
        q = q.astype(x.dtype)
    mask = live(where, x, axis)
    axes = tuple(a - x.ndim for a in checked_axes(axis, x.ndim))
    try:
        shape = jnp.broadcast_shapes(x.shape, q.shape)
    except ValueError:
        raise ShapeError(
            f"labels: expected a shape that broadcasts with {x.shape}, the logits', got {q.shape}"
        ) from None
    if mask is not None and len(shape) > x.ndim:
        mask = mask[(None,) * (len(shape) - x.ndim)]
    if any(shape[a] != x.shape[a] for a in axes):
        raise ShapeError(f"labels: expected {x.shape} along the class axis as the logits, got {q.shape}")
    x, q = jnp.broadcast_to(x, shape), jnp.broadcast_to(q, shape)
    if not axes:
        x, q, mask, axes = x[..., None], q[..., None], None if mask is None else mask[..., None], (-1,)
    if mask is not None and any(mask.shape[a] > 1 for a in axes):
        q = jnp.where(mask, q, 0)  # what a masked class was meant to get is lost, as in optax
    axis, x, mask, (q,) = one_axis(x, axes, mask, q)
    return _calls.soft_cross_entropy(x, q, mask, axis).astype(dtype)
