"""The kernels are what is tested, also on the small arrays that users' calls would leave to XLA."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

jax = pytest.importorskip("jax", reason="the bridge to JAX needs jax")
pytest.importorskip("optax", reason="optax is what the bridge to JAX is compared with")


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    from fastnll.interop.jax import _calls

    before, _calls.SMALL = _calls.SMALL, 1
    jax.clear_caches()
    yield
    _calls.SMALL = before
    jax.clear_caches()
