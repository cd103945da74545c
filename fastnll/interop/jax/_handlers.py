"""What XLA calls: fastnll's functions on XLA's buffers.

Arguments may have more leading axes than the loss was written for, of length 1 where `jax.vmap` did not map them; so
every function here broadcasts, which copies nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.interop.jax import _ffi
from fastnll.losses import CrossEntropy
from fastnll.ops import linear_cross_entropy, linear_cross_entropy_value_and_grad
from fastnll.ops.softmax import log_softmax, log_softmax_vjp

__all__ = ["register_all"]

Array = npt.NDArray[Any]
Arrays = list[Array]


def _fitted(x: Array, rows: tuple[int, ...], axis: int) -> Array:
    """Return `x` with the batch axes that others were mapped over."""
    at = len(rows) + 1 + axis
    return np.broadcast_to(x, (*rows[:at], x.shape[axis], *rows[at:]))


def _masks(mask: Array | None, rows: tuple[int, ...], axis: int) -> dict[str, Array]:
    """Return the options for a mask whose class axis has length 1, for rows, or V, for classes."""
    if mask is None:
        return {}
    if mask.shape[axis] == 1:
        return {"mask": np.broadcast_to(mask.squeeze(axis), rows)}
    return {"class_mask": mask, "mask": np.broadcast_to(mask.any(axis), rows)}


def _unusual(t: Array, v: int, mask: Array | None, axis: int) -> Array | None:
    """Return which rows have a label that is no class or is masked out, which optax gives a meaning of its own."""
    unusual = t >= v
    if mask is not None and mask.shape[axis] > 1:
        at = np.expand_dims(np.minimum(t, v - 1), axis)
        live = np.broadcast_to(mask, _fitted(mask, t.shape, axis).shape)
        unusual |= ~np.take_along_axis(live, at, axis).squeeze(axis)
        unusual &= np.broadcast_to(mask.any(axis), t.shape)
    elif mask is not None:
        unusual &= np.broadcast_to(mask.squeeze(axis), t.shape)
    return unusual if unusual.any() else None


def _row_by_row(x: Array, t: Array, mask: Array | None, axis: int, chosen: Array) -> tuple[Array, Array, Array]:
    """Return the chosen rows' logits (n, V) with -inf where masked, their labels, and which labels are classes."""
    rows = np.moveaxis(x, axis, -1)[chosen].astype(np.float64)
    if mask is not None and mask.shape[axis] > 1:
        live = np.moveaxis(np.broadcast_to(mask, x.shape), axis, -1)[chosen]
    else:
        live = np.ones(rows.shape, np.bool_)
    return np.where(live, rows, -np.inf), rows, t[chosen]


def _problem(
    arguments: Arrays, rows: tuple[int, ...], axis: int
) -> tuple[Array, Array, Array | None, Any, Array | None]:
    x, t = _fitted(arguments[0], rows, axis), np.broadcast_to(arguments[1], rows)
    mask = arguments[2] if len(arguments) > 2 else None
    options: dict[str, Any] = _masks(mask, rows, axis)
    unusual = _unusual(t, x.shape[axis], mask, axis)
    if unusual is not None:
        options["mask"] = ~unusual & options.get("mask", True)
    loss = CrossEntropy(reduction="none", ignore_index=None, validate="off", axis=axis, **options)
    return x, t, mask, loss, unusual


def _cross_entropy(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    """Loss <- logits, labels, [mask]."""
    (out,), axis = results, attributes["axis"]
    x, t, mask, loss, unusual = _problem(arguments, out.shape, axis)
    out[...] = loss(x, t)
    if unusual is not None:
        masked, rows, labels = _row_by_row(x, t, mask, axis, unusual)
        picked = np.take_along_axis(rows, np.minimum(labels, rows.shape[1] - 1)[:, None], 1)[:, 0]
        with np.errstate(all="ignore"):
            found = np.logaddexp.reduce(masked, axis=1) - picked
            out[unusual] = np.where(labels < rows.shape[1], found, np.nan)


def _cross_entropy_grad(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    """D logits <- upstream, logits, labels, [mask]."""
    (out,), axis = results, attributes["axis"]
    shape = list(out.shape)
    del shape[axis]
    upstream = np.broadcast_to(arguments[0], shape)
    x, t, mask, loss, unusual = _problem(arguments[1:], upstream.shape, axis)
    loss.value_and_grad(x, t, grad_output=upstream, out=out)
    if unusual is not None:
        masked, rows, labels = _row_by_row(x, t, mask, axis, unusual)
        with np.errstate(all="ignore"):
            grad = np.exp(masked - np.logaddexp.reduce(masked, axis=1)[:, None])
            inside = labels < rows.shape[1]
            grad[np.flatnonzero(inside), labels[inside]] -= 1.0
            np.moveaxis(out, axis, -1)[unusual] = grad * upstream[unusual][:, None]


def _soft_options(mask: Array | None, rows: tuple[int, ...], axis: int) -> CrossEntropy:
    options: dict[str, Any] = _masks(mask, rows, axis)
    return CrossEntropy(reduction="none", ignore_index=None, validate="off", axis=axis, **options)


def _soft_cross_entropy(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    """Loss <- logits, target distribution, [mask]."""
    (out,), axis = results, attributes["axis"]
    x, q = (_fitted(a, out.shape, axis) for a in arguments[:2])
    mask = arguments[2] if len(arguments) > 2 else None
    out[...] = _soft_options(mask, out.shape, axis)(x, q)


def _soft_cross_entropy_grad(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    """D logits <- upstream, logits, target distribution, [mask]."""
    (out,), axis = results, attributes["axis"]
    shape = list(out.shape)
    del shape[axis]
    upstream = np.broadcast_to(arguments[0], shape)
    x, q = (_fitted(a, upstream.shape, axis) for a in arguments[1:3])
    mask = arguments[3] if len(arguments) > 3 else None
    _soft_options(mask, upstream.shape, axis).value_and_grad(x, q, grad_output=upstream, out=out)


def _log_softmax(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    log_softmax(arguments[0], attributes["axis"], out=results[0])


def _log_softmax_vjp(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    """D logits <- log-probabilities, upstream."""
    y, g = (np.broadcast_to(a, results[0].shape) for a in arguments)
    log_softmax_vjp(y, g, attributes["axis"], out=results[0])


def _batches(arrays: Arrays, ndims: tuple[int, ...]) -> tuple[tuple[int, ...], Arrays]:
    """Return the shape of the axes that were mapped over, and the arrays with all of them."""
    lead = np.broadcast_shapes(*(a.shape[: a.ndim - n] for a, n in zip(arrays, ndims, strict=True)))
    return lead, [np.broadcast_to(a, (*lead, *a.shape[a.ndim - n :])) for a, n in zip(arrays, ndims, strict=True)]


def _linear(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    """Losses of rows <- hidden (N, D), weight (V, D), labels (N,), row weights (N,), [bias (V,)]."""
    ndims = (2, 2, 1, 1, 1)[: len(arguments)]
    lead, arrays = _batches(arguments, ndims)
    for at in np.ndindex(lead):
        h, w, t, rows, *bias = (a[at] for a in arrays)
        results[0][at] = linear_cross_entropy(
            h, w, t, *bias, reduction="none", ignore_index=None, validate="off", token_weight=rows
        )


def _linear_grad(arguments: Arrays, results: Arrays, attributes: dict[str, int]) -> None:
    """Losses and gradients of hidden, weight, [bias] <- what `_linear` takes, the row weights being upstream."""
    ndims = (2, 2, 1, 1, 1)[: len(arguments)]
    lead, arrays = _batches(arguments, ndims)
    for at in np.ndindex(lead):
        h, w, t, rows, *bias = (a[at] for a in arrays)
        losses, *grads = (r[at] for r in results)
        losses[...] = linear_cross_entropy_value_and_grad(
            h,
            w,
            t,
            *bias,
            out=(*grads, *([None] if not bias else [])),
            reduction="none",
            ignore_index=None,
            validate="off",
            token_weight=rows,
        )[0]


HANDLERS: dict[str, _ffi.Handler] = {
    "fastnll_log_softmax": _log_softmax,
    "fastnll_log_softmax_vjp": _log_softmax_vjp,
    "fastnll_cross_entropy": _cross_entropy,
    "fastnll_cross_entropy_grad": _cross_entropy_grad,
    "fastnll_soft_cross_entropy": _soft_cross_entropy,
    "fastnll_soft_cross_entropy_grad": _soft_cross_entropy_grad,
    "fastnll_linear": _linear,
    "fastnll_linear_grad": _linear_grad,
}


def register_all() -> None:
    """Make all handlers known to XLA.

    Examples
    --------
    >>> register_all()
    """
    for name, handler in HANDLERS.items():
        _ffi.register(name, handler)
