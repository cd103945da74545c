"""jit, vmap, scan, second derivatives, threads, other devices; and that nothing hangs or is copied."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fastnll.interop import jax as ours
from tests.interop.jax.cases import agree

KEY = jax.random.PRNGKey(1)
X = 3 * jax.random.normal(KEY, (4, 3, 7))
T = jax.random.randint(KEY, (4, 3), 0, 7)
Q = jax.nn.softmax(jax.random.normal(jax.random.PRNGKey(2), X.shape))
WHERE = jax.random.bernoulli(KEY, 0.7, X.shape)


def hard(module: Any) -> Any:
    return lambda x, t=T: module.softmax_cross_entropy_with_integer_labels(x, t)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 1), (2, 0)])
def test_vmap(axes: tuple[Any, Any]) -> None:
    x = X if axes[0] is not None else X[0]
    t = {(0, 0): T, (0, None): T[0], (None, 0): T, (1, 1): T, (2, 0): jnp.ones((7, 4), int)}[axes]

    def run(module: Any) -> Any:
        f = jax.vmap(hard(module), in_axes=axes)
        g = jax.vmap(jax.grad(lambda x, t: (hard(module)(x, t) * jnp.arange(1.0, t.size + 1)).sum()), in_axes=axes)
        return jax.jit(f)(x, t), g(x, t)

    if axes == (2, 0):
        t = t % 3  # the class axis of what is left, (4, 3)
    for a, b in zip(run(ours), run(optax), strict=True):
        agree(a, b)


def test_vmap_of_masks_soft_labels_and_log_softmax_twice() -> None:
    def run(module: Any, log_softmax: Any) -> Any:
        def one(x: Any, q: Any, w: Any) -> Any:
            soft = module.softmax_cross_entropy(x, q, where=w)
            labels = module.softmax_cross_entropy_with_integer_labels(x, jnp.argmax(q), where=w)
            return soft + 2 * labels + (log_softmax(x) * q).sum()

        twice = jax.vmap(jax.vmap(one, in_axes=(0, 0, 0)), in_axes=(0, None, 0))
        return twice(X, Q[0], WHERE), jax.grad(lambda x: twice(x, Q[0], WHERE).sum())(X)

    for a, b in zip(run(ours, ours.log_softmax), run(optax, jax.nn.log_softmax), strict=True):
        agree(a, b)


@pytest.mark.parametrize("where", [None, WHERE, WHERE[..., :1]])
def test_second_derivatives(where: Any) -> None:
    def run(module: Any, log_softmax: Any) -> Any:
        def loss(x: Any, q: Any) -> Any:
            one = module.softmax_cross_entropy_with_integer_labels(
                x, T[0, :2], where=where if where is None else where[0, :2]
            )
            two = module.softmax_cross_entropy(x, q, where=where if where is None else where[1, :2])
            return (one**2).sum() + (two**3).sum() + (log_softmax(x) ** 2 * q).sum()

        return jax.jacrev(jax.jacrev(loss, (0, 1)), (0, 1))(X[0, :2], Q[0, :2])

    for a, b in zip(
        jax.tree.leaves(run(ours, ours.log_softmax)), jax.tree.leaves(run(optax, jax.nn.log_softmax)), strict=True
    ):
        fine = jnp.isfinite(b)  # optax: NaN in rows without live classes
        agree(jnp.where(fine, a, 0), jnp.where(fine, b, 0), scale=4)
        assert jnp.isfinite(a).all()


def test_forward_mode_is_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(hard(ours), (X,), (X,))


def test_scan_of_gradients() -> None:
    def descend(module: Any) -> Any:
        def step(x: Any, _: Any) -> Any:
            value, grad = jax.value_and_grad(lambda x: hard(module)(x).mean())(x)
            return x - 5.0 * grad, value

        return jax.jit(lambda x: jax.lax.scan(step, x, length=200))(X)

    (a, losses), (b, theirs) = descend(ours), descend(optax)
    agree(a, b, scale=100)
    agree(losses, theirs, scale=100)
    assert losses[-1] < 0.2 * losses[0]


def test_remat_and_donation() -> None:
    f = jax.jit(jax.grad(lambda x: jax.checkpoint(hard(ours))(2 * x).sum()), donate_argnums=0)
    wanted = jax.grad(lambda x: hard(optax)(2 * x).sum())(X)
    agree(f(X + 0.0), wanted)


def test_concurrent_callers() -> None:
    xs = [jax.random.normal(jax.random.PRNGKey(i), (64, 500)) for i in range(8)]
    t = jnp.arange(64)
    f = jax.jit(jax.value_and_grad(lambda x: hard(ours)(x, t).mean()))
    wanted = [jax.device_get(f(x)) for x in xs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, (value, grad) in zip(pool.map(f, xs), wanted, strict=True):
                assert found[0] == value and (np.asarray(found[1]) == grad).all()


def test_many_calls_in_flight() -> None:
    """Dispatched without waiting, each computation calling several times: what hangs with `jax.pure_callback`."""
    t = jnp.arange(32)
    f = jax.jit(lambda x: x - jax.grad(lambda x: (hard(ours)(x, t) + ours.log_softmax(x)[:, 0]).sum())(x))
    x = jax.random.normal(KEY, (32, 4000))
    for _ in range(300):
        x = f(x)
    assert jnp.isfinite(x).all()


def test_the_program_has_one_call_and_no_copy_of_the_logits() -> None:
    x = jnp.ones((64, 1000))
    text = jax.jit(lambda x: hard(ours)(x, jnp.arange(64))).lower(x).compile().as_text()
    assert text.count("custom-call(") == 1 and "f32[64,1000]{1,0} copy" not in text
    # What it reads is the caller's memory: the kernel sees the same address.
    from fastnll.interop.jax import _ffi

    seen: list[int] = []
    _ffi.register("fastnll_test_address", lambda a, r, _: seen.append(a[0].ctypes.data) or r[0].fill(0))
    call = jax.ffi.ffi_call("fastnll_test_address", jax.ShapeDtypeStruct((), jnp.float32))
    jax.jit(call)(x).block_until_ready()
    assert seen == [x.unsafe_buffer_pointer()]


def test_other_devices_get_operations_of_their_own() -> None:
    f = jax.jit(jax.grad(lambda x: hard(ours)(x).sum()))
    text = f.trace(X).lower(lowering_platforms=("cuda",)).as_text()
    assert "fastnll" not in text and "exponential" in text
    assert "fastnll" in f.lower(X).as_text()


def test_small_arrays_stay_in_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnll.interop.jax import _calls

    def both() -> Any:
        jax.clear_caches()
        f = jax.jit(jax.value_and_grad(lambda x: (hard(ours)(x) * jnp.arange(12.0).reshape(4, 3)).sum()))
        return "fastnll" in f.lower(X).as_text(), f(X)

    with_kernel, kernels = both()
    monkeypatch.setattr(_calls, "SMALL", 10**6)
    without, formulas = both()
    jax.clear_caches()
    assert with_kernel and not without
    for a, b in zip(kernels, formulas, strict=True):
        agree(a, b)


def test_an_exception_in_a_handler_fails_the_computation_with_its_message() -> None:
    from fastnll.interop.jax import _ffi

    def fails(arguments: Any, results: Any, attributes: Any) -> None:
        raise ValueError("logits: expected something else")

    _ffi.register("fastnll_test_fails", fails)
    call = jax.ffi.ffi_call("fastnll_test_fails", jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: logits: expected something else"):
        jax.jit(call)(jnp.ones(3)).block_until_ready()
    assert (call is not None) and jnp.isfinite(hard(ours)(X)).all()


def test_float64() -> None:
    code = """
import jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_enable_x64", True)
from fastnll.interop import jax as ours
from fastnll.interop.jax import _calls
_calls.SMALL = 1
x = 5 * jax.random.normal(jax.random.PRNGKey(0), (6, 9), jnp.float64)
for kind in (jnp.int64, jnp.uint64, jnp.uint8):
    t = jnp.arange(6).astype(kind)
    def loss(m):
        return lambda x: (m.softmax_cross_entropy_with_integer_labels(x, t) ** 2).sum()
    a, b = (jax.value_and_grad(loss(m))(x) for m in (ours, optax))
    assert a[0].dtype == a[1].dtype == jnp.float64
    np.testing.assert_allclose(a[0], b[0], rtol=1e-13)
    np.testing.assert_allclose(a[1], b[1], rtol=1e-12, atol=1e-13)
# jax.nn's rounds a log-probability near 0 as it rounds the logsumexp.
np.testing.assert_allclose(ours.log_softmax(x, 0), jax.nn.log_softmax(x, 0), rtol=1e-13, atol=2e-15)
h, w = x[:, :3], x[:5, 4:7]
f = lambda h, w: (ours.linear_cross_entropy(h, w, jnp.arange(6) % 5) ** 2).sum()
g = lambda h, w: (optax.softmax_cross_entropy_with_integer_labels(h @ w.T, jnp.arange(6) % 5) ** 2).sum()
for a, b in zip(jax.grad(f, (0, 1))(h, w), jax.grad(g, (0, 1))(h, w)):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
