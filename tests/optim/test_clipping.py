"""The global norm and the clipping factor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.clipping import DivergenceError, clip_factor, global_norm


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=4), st.sampled_from(["f4", "f8"]))
def test_norm_is_that_of_one_long_vector(sizes: list[int], dtype: str) -> None:
    rng = np.random.default_rng(sum(sizes))
    grads = {str(i): rng.standard_normal(size).astype(dtype) for i, size in enumerate(sizes)}
    exact = math.sqrt(math.fsum(float(x) ** 2 for grad in grads.values() for x in grad))
    assert global_norm(grads) == pytest.approx(exact, rel=1e-14)
    assert global_norm(grads, -0.5) == pytest.approx(0.5 * exact, rel=1e-14)


def test_float32_squares_do_not_overflow() -> None:
    assert global_norm({"w": np.full(4, 1e30, "f4")}) == pytest.approx(2e30, rel=1e-6)


@pytest.mark.parametrize("size", [3, 40_000])
def test_float64_squares_that_overflow_are_named(size: int) -> None:
    with pytest.raises(DivergenceError, match="the squares overflow float64"):
        global_norm({"w": np.full(size, 1e200)})


def test_sum_that_overflows_on_the_way() -> None:
    # Each square is finite, their sum is not.
    with pytest.raises(DivergenceError, match="the squares overflow float64"):
        global_norm({str(i): np.full(1, 1.2e154) for i in range(3)})


def test_strides_do_not_matter() -> None:
    grad = np.random.default_rng(0).standard_normal((60, 80))
    assert global_norm({"w": grad.T[::2]}) == pytest.approx(float(np.linalg.norm(grad.T[::2])), rel=1e-14)


@given(st.floats(0, 1e6), st.floats(1e-3, 1e3))
def test_factor_brings_the_norm_down(norm: float, max_norm: float) -> None:
    factor = clip_factor(norm, max_norm)
    assert 0 < factor <= 1
    assert norm * factor <= max_norm
    # PyTorch's denominator, norm + 1e-6, clips a norm that is within 1e-6 of the bound.
    assert (factor == 1) == (norm + 1e-6 <= max_norm)
