"""PyTorch as a contender: eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.bench.cases import Case
from fastnll.bench.contenders import NotOfferedError, Run
from fastnll.bench.data import Data

__all__ = ["compiled", "eager"]

Array = npt.NDArray[Any]


def _tensor(x: Array) -> Any:
    """Return a tensor over the same memory; bfloat16 goes through its bits, which NumPy cannot name."""
    import torch

    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def _array(tensor: Any) -> Array:
    import torch

    tensor = tensor.detach()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _threads(count: int) -> Callable[[], Any]:
    import torch

    @contextmanager
    def context() -> Any:
        old = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(old)

    return context


def _class_dim(case: Case, x: Any) -> Any:
    """Return the tensor as cross_entropy wants it: the class axis second."""
    return x if case.axis == 1 or len(case.shape) == 2 else x.movedim(case.axis, 1)


def _outputs(case: Case) -> Callable[[Any], dict[str, Any]]:
    if case.op == "cross_entropy_value_and_grad":
        return lambda raw: {"loss": _array(raw[0]), "out": _array(raw[1])}
    return lambda raw: {"loss" if case.op in ("cross_entropy", "nll_loss") else "out": _array(raw)}


def _loss_run(data: Data, loss: Callable[[Any, Any], Any], threads: int) -> Run:
    """Return the run of a loss, with its gradient where the case wants it.

    autograd.grad hands out a fresh gradient each call; `backward` would add to the last one.
    """
    import torch

    case, targets = data.case, _tensor(data.targets)
    x = _tensor(data.x)
    if case.op == "cross_entropy":

        def value() -> Any:
            with torch.no_grad():
                return loss(_class_dim(case, x), targets)

        return Run(value, _outputs(case), "value", None, _threads(threads))
    x.requires_grad_()
    upstream = torch.tensor(case.grad_output, dtype=x.dtype)

    def value_and_grad() -> Any:
        result = loss(_class_dim(case, x), targets)
        (grad,) = torch.autograd.grad(result, x, upstream)
        return result.detach(), grad

    return Run(value_and_grad, _outputs(case), "fresh", None, _threads(threads))


def eager(data: Data, threads: int) -> Run:
    """Return PyTorch's functions as they are, with ``out=`` where they have it and the fused SGD."""
    import torch
    from torch.nn import functional

    case = data.case
    if case.op in ("cross_entropy", "cross_entropy_value_and_grad"):
        return _loss_run(data, functional.cross_entropy, threads)
    if case.op == "sgd_update":
        return _sgd(data, threads)
    x, context = _tensor(data.x), _threads(threads)
    if case.op.endswith("_vjp"):
        return _vjp(data, threads)
    if case.op in ("softmax", "log_softmax"):
        function = getattr(torch, case.op)
        if case.mode == "out":
            out = torch.zeros_like(x)
            return Run(partial(function, x, case.axis, out=out), _outputs(case), "out", None, context)
        return Run(partial(function, x, case.axis), _outputs(case), "fresh", None, context)
    targets = _tensor(data.targets)
    calls: dict[str, Callable[[], Any]] = {
        "logsumexp": partial(torch.logsumexp, x, case.axis),
        "nll_loss": partial(functional.nll_loss, x, targets),
        "selected_log_probs": lambda: -functional.cross_entropy(x, targets, reduction="none"),
    }
    return Run(calls[case.op], _outputs(case), case.mode, None, context)


def _vjp(data: Data, threads: int) -> Run:
    """Return the backward pass alone, over a graph that is built once."""
    import torch

    case, grad = data.case, _tensor(data.extra)
    log_probs = _tensor(data.x if case.op == "log_softmax_vjp" else np.log(data.x)).requires_grad_()
    y = getattr(torch, case.op.removesuffix("_vjp"))(log_probs, case.axis)

    def call() -> Any:
        return torch.autograd.grad(y, log_probs, grad, retain_graph=True)[0]

    return Run(call, _outputs(case), "fresh", None, _threads(threads))


def _sgd(data: Data, threads: int) -> Run:
    import torch

    param, buffer = _tensor(data.x.copy()), _tensor(data.extra.copy())
    param.grad = _tensor(data.extra)
    optimizer = torch.optim.SGD([param], lr=0.001, momentum=0.9, fused=True)
    optimizer.state[param]["momentum_buffer"] = buffer

    def before() -> None:
        param.data.copy_(_tensor(data.x))
        buffer.copy_(_tensor(data.extra))

    return Run(optimizer.step, lambda _: {"out": _array(param)}, "inplace", before, _threads(threads))


def compiled(data: Data, threads: int) -> Run:
    """Return the same losses through torch.compile, one static shape, no graph break.

    The compiler's caches are emptied first: beyond eight shapes of one function it would fall back to eager
    without a word.
    """
    import torch
    from torch.nn import functional

    case = data.case
    torch._dynamo.reset()
    compile_ = partial(torch.compile, dynamic=False, fullgraph=True)
    if case.op in ("cross_entropy", "cross_entropy_value_and_grad"):
        return _loss_run(data, compile_(lambda x, t: functional.cross_entropy(x, t)), threads)
    if case.op not in ("softmax", "log_softmax", "logsumexp"):
        raise NotOfferedError("torch.compile is asked for the losses and the softmax family")
    x, function = _tensor(data.x), compile_(lambda x: getattr(torch, case.op)(x, case.axis))
    mode = "value" if case.mode == "value" else "fresh"
    return Run(partial(function, x), _outputs(case), mode, None, _threads(threads))
