"""The public functions: checks and shapes as optax has them, then the calls."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.typing

from fastnll.errors import DTypeError, OptionError, ShapeError
from fastnll.interop.jax import _calls, _linear
from fastnll.interop.jax._formulas import compute_dtype

__all__ = [
    "linear_cross_entropy",
    "log_softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Axis = int | tuple[int, ...] | None

_REDUCTIONS = ("none", "mean", "sum")


def _floating(name: str, value: Any) -> Array:
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DTypeError(
            f"{name}: expected floating-point numbers, got {array.dtype}; convert with .astype(jnp.float32)"
        )
    return array


def _integers(name: str, value: Any) -> Array:
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise DTypeError(f"{name}: expected class ids of an integer dtype, got {array.dtype}")
    return array


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
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


def _classes_last(a: Array, axes: tuple[int, ...]) -> Array:
    """Return an array whose last axis is all of `axes`, in their order."""
    batch = tuple(i for i in range(a.ndim) if i not in axes)
    a = a.transpose(batch + axes)
    return a.reshape((*a.shape[: len(batch)], -1)) if axes else a[..., None]


def _live(where: Any, logits: Array, axis: Any) -> Array | None:
    """Return the mask with as many axes as the logits."""
    if where is None:
        return None
    mask = jnp.asarray(where).astype(bool)
    if mask.ndim != logits.ndim:
        mask = jnp.expand_dims(mask, _axes(axis, logits.ndim))
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


def _in_range(labels: Array, v: int) -> Array:
    """Return labels from 0 to V: negative ones count from the end, as in NumPy; V stands for what is no class."""
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    outside = labels >= v
    if jnp.issubdtype(labels.dtype, jnp.signedinteger):
        outside |= labels < -v
        labels = jnp.where(labels < 0, labels + v, labels)
    return jnp.where(outside, v, labels).astype(jnp.int32)


def _one_axis(
    logits: Array, axis: Any, mask: Array | None, *others: Array
) -> tuple[int, Array, Array | None, tuple[Array, ...]]:
    """Return one class axis, counted from the end, and the arrays with it."""
    axes = _axes(axis, logits.ndim)
    if len(axes) == 1:
        return axes[0] - logits.ndim, logits, mask, others
    if mask is not None:
        full = (*(n if i in axes else m for i, (n, m) in enumerate(zip(logits.shape, mask.shape, strict=True))),)
        partly = any(mask.shape[i] != logits.shape[i] for i in axes) and any(mask.shape[i] != 1 for i in axes)
        mask = _classes_last(jnp.broadcast_to(mask, full) if partly else mask, axes)
    return -1, _classes_last(logits, axes), mask, tuple(_classes_last(a, axes) for a in others)


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
    found: Array = _log_softmax(x, where, axis=_static(axis))
    return found


@partial(jax.jit, static_argnames=("axis",))
def _log_softmax(x: Any, where: Any, *, axis: Any) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise DTypeError(f"x: expected real numbers, got {x.dtype}")
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = _axes(axis, x.ndim)
    mask = None if where is None else jnp.broadcast_to(jnp.asarray(where).astype(bool), x.shape)
    if x.size == 0 or not axes:
        return jax.nn.log_softmax(x, axes, mask)
    safe = x if mask is None else jnp.where(mask, x, -jnp.inf)
    if len(axes) == 1:
        found = _calls.log_softmax(safe, axes[0] - x.ndim)
    else:
        batch = tuple(i for i in range(x.ndim) if i not in axes)
        found = _calls.log_softmax(_classes_last(safe, axes), -1)
        moved = batch + axes
        found = found.reshape([x.shape[i] for i in moved]).transpose([moved.index(i) for i in range(x.ndim)])
    return found if mask is None else jnp.where(mask, found, -jnp.inf)


def _static(axis: Any) -> Any:
    """Return `axis` as something that can be compared: NumPy's integers too."""
    if axis is None:
        return None
    return tuple(operator.index(a) for a in axis) if isinstance(axis, tuple | list) else operator.index(axis)


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
    found: Array = _hard(logits, labels, where, axis=_static(axis))
    return found


@partial(jax.jit, static_argnames=("axis",))
def _hard(logits: Any, labels: Any, where: Any, *, axis: Any) -> Array:
    x, t = _floating("logits", logits), _integers("labels", labels)
    axis, x, mask, _ = _one_axis(x, axis, _live(where, x, axis))
    rows = list(x.shape)
    v = rows.pop(axis)
    if t.shape != tuple(rows):
        raise ShapeError(
            f"labels: expected shape {tuple(rows)}, that of the logits without the class axis, got {t.shape}"
        )
    if v == 0:
        raise ShapeError(f"logits: expected at least one class, got shape {x.shape}")
    return _calls.cross_entropy(x, _in_range(t, v), mask, axis).astype(x.dtype)


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
    found: Array = _soft(logits, labels, where, axis=_static(axis))
    return found


@partial(jax.jit, static_argnames=("axis",))
def _soft(logits: Any, labels: Any, where: Any, *, axis: Any) -> Array:
    x, q = _floating("logits", logits), jnp.asarray(labels)
    dtype = jnp.result_type(x, q)
    if not jnp.issubdtype(q.dtype, jnp.floating):
        q = q.astype(x.dtype)
    mask = _live(where, x, axis)
    axes = tuple(a - x.ndim for a in _axes(axis, x.ndim))
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
    axis, x, mask, (q,) = _one_axis(x, axes, mask, q)
    return _calls.soft_cross_entropy(x, q, mask, axis).astype(dtype)


def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    reduction: str = "none",
) -> Array:
    """Return the cross-entropy of the logits ``hidden @ weight.T + bias``, which are never held on a CPU.

    Parameters
    ----------
    hidden : array_like (..., D)
        float32, bfloat16, float16 or float64.
    weight : array_like (V, D)
        One row per class; ``kernel.T`` of a Flax ``Dense``, one transposition of the weights.
    labels : integer array (...)
        Class ids, as for `softmax_cross_entropy_with_integer_labels`, except that one that is no class makes the
        gradients NaN too.
    bias : array_like (V,), optional
    where : bool array, optional
        Rows that count; broadcasts to the shape of the labels. Others have loss 0 and cost nothing.
    reduction : {"none", "mean", "sum"}
        One loss per row, or their mean over the rows that count (NaN if none does), or sum. For the latter two the
        gradients are computed along with the loss; for "none" the products are done again for them.

    Returns
    -------
    Array
        In nats: float64 for float64 inputs, else float32.

    Raises
    ------
    DTypeError, ShapeError, OptionError
        TypeError or ValueError: if the arrays do not fit each other, or the reduction is none of those.

    References
    ----------
    `fastnll.linear_cross_entropy` has the references.

    Examples
    --------
    >>> hidden, weight = jnp.ones((3, 2)), jnp.zeros((4, 2))
    >>> labels = jnp.array([0, 1, 2])
    >>> loss, grad = jax.value_and_grad(lambda w: linear_cross_entropy(hidden, w, labels, reduction="mean"))(weight)
    >>> round(float(loss), 5), grad[3].round(5).tolist()
    (1.38629, [0.25, 0.25])
    """
    if reduction not in _REDUCTIONS:
        raise OptionError(f"reduction: expected one of {', '.join(map(repr, _REDUCTIONS))}, got {reduction!r}")
    found: Array = _head(hidden, weight, labels, bias, where, reduction=reduction)
    return found


@partial(jax.jit, static_argnames=("reduction",))
def _head(hidden: Any, weight: Any, labels: Any, bias: Any, where: Any, *, reduction: str) -> Array:
    h, w, t = _floating("hidden", hidden), _floating("weight", weight), _integers("labels", labels)
    b = None if bias is None else _floating("bias", bias)
    dtype = jnp.result_type(*(a for a in (h, w, b) if a is not None))
    if w.ndim != 2 or not h.ndim or h.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"weight: expected shape (V, {h.shape[-1] if h.ndim else 'D'}) for hidden {h.shape}, got {w.shape}"
        )
    if t.shape != h.shape[:-1]:
        raise ShapeError(f"labels: expected shape {h.shape[:-1]}, that of hidden without its last axis, got {t.shape}")
    if w.shape[0] == 0:
        raise ShapeError(f"weight: expected at least one class, got shape {w.shape}")
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"bias: expected shape {w.shape[:1]}, got {b.shape}")
    rows = jnp.ones(t.shape, compute_dtype(dtype))
    if where is not None:
        try:
            rows = jnp.broadcast_to(jnp.asarray(where), t.shape).astype(bool).astype(rows.dtype)
        except ValueError:
            raise ShapeError(f"where: expected a shape that broadcasts to {t.shape}, got {jnp.shape(where)}") from None
    if reduction == "mean":
        rows = rows / rows.sum()
    arrays = (
        h.astype(dtype).reshape(-1, h.shape[-1]),
        w.astype(dtype),
        None if b is None else b.astype(dtype),
        _in_range(t, w.shape[0]).reshape(-1),
        rows.reshape(-1),
    )
    return _linear.losses(*arrays).reshape(t.shape) if reduction == "none" else _linear.total(*arrays)
