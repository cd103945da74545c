"""JAX as a contender: jax.jit on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from fastnll.bench.cases import Case
from fastnll.bench.contenders import NotOfferedError, Run
from fastnll.bench.data import Data

__all__ = ["jit"]


def _loss(case: Case) -> Callable[[Any, Any], Any]:
    """Return the mean loss as optax computes it for class ids: logsumexp minus the target's logit."""
    import jax
    import jax.numpy as jnp

    def loss(x: Any, targets: Any) -> Any:
        picked = jnp.take_along_axis(x, jnp.expand_dims(targets, case.axis), axis=case.axis)
        return (jax.nn.logsumexp(x, axis=case.axis, keepdims=True) - picked).mean()

    return loss


def _function(case: Case) -> Callable[..., Any]:
    """Return the function of (x, targets, extra) that is compiled."""
    import jax
    import jax.numpy as jnp

    loss = _loss(case)

    def value_and_grad(x: Any, targets: Any, extra: Any) -> Any:
        value, vjp = jax.vjp(lambda logits: loss(logits, targets), x)
        return value, vjp(jnp.asarray(case.grad_output, x.dtype))[0]

    def log_softmax_vjp(x: Any, targets: Any, extra: Any) -> Any:
        return extra - jnp.exp(x) * extra.sum(axis=case.axis, keepdims=True)

    functions: dict[str, Callable[..., Any]] = {
        "cross_entropy": lambda x, targets, extra: loss(x, targets),
        "cross_entropy_value_and_grad": value_and_grad,
        "softmax": lambda x, targets, extra: jax.nn.softmax(x, axis=case.axis),
        "log_softmax": lambda x, targets, extra: jax.nn.log_softmax(x, axis=case.axis),
        "logsumexp": lambda x, targets, extra: jax.nn.logsumexp(x, axis=case.axis),
        "log_softmax_vjp": log_softmax_vjp,
    }
    if case.op not in functions:
        raise NotOfferedError("JAX is asked for the losses and the softmax family")
    return functions[case.op]


def jit(data: Data, threads: int) -> Run:
    """Return the run through jax.jit; the logits are donated where the case works in place.

    A donated buffer is gone after the call: the result becomes the next call's logits, as in a chain of updates,
    and `before` makes a fresh copy.
    """
    import jax
    import jax.numpy as jnp

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if threads != cores:
        reason = f"XLA takes all {cores} cores of the process; run under taskset to compare {threads}"
        raise NotOfferedError(reason, shown=True)
    case = data.case
    finished: Callable[[Any], Any] = jax.block_until_ready

    def context() -> AbstractContextManager[Any]:
        # Without it JAX would compute float64 logits in float32.
        return jax.enable_x64(True) if case.dtype == "float64" else nullcontext()

    function = _function(case)
    donate = case.mode == "inplace" and case.op in ("cross_entropy_value_and_grad", "softmax")
    with context():
        # copy=True: JAX may otherwise look at NumPy's own memory, which a donation would overwrite.
        state = [jnp.array(data.x, copy=True)]
        targets, extra = jnp.asarray(data.targets.astype(np.int32)), jnp.asarray(data.extra)
        compiled = jax.jit(function, donate_argnums=(0,) if donate else ())

    def call() -> Any:
        raw = finished(compiled(state[0], targets, extra))
        if donate:
            state[0] = raw[1] if case.op == "cross_entropy_value_and_grad" else raw
        return raw

    def before() -> None:
        with context():
            state[0] = finished(jnp.array(data.x, copy=True))

    def outputs(raw: Any) -> dict[str, Any]:
        if case.op == "cross_entropy_value_and_grad":
            return {"loss": np.asarray(raw[0]), "out": np.asarray(raw[1])}
        return {"loss" if case.op == "cross_entropy" else "out": np.asarray(raw)}

    mode = case.mode if donate or case.mode == "value" else "fresh"
    return Run(call, outputs, mode, before if donate else None, context)
