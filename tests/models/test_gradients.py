"""Vector-Jacobian products against central differences, in float64, coordinate by coordinate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnll.models import Model, SoftmaxRegression
from tests.models.longhand import ALL_MODELS, random_params

Array = np.ndarray[Any, Any]


def inputs_of(model: Model, n: int = 11) -> Array:
    rng = np.random.default_rng(9)
    if isinstance(model, SoftmaxRegression):
        return rng.normal(size=(n, model.n_features))
    # Two sequences, so that the padding before the start has a gradient too; ids repeat.
    return model.examples(rng.integers(0, model.vocab_size, n), [0, 2, n]).inputs


@pytest.mark.parametrize("model", ALL_MODELS, ids=repr)
def test_vjp_is_the_derivative_of_the_logits(model: Model) -> None:
    params, inputs = random_params(model, 8), inputs_of(model)
    logits, vjp = model.logits_and_vjp(params, inputs)
    upstream = np.random.default_rng(2).normal(size=logits.shape)
    grads = vjp(upstream.copy())

    def value() -> float:
        return float(np.vdot(upstream, model.logits_and_vjp(params, inputs)[0]))

    step = 1e-3
    for name, array in params.items():
        numeric = np.zeros_like(array)
        for i in np.ndindex(array.shape):
            keep = array[i]
            at = []
            for shift in (-2.0, -1.0, 1.0, 2.0):
                array[i] = keep + shift * step
                at.append(value())
            array[i] = keep
            # Five-point rule: the error is of order step**4, about 1e-12 here.
            numeric[i] = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
        assert np.abs(numeric).max() > 0.1, "a derivative of zero tests nothing"
        np.testing.assert_allclose(grads[name], numeric, rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("model", ALL_MODELS, ids=repr)
def test_float32_gradients_are_the_float64_ones(model: Model) -> None:
    params, inputs = random_params(model, 8), inputs_of(model, 300)
    logits, vjp = model.logits_and_vjp(params, inputs)
    upstream = np.random.default_rng(2).normal(size=logits.shape)
    small = {name: array.astype(np.float32) for name, array in params.items()}
    _, small_vjp = model.logits_and_vjp(small, inputs)
    got = small_vjp(upstream.astype(np.float32))
    for name, want in vjp(upstream.copy()).items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4 * np.abs(want).max(), err_msg=name)
