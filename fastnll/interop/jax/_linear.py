"""The linear head: its losses, gradients and the derivatives of those."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fastnll.interop.jax import _formulas
from fastnll.interop.jax._calls import Shape, dispatch, foreign
from fastnll.interop.jax._formulas import compute_dtype

__all__ = ["losses", "total"]

Array = jax.Array


def _work(hidden: Array, weight: Array) -> int:
    return int(hidden.shape[0] * weight.shape[0] * min(1, hidden.shape[1]))


@jax.custom_vjp
def losses(hidden: Array, weight: Array, bias: Array | None, labels: Array, rows: Array) -> Array:
    """Return the losses (N,) of hidden (N, D), weight (V, D), bias (V,), labels (N,), times row weights (N,)."""

    def kernel(hidden: Array, weight: Array, bias: Array | None, labels: Array, rows: Array) -> Any:
        result = Shape(rows.shape, compute_dtype(hidden.dtype))
        return foreign("linear", result, hidden, weight, labels, rows, bias)

    found: Array = dispatch(_work(hidden, weight), kernel, _formulas.linear, hidden, weight, bias, labels, rows)
    return found


def _by_formula(hidden: Array, weight: Array, bias: Array | None, labels: Array, rows: Array) -> tuple[Any, ...]:
    """Return losses and gradients in JAX's own operations."""

    def loss(h: Array, w: Array, b: Array | None) -> Array:
        return _formulas.linear(h, w, b, labels, rows)

    up = compute_dtype(hidden.dtype)
    found, vjp = jax.vjp(loss, *jax.tree.map(lambda a: a.astype(up), (hidden, weight, bias)))
    return found, *vjp(jnp.ones_like(found))


@jax.custom_vjp
def gradients(hidden: Array, weight: Array, bias: Array | None, labels: Array, rows: Array) -> tuple[Any, ...]:
    """Return losses, and the gradients of their sum: hidden, weight, bias; in what is computed in."""
    up = compute_dtype(hidden.dtype)

    def kernel(hidden: Array, weight: Array, bias: Array | None, labels: Array, rows: Array) -> Any:
        results = [Shape(a.shape, up) for a in (rows, hidden, weight, bias) if a is not None]
        found = foreign("linear_grad", results, hidden, weight, labels, rows, bias)
        return (*found, None) if bias is None else tuple(found)

    found: tuple[Any, ...] = dispatch(_work(hidden, weight), kernel, _by_formula, hidden, weight, bias, labels, rows)
    return found


def _gradients_fwd(*arrays: Any) -> tuple[Any, Any]:
    return gradients(*arrays), arrays


def _gradients_bwd(saved: tuple[Any, ...], ct: Any) -> tuple[Any, ...]:
    hidden, weight, bias, labels, rows = saved
    _, vjp = jax.vjp(lambda h, w, b, r: _by_formula(h, w, b, labels, r), hidden, weight, bias, rows)
    d_hidden, d_weight, d_bias, d_rows = vjp(ct)
    return d_hidden, d_weight, d_bias, None, d_rows


gradients.defvjp(_gradients_fwd, _gradients_bwd)


def _cast(grads: tuple[Any, ...], inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if a is None else g.astype(a.dtype) for g, a in zip(grads, inputs, strict=True))


def _losses_fwd(*arrays: Any) -> tuple[Array, Any]:
    return losses(*arrays), arrays


def _losses_bwd(saved: tuple[Any, ...], upstream: Array) -> tuple[Any, ...]:
    *inputs, labels, rows = saved
    # An upstream of 0 would make the row absent, which it is not to its second derivative: the product is right there.
    _, *grads = gradients(*inputs, labels, rows * upstream)
    return (*_cast(tuple(grads), tuple(inputs)), None, None)


losses.defvjp(_losses_fwd, _losses_bwd)


@jax.custom_vjp
def total(hidden: Array, weight: Array, bias: Array | None, labels: Array, rows: Array) -> Array:
    """Return the sum of `losses`; where its gradient is wanted, that is computed along with it."""
    return losses(hidden, weight, bias, labels, rows).sum()


def _total_fwd(*arrays: Any) -> tuple[Array, Any]:
    found, *grads = gradients(*arrays)
    return found.sum(), (tuple(grads), arrays[:3])


def _total_bwd(saved: Any, ct: Array) -> tuple[Any, ...]:
    grads, inputs = saved
    scaled = jax.tree.map(lambda g: ct * g, grads)
    return (*_cast(scaled, inputs), None, None)


total.defvjp(_total_fwd, _total_bwd)
