"""Cases for the losses of JAX: whatever optax takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
# Of the kernels' arithmetic, whatever the storage; and of a result rounded to it.
EPS = {"float32": 4e-6, "bfloat16": 2**-8, "float16": 2**-10, "float64": 1e-13}


class Case(NamedTuple):
    logits: Any
    labels: Any
    soft: Any
    axis: Any
    where: Any
    upstream: Any

    @property
    def up(self) -> Any:
        """The logits in float32: what optax is given, so that its own rounding is not what is compared with."""
        return self.logits.astype(jnp.float32)


def draw_axis(draw: Any, ndim: int) -> Any:
    if ndim > 1 and draw(st.booleans()):
        axes = draw(st.lists(st.integers(0, ndim - 1), min_size=1, max_size=ndim, unique=True))
        return tuple(a - ndim if draw(st.booleans()) else a for a in axes)
    return draw(st.integers(-ndim, ndim - 1))


@st.composite
def cases(draw: Any, odd: bool = True) -> Case:
    """Return a case; `odd` ones have infinite logits and labels that are no classes."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axis = draw_axis(draw, len(shape))
    classes = [a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))]
    shape = tuple(n + 3 * (i == classes[0]) for i, n in enumerate(shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(size=shape) * draw(st.sampled_from([0.1, 3.0, 30.0]))
    if odd and draw(st.booleans()):
        x[rng.random(shape) < 0.2] = -np.inf
    if odd and draw(st.integers(0, 4)) == 0:
        x[rng.random(shape) < 0.1] = np.inf
    rows = tuple(n for i, n in enumerate(shape) if i not in classes)
    v = int(np.prod([shape[i] for i in classes]))
    low, high = (-v - 2, v + 3) if odd and draw(st.booleans()) else (0, v)
    labels = rng.integers(low, high, rows).astype(draw(st.sampled_from(["int32", "int8", "int16"])))
    soft = rng.dirichlet(np.ones(v), rows).reshape(*rows, *(shape[i] for i in classes))
    order = [i for i in range(len(shape)) if i not in classes] + classes
    soft = soft.transpose([order.index(i) for i in range(len(shape))])
    kind = draw(st.sampled_from(["none", "rows", "classes", "one"]))
    where = {
        "none": None,
        "rows": rng.random(rows) < 0.6,
        "classes": rng.random(shape) < 0.6,
        "one": rng.random([n if i in classes else 1 for i, n in enumerate(shape)]) < 0.6,
    }[kind]
    if kind == "rows" and isinstance(axis, tuple) and len(rows) == 0:
        where = None
    dtype = draw(st.sampled_from(DTYPES))
    upstream = jnp.asarray(rng.normal(size=rows), jnp.float32)
    return Case(
        jnp.asarray(x, dtype),
        jnp.asarray(labels),
        jnp.asarray(soft, dtype),
        axis,
        None if where is None else jnp.asarray(where),
        upstream,
    )


def agree(found: Any, wanted: Any, dtype: Any = None, scale: float = 1.0) -> None:
    """Assert that two results are the same up to rounding, NaN and infinities included."""
    name = jnp.dtype(found.dtype if dtype is None else dtype).name
    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert a.shape == b.shape
    eps = EPS[name] * scale
    np.testing.assert_allclose(a, b, rtol=eps, atol=eps * max(1.0, float(np.max(np.abs(b[np.isfinite(b)]), initial=0))))


def gradient(function: Any, x: Any, upstream: Any) -> Any:
    """Return the gradient for an upstream gradient."""
    value, vjp = jax.vjp(function, x)
    return vjp(upstream.astype(value.dtype))[0]
