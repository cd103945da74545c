"""The differentiable functions under the public ones: kernels on CPUs, formulas elsewhere, and their derivatives.

Each gradient is a function with a derivative of its own, so that a second differentiation is right; that one is made of
JAX's operations. In all of them `axis` is negative, labels lie in 0 .. V (V: no class), and a mask has as many axes as
the logits, its class axis of length V or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from fastnll.interop.jax import _formulas
from fastnll.interop.jax._formulas import compute_dtype
from fastnll.interop.jax._handlers import register_all

__all__ = ["cross_entropy", "dispatch", "foreign", "log_softmax", "soft_cross_entropy"]

Array = jax.Array

register_all()

Shape: Any = jax.ShapeDtypeStruct  # untyped in jax

# Logits below which XLA's own operations are faster than a call that takes the interpreter lock.
SMALL = 1 << 14


def dispatch(work: int, kernel: Callable[..., Any], formula: Callable[..., Any], *arrays: Any) -> Any:
    """Return what the kernel makes of the arrays where this is lowered for a CPU and worth it, else the formula."""
    if work < max(1, SMALL):
        return formula(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=kernel, default=formula)


def foreign(name: str, result: Any, *arrays: Any, **attributes: int) -> Any:
    """Call a handler; arrays that are None are left out."""
    # expand_dims: what is not mapped over is neither copied nor repeated.
    call: Any = jax.ffi.ffi_call(f"fastnll_{name}", result, vmap_method="expand_dims")
    return call(*(a for a in arrays if a is not None), **{k: np.int64(v) for k, v in attributes.items()})


def _rows(x: Array, axis: int) -> Any:
    """Return what a loss per row of `x` is."""
    shape = list(x.shape)
    del shape[axis]
    return Shape(tuple(shape), compute_dtype(x.dtype))


def _like(x: Array) -> Any:
    return Shape(x.shape, x.dtype)


def _concrete(cotangent: Any) -> Array:
    """Return a cotangent that may be a symbolic zero as an array."""
    return jnp.zeros(cotangent.shape, cotangent.dtype) if isinstance(cotangent, SymbolicZero) else cotangent


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def log_softmax(x: Array, axis: int) -> Array:
    """Return x - logsumexp(x)."""

    def kernel(x: Array) -> Any:
        return foreign("log_softmax", _like(x), x, axis=axis)

    found: Array = dispatch(x.size, kernel, lambda x: _formulas.log_softmax(x, axis), x)
    return found


def _log_softmax_fwd(x: Array, axis: int) -> tuple[Array, Array]:
    y = log_softmax(x, axis)
    return y, y


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _log_softmax_vjp(y: Array, upstream: Array, axis: int) -> Array:
    def kernel(y: Array, upstream: Array) -> Any:
        return foreign("log_softmax_vjp", _like(y), y, upstream, axis=axis)

    found: Array = dispatch(y.size, kernel, partial(_formulas.log_softmax_vjp, axis=axis), y, upstream)
    return found


def _log_softmax_vjp_fwd(y: Array, upstream: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    return _log_softmax_vjp(y, upstream, axis), (y, upstream)


def _log_softmax_vjp_bwd(axis: int, saved: tuple[Array, Array], ct: Array) -> Any:
    return jax.vjp(partial(_formulas.log_softmax_vjp, axis=axis), *saved)[1](ct)


_log_softmax_vjp.defvjp(_log_softmax_vjp_fwd, _log_softmax_vjp_bwd)
log_softmax.defvjp(_log_softmax_fwd, lambda axis, y, upstream: (_log_softmax_vjp(y, upstream, axis),))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def cross_entropy(x: Array, labels: Array, mask: Array | None, axis: int) -> Array:
    """Return the losses of class ids, in what `x` is computed in."""

    def kernel(x: Array, labels: Array, mask: Array | None) -> Any:
        return foreign("cross_entropy", _rows(x, axis), x, labels, mask, axis=axis)

    found: Array = dispatch(x.size, kernel, partial(_formulas.cross_entropy, axis=axis), x, labels, mask)
    return found


def _cross_entropy_fwd(x: Array, labels: Array, mask: Array | None, axis: int) -> tuple[Array, Any]:
    return cross_entropy(x, labels, mask, axis), (x, labels, mask)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _cross_entropy_grad(upstream: Array, x: Array, labels: Array, mask: Array | None, axis: int) -> Array:
    def kernel(upstream: Array, x: Array, labels: Array, mask: Array | None) -> Any:
        return foreign("cross_entropy_grad", _like(x), upstream, x, labels, mask, axis=axis)

    formula = partial(_formulas.cross_entropy_grad, axis=axis)
    found: Array = dispatch(x.size, kernel, formula, upstream, x, labels, mask)
    return found


def _cross_entropy_grad_fwd(
    upstream: Array, x: Array, labels: Array, mask: Array | None, axis: int
) -> tuple[Array, tuple[Any, ...]]:
    return _cross_entropy_grad(upstream, x, labels, mask, axis), (upstream, x, labels, mask)


def _cross_entropy_grad_bwd(axis: int, saved: tuple[Any, ...], ct: Array) -> tuple[Any, ...]:
    upstream, x, labels, mask = saved
    _, vjp = jax.vjp(lambda u, x: _formulas.cross_entropy_grad(u, x, labels, mask, axis), upstream, x)
    return (*vjp(ct), None, None)


def _cross_entropy_bwd(axis: int, saved: tuple[Any, ...], upstream: Array) -> tuple[Any, ...]:
    return _cross_entropy_grad(upstream, *saved, axis), None, None


_cross_entropy_grad.defvjp(_cross_entropy_grad_fwd, _cross_entropy_grad_bwd)
cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def soft_cross_entropy(x: Array, target: Array, mask: Array | None, axis: int) -> Array:
    """Return the losses of target distributions of the shape of `x`, in what `x` is computed in."""

    def kernel(x: Array, target: Array, mask: Array | None) -> Any:
        return foreign("soft_cross_entropy", _rows(x, axis), x, target, mask, axis=axis)

    found: Array = dispatch(x.size, kernel, partial(_formulas.soft_cross_entropy, axis=axis), x, target, mask)
    return found


def _soft_fwd(x: Any, target: Any, mask: Any, axis: int) -> tuple[Array, Any]:
    live = None if mask is None else mask.value
    loss = soft_cross_entropy(x.value, target.value, live, axis)
    # A () for what needs no gradient: the structure of what is saved says so, also under jit.
    wanted = tuple(() if p.perturbed else None for p in (x, target))
    return loss, (x.value, target.value, live, wanted)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _soft_grad(upstream: Array, x: Array, target: Array, mask: Array | None, axis: int) -> Array:
    def kernel(upstream: Array, x: Array, target: Array, mask: Array | None) -> Any:
        return foreign("soft_cross_entropy_grad", _like(x), upstream, x, target, mask, axis=axis)

    formula = partial(_formulas.soft_cross_entropy_grad, axis=axis)
    found: Array = dispatch(x.size, kernel, formula, upstream, x, target, mask)
    return found


def _soft_grad_fwd(
    upstream: Array, x: Array, target: Array, mask: Array | None, axis: int
) -> tuple[Array, tuple[Any, ...]]:
    return _soft_grad(upstream, x, target, mask, axis), (upstream, x, target, mask)


def _soft_grad_bwd(axis: int, saved: tuple[Any, ...], ct: Array) -> tuple[Any, ...]:
    *inputs, mask = saved
    _, vjp = jax.vjp(lambda u, x, q: _formulas.soft_cross_entropy_grad(u, x, q, mask, axis), *inputs)
    return (*vjp(ct), None)


def _soft_bwd(axis: int, saved: tuple[Any, ...], ct: Any) -> tuple[Any, ...]:
    x, target, mask, wanted = saved
    upstream = _concrete(ct)
    d_x = None if wanted[0] is None else _soft_grad(upstream, x, target, mask, axis)
    d_target = None
    if wanted[1] is not None:
        # Rows without live classes keep theirs, and masked classes get 0, not -inf: no NaN in second derivatives.
        live = None if mask is None else mask | ~jnp.any(mask, axis, keepdims=True)
        log_probs = log_softmax(x if live is None else jnp.where(live, x, -jnp.inf), axis)
        log_probs = log_probs if mask is None else jnp.where(mask, log_probs, 0.0)
        d_target = -jnp.expand_dims(upstream, axis) * log_probs.astype(upstream.dtype)
        d_target = (d_target if mask is None else jnp.where(mask, d_target, 0.0)).astype(target.dtype)
    return d_x, d_target, None


_soft_grad.defvjp(_soft_grad_fwd, _soft_grad_bwd)
soft_cross_entropy.defvjp(_soft_fwd, _soft_bwd, symbolic_zeros=True)
