"""sgd_update against the update rule written out in wide precision, over the grid of its options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastnll as fn
from fastnll.errors import DTypeError, FastnllError, ShapeError
from tests.cases import DTYPES, FULL, Engine
from tests.ops.oracle import assert_same_bits, unit, wide

Array = np.ndarray[Any, Any]

MOMENTA = [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.3, False), (0.9, 0.0, True)]


def options_with(momentum: float, dampening: float, nesterov: bool) -> Iterator[dict[str, Any]]:
    """Yield the grid of the other options."""
    for weight_decay, maximize, grad_scale in itertools.product((0.0, 0.01), (False, True), (1.0, -0.25)):
        yield {
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "grad_scale": grad_scale,
        }


def arrays(n: int | tuple[int, ...], dtype: str, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    param, grad, buffer = (rng.standard_normal(n).astype(DTYPES[dtype]) for _ in range(3))
    return param, grad, buffer


def longhand(
    param: Array,
    grad: Array,
    buffer: Array | None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float = 1.0,
    first_step: bool = False,
) -> tuple[tuple[Array, Array], tuple[Array, Array] | None]:
    """Return (new parameter, its allowed error in u) and the same of the buffer.

    Each operation costs u of the largest magnitude that met in it; sums of magnitudes bound them all.
    """
    p = wide(param)
    g = wide(grad) * grad_scale * (-1 if maximize else 1) + weight_decay * p
    g_units = 3 * (np.abs(wide(grad) * grad_scale) + np.abs(weight_decay * p))
    kept = None
    if momentum:
        assert buffer is not None
        if first_step:
            b, b_units = g, g_units
        else:
            b = momentum * wide(buffer) + (1 - dampening) * g
            b_units = 3 * np.abs(momentum * wide(buffer)) + 3 * np.abs((1 - dampening) * g) + g_units
        kept = (b, b_units)
        g, g_units = (g + momentum * b, g_units + b_units + 2 * np.abs(g) + 2 * np.abs(b)) if nesterov else (b, b_units)
    new = p - lr * g
    return (new, lr * (g_units + 3 * np.abs(g)) + np.abs(new)), kept


def assert_updated(name: str, got: Array, want_and_units: tuple[Array, Array]) -> None:
    want, units = want_and_units
    store = ml_dtypes.finfo(got.dtype)
    rounding = float(store.eps) / 2 * np.abs(want) * (got.dtype.itemsize < 4) + float(store.smallest_subnormal)
    error = np.abs(wide(got) - want)
    ratio = error / (units * unit(got.dtype) * (1 + 1e-6) + rounding)
    at = int(np.argmax(ratio))
    assert ratio[at] <= 1, f"{name}[{at}]: got {got[at]!r}, expected {want[at]!r}, {ratio[at]:.2f} of the bound"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), MOMENTA)
def test_update_rule(engine: Engine, momentum: float, dampening: float, nesterov: bool, dtype: str) -> None:
    rest = itertools.product(options_with(momentum, dampening, nesterov), (True, False), (1, 15, 64, 1001))
    for options, first_step, n in rest:
        param, grad, buffer = arrays(n, dtype)
        if first_step:
            buffer[:] = np.nan  # never read: the first step copies the gradient
        held = buffer if options["momentum"] else None
        want, kept = longhand(param, grad, held, lr=0.1, first_step=first_step, **options)
        before = grad.copy()
        p = param.copy()
        fn.sgd_update(p, grad, held, lr=0.1, first_step=first_step, **options)
        assert_updated("param", p, want)
        if kept is not None:
            assert_updated("momentum_buffer", buffer, kept)
        assert_same_bits("the gradient afterwards", grad, before)
        assert np.any(p != param)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths_and_threads(engine: Engine, dtype: str) -> None:
    """Odd lengths, and arrays that do not start on a cache line: the neighbours stay, threads do not matter."""
    for n, offset in itertools.product((0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 127, 4097, 100_003), (0, 1, 3)):
        param, grad, buffer = (np.pad(a, (offset, 5), constant_values=7) for a in arrays(n, dtype))
        inner = np.s_[offset : offset + n]
        want, kept = longhand(param[inner], grad[inner], buffer[inner], lr=0.5, momentum=0.9, nesterov=True)
        results = []
        for threads in (1, 2, 7):
            p, b = param.copy(), buffer.copy()
            fn.sgd_update(p[inner], grad[inner], b[inner], lr=0.5, momentum=0.9, nesterov=True, threads=threads)
            results.append((p, b))
            assert_same_bits("param for other threads", p, results[0][0])
            assert_same_bits("buffer for other threads", b, results[0][1])
        p, b = results[0]
        if n:
            assert_updated("param", p[inner], want)
            assert kept is not None
            assert_updated("momentum_buffer", b[inner], kept)
        for a in (p, b):
            assert np.all(np.delete(a, np.arange(offset, offset + n)) == 7)


@pytest.mark.parametrize("dtype", FULL)
def test_arrays_of_several_axes(engine: Engine, dtype: str) -> None:
    param, grad, _ = arrays((3, 5, 7), dtype)
    flat = param.ravel().copy()
    fn.sgd_update(flat, grad.ravel(), lr=0.1)
    fn.sgd_update(param, grad, lr=0.1)
    assert_same_bits("param", param.ravel(), flat)


def test_a_step_of_rate_zero_changes_the_buffer_alone(engine: Engine) -> None:
    param, grad, buffer = arrays(33, "float32")
    p, b = param.copy(), buffer.copy()
    fn.sgd_update(p, grad, b, lr=0.0, momentum=0.5)
    assert_same_bits("param", p, param)
    assert np.all(b != buffer)


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), MOMENTA)
def test_the_same_as_pytorch(engine: Engine, momentum: float, dampening: float, nesterov: bool, dtype: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    for options in options_with(momentum, dampening, nesterov):
        check_against_pytorch(options, dtype)


def check_against_pytorch(options: dict[str, Any], dtype: str) -> None:
    import torch

    scale = options["grad_scale"]
    param, _, buffer = arrays(1001, dtype)
    theirs = torch.from_numpy(param.copy()).requires_grad_()
    step = torch.optim.SGD([theirs], lr=0.1, **{k: v for k, v in options.items() if k != "grad_scale"})
    for turn in range(4):
        grad = arrays(1001, dtype, seed=turn + 1)[1]
        theirs.grad = torch.from_numpy(grad * DTYPES[dtype].type(scale))
        step.step()
        fn.sgd_update(param, grad, buffer if options["momentum"] else None, lr=0.1, first_step=turn == 0, **options)
    tolerance = 50 * float(np.finfo(param.dtype).eps)
    np.testing.assert_allclose(param, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_what_is_refused(engine: Engine) -> None:
    param, grad, buffer = arrays(8, "float32")
    before = param.copy()
    with pytest.raises(ShapeError, match="grad"):
        fn.sgd_update(param, grad[:7], lr=0.1)
    with pytest.raises(ShapeError, match="momentum_buffer"):
        fn.sgd_update(param, grad, buffer[:7], lr=0.1, momentum=0.9)
    with pytest.raises(DTypeError, match="param"):
        fn.sgd_update(np.zeros(8, np.int64), np.zeros(8, np.int64), lr=0.1)
    with pytest.raises(DTypeError, match="grad"):
        fn.sgd_update(param, grad.astype(np.complex64), lr=0.1)
    with pytest.raises(FastnllError, match="momentum_buffer"):
        fn.sgd_update(param, grad, lr=0.1, momentum=0.9)
    with pytest.raises(FastnllError, match="param"):
        fn.sgd_update([1.0, 2.0], np.zeros(2), lr=0.1)
    frozen = param.copy()
    frozen.flags.writeable = False
    with pytest.raises(FastnllError, match="param"):
        fn.sgd_update(frozen, grad, lr=0.1)
    assert_same_bits("param after refusals", param, before)


def test_arrays_that_are_not_contiguous_are_right_or_refused(engine: Engine) -> None:
    big, grad, _ = arrays((8, 6), "float64")
    for view in (np.s_[::2, ::2], np.s_[::-1], np.s_[:, 1:3]):
        param = big.copy()
        want, _ = longhand(param[view].ravel(), grad[view].ravel(), None, lr=0.1)
        try:
            fn.sgd_update(param[view], grad[view], lr=0.1)
        except FastnllError:
            assert_same_bits("refused, yet written", param, big)
            continue
        assert_updated("param", param[view].ravel(), want)
        param[view] = big[view]
        assert_same_bits("beside the view", param, big)


def test_shared_memory_is_right_or_refused(engine: Engine) -> None:
    """The gradient one element into the parameter; the buffer in the gradient."""
    for case in ("grad in param", "buffer is grad", "buffer in param"):
        memory = arrays(2000, "float64")[0]
        before = memory.copy()
        param, grad, buffer = memory[:900], memory[1000:1900].copy(), arrays(900, "float64", 4)[2]
        if case == "grad in param":
            grad = memory[1:901]
        elif case == "buffer is grad":
            buffer = grad
        else:
            buffer = memory[450:1350]
        want, kept = longhand(param, grad, buffer, lr=0.1, momentum=0.9)
        try:
            fn.sgd_update(param, grad, buffer, lr=0.1, momentum=0.9)
        except FastnllError:
            assert_same_bits("refused, yet written", memory, before)
            continue
        assert case != "buffer in param", "no order of writing makes sense of it"
        assert_updated("param", param, want)
        assert kept is not None
        assert_updated("momentum_buffer", buffer, kept)
