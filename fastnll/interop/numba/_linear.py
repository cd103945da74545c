"""linear_cross_entropy and its gradients inside ``njit``: chunks of live rows, BLAS products, the batch's own loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastnll import ops
from fastnll.errors import DTypeError, ShapeError
from fastnll.interop.numba._cross_entropy import loss_for, numbers_of, scale_of, upstream_of, weights_of
from fastnll.interop.numba._rows import compiles_to, given, named, require_floats, row_shape, types
from fastnll.interop.numba._targets import check_options, divisor, ids_of, reduction_of, row_weights, same_rows, sum_of
from fastnll.kernels.jit.compiler import helper

# Logits that a chunk holds: 8 MiB of float64. At least 64 rows, or the products are slow.
_LOGITS, _ROWS = 1 << 20, 64


def _check_arrays(hidden: Any, weight: Any, bias: Any) -> None:
    require_floats("hidden", hidden)
    for name, a, ndim in (("weight", weight, 2), ("bias", bias, 1)):
        if (name == "weight" or given(a)) and not (
            isinstance(a, types.Array) and a.dtype == hidden.dtype and a.ndim == ndim
        ):
            raise DTypeError(f"{name}: expected {ndim} axes of {hidden.dtype} inside njit, got {a}")


@helper
def _take(parts: Any, live: Any, first: int, count: int) -> Any:
    """Return the elements of the live rows of a chunk; None for None."""
    if parts is None:
        return None
    return parts[live[first : first + count]]


@helper
def _add_bias(logits: Any, bias: Any) -> None:
    if bias is not None:
        for i in range(logits.shape[0]):
            for v in range(logits.shape[1]):
                logits[i, v] += bias[v]


@helper
def _check_shapes(hidden: Any, weight: Any, bias: Any) -> None:
    if hidden.shape[-1] != weight.shape[1]:
        raise ShapeError("weight: expected one row of D numbers per class, as hidden has them, got another number")
    if bias is not None and bias.size != weight.shape[0]:
        raise ShapeError("bias: expected one number per class, got another number")


@helper
def _live_rows(weight: Any) -> Any:
    count = 0
    for w in weight:
        if w != 0.0:
            count += 1
    rows = np.empty(count, np.int64)
    count = 0
    for r in range(weight.size):
        if weight[r] != 0.0:
            rows[count] = r
            count += 1
    return rows


def _head(loss: Any, mean: bool) -> Any:
    """Return compiled code from arrays to (value, losses), the gradients going to `grads`; for one loss.

    `grads` is None or (hidden, weight, bias): zeros, of which the last may be None.
    """

    def run(
        hidden: Any,
        matrix: Any,
        targets: Any,
        bias: Any,
        losses: Any,
        grads: Any,
        ignore_index: Any,
        mask: Any,
        token_weight: Any,
        class_weight: Any,
        numbers: Any,
        upstream: Any,
    ) -> float:
        _check_shapes(hidden, matrix, bias)
        d, classes = matrix.shape[1], matrix.shape[0]
        same_rows(targets, losses)
        ids = ids_of(targets)
        rows = np.ascontiguousarray(hidden).reshape((ids.size, d))
        weight = row_weights(ids, classes, ignore_index, mask, token_weight)
        of_target, by_class = weights_of(ids, classes, class_weight)
        up = upstream_of(upstream, weight)
        total, any_live = divisor(weight, of_target, mean)
        scaled = numbers.copy()
        if mean:
            scaled[4] = numbers[4] / total if total != 0.0 else math.nan if any_live else 0.0
        live = _live_rows(weight)
        flat = losses.reshape(losses.size)
        flat[:] = 0
        step = max(_ROWS, _LOGITS // classes)
        values = np.zeros(live.size // step + 1)
        for first in range(0, live.size, step):
            n = min(step, live.size - first)
            chosen = live[first : first + n]
            h = rows[chosen]
            logits = np.dot(h, matrix.T)
            _add_bias(logits, bias)
            view = as_strided(logits, (1, n, classes), (0, logits.strides[0], logits.strides[1]))
            part = np.empty(n, hidden.dtype)
            values[first // step] = loss(
                view,
                _only_with(grads, view),
                ids[chosen],
                weight[chosen],
                _take(of_target, live, first, n),
                by_class,
                _take(up, live, first, n),
                part,
                scaled,
            )
            flat[chosen] = part
            _pull_back(grads, logits, h, matrix, chosen)
        value = sum_of(values)
        if not mean:
            return value
        if not any_live or (total == 0.0 and value == 0.0):
            return math.nan
        return value / total if total != 0.0 else value * math.inf

    return helper(named(run, f"{'mean' if mean else 'sum'}_head_of_{loss.py_func.__name__}"))


@helper
def _only_with(grads: Any, view: Any) -> Any:
    if grads is None:
        return None
    return view


@helper
def _pull_back(grads: Any, g: Any, h: Any, matrix: Any, chosen: Any) -> None:
    """Add a chunk's gradients, from that of its logits: d hidden = G W, d W = G.T H, d bias = column sums of G."""
    if grads is not None:
        hidden = grads[0].reshape((grads[0].size // h.shape[1], h.shape[1]))
        hidden[chosen] = np.dot(g, matrix)
        product = np.dot(g.T, h)
        for v in range(product.shape[0]):
            for j in range(product.shape[1]):
                grads[1][v, j] += product[v, j]
        _add_columns(grads[2], g)


@helper
def _add_columns(to: Any, g: Any) -> None:
    if to is not None:
        for v in range(g.shape[1]):
            total = 0.0
            for i in range(g.shape[0]):
                total += g[i, v]
            to[v] += total


_HEADS: dict[Any, Any] = {}


def _head_for(options: tuple[Any, Any, Any, Any], mean: bool) -> Any:
    loss = loss_for(*options, mean=False)
    key = (loss, mean)
    if key not in _HEADS:
        _HEADS[key] = _head(loss, mean)
    return _HEADS[key]


def _zeros_or_none(like: Any) -> Any:
    return None if like is None else np.zeros_like(like)


@compiles_to(_zeros_or_none)
def _make_zeros(like: Any) -> Callable[..., Any]:
    if not given(like):
        return lambda like: None
    return lambda like: np.zeros(like.shape, like.dtype)


@compiles_to(ops.linear_cross_entropy)
def _linear_cross_entropy(
    hidden: Any,
    weight: Any,
    targets: Any,
    bias: Any = None,
    reduction: Any = "mean",
    ignore_index: Any = -100,
    mask: Any = None,
    token_weight: Any = None,
    class_weight: Any = None,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    softcap: Any = None,
    temperature: Any = 1.0,
) -> Callable[..., Any]:
    _check_arrays(hidden, weight, bias)
    check_options(targets, hidden.ndim, ignore_index, mask, token_weight, class_weight)
    kind = reduction_of(reduction)
    run = _head_for((label_smoothing, z_loss, softcap, temperature), kind == "mean")
    each = kind == "none"

    def one(
        hidden: Any,
        weight: Any,
        targets: Any,
        bias: Any = None,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        class_weight: Any = None,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        softcap: Any = None,
        temperature: Any = 1.0,
    ) -> Any:
        losses = np.empty(row_shape(hidden, hidden.ndim - 1), hidden.dtype)
        numbers = numbers_of(label_smoothing, z_loss, temperature, softcap, 1.0)
        more = (ignore_index, mask, token_weight, class_weight)
        return run(hidden, weight, targets, bias, losses, None, more[0], more[1], more[2], more[3], numbers, None)

    def many(
        hidden: Any,
        weight: Any,
        targets: Any,
        bias: Any = None,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        class_weight: Any = None,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        softcap: Any = None,
        temperature: Any = 1.0,
    ) -> Any:
        losses = np.empty(row_shape(hidden, hidden.ndim - 1), hidden.dtype)
        numbers = numbers_of(label_smoothing, z_loss, temperature, softcap, 1.0)
        more = (ignore_index, mask, token_weight, class_weight)
        run(hidden, weight, targets, bias, losses, None, more[0], more[1], more[2], more[3], numbers, None)
        return losses

    return named(many if each else one, f"linear_{kind}_{run.py_func.__name__}")


@compiles_to(ops.linear_cross_entropy_value_and_grad)
def _linear_value_and_grad(
    hidden: Any,
    weight: Any,
    targets: Any,
    bias: Any = None,
    grad_output: Any = None,
    reduction: Any = "mean",
    ignore_index: Any = -100,
    mask: Any = None,
    token_weight: Any = None,
    class_weight: Any = None,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    softcap: Any = None,
    temperature: Any = 1.0,
) -> Callable[..., Any]:
    _check_arrays(hidden, weight, bias)
    check_options(targets, hidden.ndim, ignore_index, mask, token_weight, class_weight)
    kind = reduction_of(reduction)
    run = _head_for((label_smoothing, z_loss, softcap, temperature), kind == "mean")
    if isinstance(grad_output, types.Array):
        raise DTypeError(f"grad_output: expected a number inside njit, got {grad_output}")
    which = 1 if kind == "none" else 0
    grads_type = ops.LinearGrads

    def both(
        hidden: Any,
        weight: Any,
        targets: Any,
        bias: Any = None,
        grad_output: Any = None,
        reduction: Any = "mean",
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        class_weight: Any = None,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        softcap: Any = None,
        temperature: Any = 1.0,
    ) -> Any:
        losses = np.empty(row_shape(hidden, hidden.ndim - 1), hidden.dtype)
        numbers = numbers_of(label_smoothing, z_loss, temperature, softcap, scale_of(grad_output))
        g = (np.zeros(hidden.shape, hidden.dtype), np.zeros(weight.shape, weight.dtype), _zeros_or_none(bias))
        value = run(
            hidden, weight, targets, bias, losses, g, ignore_index, mask, token_weight, class_weight, numbers, None
        )
        return (value, losses)[which], grads_type(g[0], g[1], g[2])

    return named(both, f"linear_value_and_grad_{kind}_{run.py_func.__name__}")
