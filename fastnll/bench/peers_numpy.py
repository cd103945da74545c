"""NumPy, SciPy and scikit-learn as contenders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.bench.contenders import NotOfferedError, Run
from fastnll.bench.data import Data

__all__ = ["numpy_run", "scipy_run", "sklearn_run"]

Array = npt.NDArray[Any]
_LOSSES = ("cross_entropy", "cross_entropy_value_and_grad", "selected_log_probs", "nll_loss")


def _run_from_log_softmax(
    data: Data, log_softmax: Callable[[Array], Array], softmax: Callable[[Array], Array], lse: Callable[[Array], Array]
) -> Run:
    """Return what a user writes around a log_softmax."""
    case, x, t = data.case, data.x, data.targets
    factor = x.dtype.type(case.grad_output / case.rows)
    index = np.expand_dims(t, case.axis) if t.size else t

    def loss_only() -> Any:
        return -np.take_along_axis(log_softmax(x), index, axis=case.axis).mean()

    def loss_and_grad() -> Any:
        log_probs = log_softmax(x)
        picked = np.take_along_axis(log_probs, index, axis=case.axis)
        grad = np.exp(log_probs, out=log_probs)
        np.put_along_axis(grad, index, np.take_along_axis(grad, index, case.axis) - 1, axis=case.axis)
        grad *= factor
        return -picked.mean(), grad

    def vjp() -> Any:
        g = data.extra
        if case.op == "log_softmax_vjp":
            return g - np.exp(x) * g.sum(axis=case.axis, keepdims=True)
        return x * (g - (g * x).sum(axis=case.axis, keepdims=True))

    calls: dict[str, Callable[[], Any]] = {
        "cross_entropy": loss_only,
        "cross_entropy_value_and_grad": loss_and_grad,
        "nll_loss": lambda: -np.take_along_axis(x, index, axis=case.axis).mean(),
        "selected_log_probs": lambda: np.take_along_axis(log_softmax(x), index, axis=case.axis),
        "logsumexp": lambda: lse(x),
        "softmax": lambda: softmax(x),
        "log_softmax": lambda: log_softmax(x),
        "softmax_vjp": vjp,
        "log_softmax_vjp": vjp,
    }
    return Run(calls[case.op], _outputs(case.op), "value" if case.mode == "value" else "fresh")


def _outputs(op: str) -> Callable[[Any], dict[str, Any]]:
    if op == "cross_entropy_value_and_grad":
        return lambda raw: {"loss": raw[0], "out": raw[1]}
    return lambda raw: {"loss" if op in ("cross_entropy", "nll_loss") else "out": raw}


def numpy_run(data: Data, threads: int) -> Run:
    """Return the formula in NumPy: subtract the maximum, exp, sum, log; 16 bits in float32."""
    case = data.case
    if case.itemsize == 2:
        raise NotOfferedError("NumPy computes no 16-bit exp in 32 bits")
    if case.op == "sgd_update":
        return _numpy_sgd(data)

    def shifted(x: Array) -> Array:
        y: Array = x - x.max(axis=case.axis, keepdims=True)
        return y

    def log_softmax(x: Array) -> Array:
        y: Array = shifted(x)
        y -= np.log(np.exp(y).sum(axis=case.axis, keepdims=True))
        return y

    def softmax(x: Array) -> Array:
        y: Array = shifted(x)
        np.exp(y, out=y)
        y /= y.sum(axis=case.axis, keepdims=True)
        return y

    def lse(x: Array) -> Array:
        high = x.max(axis=case.axis, keepdims=True)
        total: Array = np.log(np.exp(x - high).sum(axis=case.axis)) + high.squeeze(case.axis)
        return total

    return _run_from_log_softmax(data, log_softmax, softmax, lse)


def _numpy_sgd(data: Data) -> Run:
    param, buffer, grad = data.x.copy(), data.extra.copy(), data.extra
    momentum, lr = param.dtype.type(0.9), param.dtype.type(0.001)

    def before() -> None:
        np.copyto(param, data.x)
        np.copyto(buffer, data.extra)

    def call() -> None:
        np.multiply(buffer, momentum, out=buffer)
        np.add(buffer, grad, out=buffer)
        np.subtract(param, lr * buffer, out=param)

    return Run(call, lambda _: {"out": param}, "inplace", before)


def scipy_run(data: Data, threads: int) -> Run:
    """Return scipy.special's functions, and the loss a user writes around them."""
    from scipy import special

    case = data.case
    if case.itemsize == 2 or case.op in ("sgd_update", "nll_loss", "softmax_vjp", "log_softmax_vjp"):
        raise NotOfferedError("scipy.special has no such function")
    return _run_from_log_softmax(
        data,
        lambda x: special.log_softmax(x, axis=case.axis),
        lambda x: special.softmax(x, axis=case.axis),
        lambda x: special.logsumexp(x, axis=case.axis),
    )


def sklearn_run(data: Data, threads: int) -> Run:
    """Return scikit-learn's private multinomial loss, which its linear models and boosting are built on.

    Its gradient is that of each row's loss; the division by N, which callers do on something smaller, is left out of
    the time.
    """
    from sklearn._loss.loss import HalfMultinomialLoss

    case = data.case
    if case.op not in ("cross_entropy", "cross_entropy_value_and_grad") or case.itemsize == 2 or len(case.shape) != 2:
        raise NotOfferedError("scikit-learn has the multinomial loss of (N, V) only")
    loss = HalfMultinomialLoss(n_classes=case.classes)
    y = data.targets.astype(data.x.dtype)  # its kernels read class ids as floats
    per_row = np.empty(case.rows, data.x.dtype)
    if case.op == "cross_entropy":
        return Run(
            lambda: loss.loss(y, data.x, loss_out=per_row, n_threads=threads).mean(), lambda raw: {"loss": raw}, "value"
        )
    given = np.full_like(data.x, 0) if case.mode != "fresh" else None

    def call() -> Any:
        values, grad = loss.loss_gradient(y, data.x, loss_out=per_row, gradient_out=given, n_threads=threads)
        return values.mean(), grad

    def outputs(raw: Any) -> dict[str, Any]:
        return {"loss": raw[0], "out": raw[1] * data.x.dtype.type(1 / case.rows)}

    return Run(call, outputs, "out" if given is not None else "fresh")
