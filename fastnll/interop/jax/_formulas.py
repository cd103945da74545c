"""The same losses in JAX's own operations: for other devices, for small arrays, and for derivatives of gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "compute_dtype",
    "cross_entropy",
    "cross_entropy_grad",
    "linear",
    "log_softmax",
    "log_softmax_vjp",
    "soft_cross_entropy",
    "soft_cross_entropy_grad",
]

Array = jax.Array


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Return what arrays of a dtype are computed in, and their losses returned in by the kernels."""
    return jnp.dtype(dtype if jnp.dtype(dtype).itemsize > 2 else jnp.float32)


def _up(x: Array) -> Array:
    return x.astype(compute_dtype(x.dtype))


def log_softmax(x: Array, axis: int) -> Array:
    """Return x - logsumexp(x)."""
    return jax.nn.log_softmax(_up(x), axis).astype(x.dtype)


def log_softmax_vjp(y: Array, upstream: Array, axis: int) -> Array:
    """Return upstream - softmax * sum(upstream), from the log-probabilities."""
    g = _up(upstream)
    return (g - jnp.exp(_up(y)) * g.sum(axis, keepdims=True)).astype(y.dtype)


def cross_entropy(x: Array, labels: Array, mask: Array | None, axis: int) -> Array:
    """Return logsumexp(x) - x_label; a label of V or more gives NaN, a row without live classes 0."""
    up = _up(x)
    picked = jnp.take_along_axis(up, jnp.expand_dims(labels, axis), axis, mode="fill").squeeze(axis)
    loss = jax.nn.logsumexp(up, axis, where=mask) - picked
    return loss if mask is None else jnp.where(jnp.any(mask, axis), loss, 0.0)


def _probabilities(up: Array, mask: Array | None, axis: int) -> tuple[Array, Array | None]:
    """Return the softmax over live classes, 0 elsewhere, and which rows have any; finite derivatives in dead rows."""
    if mask is None:
        return jnp.exp(up - jax.nn.logsumexp(up, axis, keepdims=True)), None
    alive = jnp.any(mask, axis, keepdims=True)
    # Twice `where`: what is not chosen must not be infinite either, or the derivative is NaN.
    safe = jnp.where(mask, up, 0.0)
    lse = jax.nn.logsumexp(safe, axis, where=mask | ~alive, keepdims=True)
    return jnp.where(mask, jnp.exp(safe - lse), 0.0), alive


def cross_entropy_grad(upstream: Array, x: Array, labels: Array, mask: Array | None, axis: int) -> Array:
    """Return upstream * (softmax(x) - onehot(label)), 0 in rows without live classes."""
    up = _up(x)
    probs, alive = _probabilities(up, mask, axis)
    hot = jax.nn.one_hot(labels, x.shape[axis], dtype=up.dtype, axis=axis)
    grad = jnp.expand_dims(upstream, axis) * (probs - hot)
    return (grad if alive is None else jnp.where(alive, grad, 0.0)).astype(x.dtype)


def soft_cross_entropy(x: Array, target: Array, mask: Array | None, axis: int) -> Array:
    """Return -sum(target * log_softmax(x)), where a target of 0 counts for nothing even at a logit of -inf."""
    up, q = _up(x), _up(target)
    terms = q * jax.nn.log_softmax(up, axis, where=mask)
    # A NaN of the logits stays one; of the product with -inf it does not become one.
    terms = jnp.where((q == 0) & jnp.isneginf(up), 0.0, terms)
    return -terms.sum(axis, where=mask)


def soft_cross_entropy_grad(upstream: Array, x: Array, target: Array, mask: Array | None, axis: int) -> Array:
    """Return upstream * (sum(target) * softmax(x) - target), 0 where masked."""
    up, q = _up(x), _up(target)
    probs, _ = _probabilities(up, mask, axis)
    grad = jnp.expand_dims(upstream, axis) * (q.sum(axis, keepdims=True, where=mask) * probs - q)
    return (grad if mask is None else jnp.where(mask, grad, 0.0)).astype(x.dtype)


def linear(hidden: Array, weight: Array, bias: Array | None, labels: Array, rows: Array) -> Array:
    """Return the losses of the rows of hidden @ weight.T + bias, times the weights of the rows."""
    logits = jnp.matmul(_up(hidden), _up(weight).T, precision="highest")
    logits = logits if bias is None else logits + _up(bias)
    return jnp.where(rows == 0, 0.0, rows * cross_entropy(logits, labels, None, -1))
