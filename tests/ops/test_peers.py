"""The same numbers as the libraries people come from: SciPy, PyTorch, JAX and optax, scikit-learn.

Each is asked in float64, where all of them are careful; what they do otherwise is not an oracle (half
precision sums rounded in half precision, NaN from ignored rows, target errors that go unnoticed).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special

import fastnll as fn
from tests.cases import Case, Engine, make_case

SHAPES = [(17, 33), (70, 7), (3, 2049), (5, 1)]
by_shape = pytest.mark.parametrize(("n", "v"), SHAPES, ids=str)
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


@by_shape
@pytest.mark.parametrize("kind", ["normal", "wide", "masked-inf"])
def test_scipy(engine: Engine, n: int, v: int, kind: str) -> None:
    case = make_case(n, v, "float64", kind)
    for axis in (0, 1):
        x = case.x if axis else case.x.T.copy()
        np.testing.assert_allclose(fn.logsumexp(x, axis), special.logsumexp(x, axis=axis), **CLOSE)
        np.testing.assert_allclose(fn.softmax(x, axis), special.softmax(x, axis=axis), **CLOSE)
        np.testing.assert_allclose(fn.log_softmax(x, axis), special.log_softmax(x, axis=axis), **CLOSE)


@by_shape
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_pytorch(engine: Engine, n: int, v: int, reduction: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = make_case(n, v, "float64")
    t = case.t.copy()
    t[0] = -100
    x = torch.from_numpy(case.x.copy()).requires_grad_()
    theirs = torch.nn.functional.cross_entropy(x, torch.from_numpy(t), reduction=reduction)
    upstream = np.random.default_rng(0).standard_normal(n) if reduction == "none" else 1.5
    theirs.backward(torch.as_tensor(upstream, dtype=torch.float64))
    loss, grad = fn.cross_entropy_value_and_grad(case.x, t, reduction=reduction, grad_output=upstream)
    np.testing.assert_allclose(loss, theirs.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(grad, x.grad.numpy(), **CLOSE)
    log_probs = torch.log_softmax(x, dim=1)
    theirs = torch.nn.functional.nll_loss(log_probs, torch.from_numpy(t), reduction=reduction)
    ours = fn.nll_loss(log_probs.detach().numpy(), t, reduction=reduction)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), **CLOSE)


def test_pytorch_with_the_classes_in_the_middle(engine: Engine) -> None:
    """(N, C, T), PyTorch's only other layout, which is another code path there."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = make_case(70, 33, "float64")
    x, t = case.x.reshape(7, 10, 33).swapaxes(1, 2).copy(), case.t.reshape(7, 10)
    theirs = torch.from_numpy(x.copy()).requires_grad_()
    loss = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(t.copy()))
    loss.backward()
    ours, grad = fn.cross_entropy_value_and_grad(x, t, axis=1)
    assert ours == pytest.approx(loss.item(), rel=1e-13)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), **CLOSE)


def test_pytorch_vjp(engine: Engine) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = make_case(17, 33, "float64")
    g = np.random.default_rng(0).standard_normal(case.x.shape)
    for forward, vjp in ((torch.log_softmax, fn.log_softmax_vjp), (torch.softmax, fn.softmax_vjp)):
        x = torch.from_numpy(case.x.copy()).requires_grad_()
        y = forward(x, dim=1)
        y.backward(torch.from_numpy(g))
        np.testing.assert_allclose(vjp(y.detach().numpy(), g), x.grad.numpy(), **CLOSE)


@by_shape
def test_optax(engine: Engine, n: int, v: int) -> None:
    """In float32: JAX is left as its users find it."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    case = make_case(n, v, "float32")
    theirs = np.asarray(optax.softmax_cross_entropy_with_integer_labels(case.x, case.t))
    np.testing.assert_allclose(fn.cross_entropy(case.x, case.t, reduction="none"), theirs, rtol=1e-5, atol=1e-6)


def test_scikit_learn(engine: Engine) -> None:
    loss_module = pytest.importorskip("sklearn._loss", reason="scikit-learn is not installed")
    case: Case = make_case(70, 7, "float64")
    theirs = loss_module.HalfMultinomialLoss(n_classes=7)
    loss, grad = theirs.loss_gradient(case.t.astype(np.float64), case.x, n_threads=1)
    ours = fn.cross_entropy_value_and_grad(case.x, case.t, reduction="none")
    np.testing.assert_allclose(ours[0], loss, **CLOSE)
    np.testing.assert_allclose(ours[1], grad, **CLOSE)
