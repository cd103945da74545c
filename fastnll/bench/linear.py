"""The linear head in the benchmark: its data, its truth, and who runs it.

A case's shape is that of the logits, (N, V), which nobody needs to make; its features are D. The limit is the matrix
product itself: one of full size for the value, three for the gradients, by NumPy's BLAS, in the same rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnll as fn
from fastnll.bench.contenders import NotOfferedError, Run
from fastnll.bench.data import Data
from fastnll.bench.oracle import Error, ulp_error
from fastnll.kernels import registry

__all__ = ["LinearOracle", "gemm_limit", "setup"]

Array = npt.NDArray[Any]

# Classes and rows whose gradients are checked, and rows of logits at a time.
_SAMPLE, _CHUNK = 64, 256
# Largest error of an admitted gradient, relative to its largest element: 16 bits are rounded before and after.
_TOLERANCE = {8: 1e-10, 4: 1e-3, 2: 0.1}


class LinearOracle:
    """The truth about one linear head, in float64, from rows of logits that come and go.

    Parameters
    ----------
    data : Data
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        n, v = data.case.shape
        self.rows = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
        self.classes = np.unique(np.linspace(0, v - 1, min(v, _SAMPLE)).astype(np.int64))

    def truth(self) -> dict[str, Array]:
        """Return the mean loss, and the gradients of the sampled rows of hidden and weight."""
        h, t = self.data.x.astype(np.float64), self.data.targets
        n = self.data.case.rows
        lse, loss = np.empty(n), np.empty(n)
        weight = np.zeros((self.classes.size, h.shape[1]))
        hidden = np.zeros((self.rows.size, h.shape[1]))
        w = self.data.extra.astype(np.float64)
        for start in range(0, n, _CHUNK):
            x = h[start : start + _CHUNK] @ w.T
            here = np.arange(x.shape[0])
            top = x.max(axis=1, keepdims=True)
            at = slice(start, start + x.shape[0])
            lse[at] = top[:, 0] + np.log(np.exp(x - top).sum(axis=1))
            loss[at] = lse[at] - x[here, t[at]]
            few = np.exp(x[:, self.classes] - lse[at, None]) - (t[at, None] == self.classes)
            weight += few.T @ h[at]
            for i in np.flatnonzero((self.rows >= start) & (self.rows < start + x.shape[0])):
                r = self.rows[i] - start
                g = np.exp(x[r] - lse[self.rows[i]])
                g[t[self.rows[i]]] -= 1.0
                hidden[i] = g @ w
        factor = self.data.case.grad_output / n
        return {"loss": np.asarray(loss.mean()), "hidden": hidden * factor, "weight": weight * factor}

    def check(self, outputs: dict[str, Any]) -> tuple[dict[str, Error], str | None]:
        """Compare a contender's outputs with the truth; as `fastnll.bench.oracle.Oracle.check`."""
        errors: dict[str, Error] = {}
        allowed = _TOLERANCE[self.data.case.itemsize]
        for name, truth in self.truth().items():
            if name not in outputs:
                continue
            picked: Any = {"loss": (), "hidden": self.rows, "weight": self.classes}[name]
            got = np.asarray(outputs[name])[picked].astype(np.float64)
            if got.shape != truth.shape:
                return errors, f"{name} is wrong: expected shape {truth.shape}, got {got.shape}"
            size = np.abs(truth).max()
            errors[name] = ulp_error(got, truth, np.float64 if self.data.case.dtype == "float64" else np.float32, size)
            off = float(np.abs(got - truth).max() / size)
            if not off <= allowed:
                return errors, f"{name} is wrong: off by up to {off:.1e} of its size, {allowed:.1e} is allowed"
        return errors, None


def _ours(backend: str, data: Data, threads: int) -> Run:
    reason = registry.available_backends()[backend]
    if reason is not None:
        raise NotOfferedError(reason)
    case, arguments = data.case, (data.x, data.extra, data.targets)

    def settings() -> fn.using:
        return fn.using(backend=backend, threads=threads)

    if case.op == "linear_cross_entropy":
        return Run(partial(fn.linear_cross_entropy, *arguments), lambda raw: {"loss": raw}, "value", None, settings)
    kind = np.float64 if case.dtype == "float64" else np.float32
    # Ones written, not np.empty: the pages of arrays in use exist already.
    out = (np.ones(data.x.shape, kind), np.ones(data.extra.shape, kind), None) if case.mode == "out" else None
    call = partial(fn.linear_cross_entropy_value_and_grad, *arguments, out=out, grad_output=case.grad_output)
    return Run(
        call, lambda raw: {"loss": raw[0], "hidden": raw[1].hidden, "weight": raw[1].weight}, case.mode, None, settings
    )


def _numpy(data: Data, threads: int) -> Run:
    """The formula in NumPy, logits held."""
    case = data.case
    if case.itemsize == 2:
        raise NotOfferedError("NumPy has no products of 16-bit floats")
    h, w, t = data.x, data.extra, data.targets
    rows, n = np.arange(len(h)), len(h)

    def call() -> tuple[Any, ...]:
        x = h @ w.T
        x -= x.max(axis=1, keepdims=True)
        picked = x[rows, t]
        np.exp(x, out=x)
        total = x.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - picked).mean()
        if case.op == "linear_cross_entropy":
            return (loss,)
        x /= total * n
        x[rows, t] -= x.dtype.type(1 / n)
        return loss, x @ w, x.T @ h

    names = ("loss", "hidden", "weight")
    return Run(
        call, lambda raw: dict(zip(names, raw, strict=False)), "value" if case.op == "linear_cross_entropy" else "fresh"
    )


def _torch(way: str, data: Data, threads: int) -> Run:
    """PyTorch: the product and the loss, eager or compiled, or its own linear_cross_entropy in chunks."""
    import torch
    from torch.nn import functional

    from fastnll.bench.peers_torch import _array, _tensor, _threads

    case = data.case
    h, w, t = _tensor(data.x), _tensor(data.extra), _tensor(data.targets)
    loss: Callable[[Any, Any], Any] = lambda a, b: functional.cross_entropy(functional.linear(a, b), t)  # noqa: E731
    if way == "chunked":
        options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
        if options is None:
            raise NotOfferedError("this PyTorch has no linear_cross_entropy")
        loss = lambda a, b: functional.linear_cross_entropy(a, b, t, options=options())  # noqa: E731
    elif way == "compiled":
        torch._dynamo.reset()
        loss = torch.compile(loss, dynamic=False)
    if case.op == "linear_cross_entropy":

        def value() -> Any:
            with torch.no_grad():
                return loss(h, w)

        return Run(value, lambda raw: {"loss": _array(raw)}, "value", None, _threads(threads))
    h.requires_grad_()
    w.requires_grad_()
    upstream = torch.tensor(case.grad_output, dtype=h.dtype)

    def both() -> Any:
        result = loss(h, w)
        return (result.detach(), *torch.autograd.grad(result, (h, w), upstream))

    names = ("loss", "hidden", "weight")
    outputs: Callable[[Any], dict[str, Any]] = lambda raw: dict(  # noqa: E731
        zip(names, map(_array, raw), strict=True)
    )
    return Run(both, outputs, "fresh", None, _threads(threads))


_SETUPS: dict[str, Callable[[Data, int], Run]] = {
    "native": partial(_ours, "native"),
    "numba": partial(_ours, "numba"),
    "reference": partial(_ours, "reference"),
    "numpy": _numpy,
    "torch": partial(_torch, "eager"),
    "torch.linear": partial(_torch, "chunked"),
    "torch.compile": partial(_torch, "compiled"),
}


def setup(name: str, data: Data, threads: int) -> Run:
    """Return the run of a contender on a linear head.

    Raises
    ------
    NotOfferedError
        If it has none.
    """
    if name not in _SETUPS:
        raise NotOfferedError("no linear head")
    return _SETUPS[name](data, threads)


def gemm_limit(data_shape: tuple[int, int, int], dtype: str, grads: bool, threads: int) -> Run:
    """Return full-size products of NumPy's BLAS as a run: one for the value, three for the gradients.

    Parameters
    ----------
    data_shape : (N, D, V)
    dtype : str
        16 bits are multiplied as float32, which the heads compute in.
    grads : bool
    threads : int
        BLAS runs on as many.
    """
    from threadpoolctl import threadpool_limits

    n, d, v = data_shape
    kind = np.float64 if dtype == "float64" else np.float32
    rng = np.random.default_rng(0)
    h, w = rng.standard_normal((n, d)).astype(kind), rng.standard_normal((v, d)).astype(kind)
    logits, dh, dw = np.ones((n, v), kind), np.ones((n, d), kind), np.ones((v, d), kind)

    def call() -> None:
        np.matmul(h, w.T, out=logits)
        if grads:
            np.matmul(logits, w, out=dh)
            np.matmul(logits.T, h, out=dw)

    return Run(call, lambda _: {}, "value", None, partial(threadpool_limits, limits=threads, user_api="blas"))
