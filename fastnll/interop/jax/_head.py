"""The softmax head: the checks of `linear_cross_entropy`, then the call."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.typing

from fastnll.errors import OptionError, ShapeError
from fastnll.interop.jax import _linear
from fastnll.interop.jax._arguments import floating, in_range, integers
from fastnll.interop.jax._formulas import compute_dtype

__all__ = ["linear_cross_entropy"]

Array = jax.Array
ArrayLike = jax.typing.ArrayLike

_REDUCTIONS = ("none", "mean", "sum")


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
    h, w, t = floating("hidden", hidden), floating("weight", weight), integers("labels", labels)
    b = None if bias is None else floating("bias", bias)
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
        in_range(t, w.shape[0]).reshape(-1),
        rows.reshape(-1),
    )
    return _linear.losses(*arrays).reshape(t.shape) if reduction == "none" else _linear.total(*arrays)
