"""softmax and log_softmax with PyTorch's signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

from fastnll import ops
from fastnll.errors import FastnllError
from fastnll.interop.torch import _tensors

__all__ = ["composite", "gradient", "log_softmax", "softmax", "value"]

Tensor = torch.Tensor
Dtype = torch.dtype


def value(log: bool, input: Tensor, dim: int) -> Tensor:
    """Return log_softmax (`log`) or softmax along an axis.

    Raises
    ------
    FastnllError
        For what fastnll refuses; the caller asks PyTorch then.
    """
    x = _tensors.array_of(input)
    out, result = _tensors.result_like(x)
    (ops.log_softmax if log else ops.softmax)(x, dim, out=out, threads=_tensors.threads())
    return result


def gradient(log: bool, upstream: Tensor, output: Tensor, dim: int) -> Tensor:
    """Return the gradient with respect to the input, from the output."""
    y = _tensors.array_of(output)
    out, result = _tensors.result_like(y)
    vjp = ops.log_softmax_vjp if log else ops.softmax_vjp
    vjp(y, _tensors.array_of(upstream), dim, out=out, threads=_tensors.threads())
    return result


def composite(log: bool, upstream: Tensor, output: Tensor, dim: int) -> Tensor:
    """Return the gradient in PyTorch's own operators: differentiable again, and batched where upstream is."""
    if log:
        return upstream - output.exp() * upstream.sum(dim, keepdim=True)
    return output * (upstream - (output * upstream).sum(dim, keepdim=True))


class _Softmax(torch.autograd.Function):
    """The node of the graph; it keeps the output, as PyTorch's does."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, log: bool, dim: int, made: list[Tensor]) -> Tensor:
        ctx.log, ctx.dim = log, dim
        ctx.save_for_backward(made[0])
        return made[0]

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> Any:
        (upstream,) = upstreams
        (output,) = ctx.saved_tensors
        if _tensors.needs_composite(upstream) or upstream.dtype is not output.dtype:
            return composite(ctx.log, upstream, output, ctx.dim), None, None, None
        name = "fastnll::log_softmax_backward" if ctx.log else "fastnll::softmax_backward"
        return _tensors.recorded(name, gradient, ctx.log, upstream, output, ctx.dim), None, None, None


_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Softmax).apply


def _softmax(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], log: bool, input: Tensor, dim: int, dtype: Dtype | None
) -> Tensor:
    compiling = torch.compiler.is_compiling()
    if not compiling and has_torch_function_unary(input):
        if _tensors.overridden(input):
            return theirs(input, dim, dtype=dtype)
        return handle_torch_function(ours, (input,), input, dim=dim, dtype=dtype)
    way = _tensors.traced_way(input) if compiling else _tensors.way(input)
    plain = isinstance(dim, int) and not isinstance(dim, bool) and _tensors.is_float(dtype or input.dtype)
    if way == _tensors.THEIRS or not plain:
        return theirs(input, dim, dtype=dtype)
    if way == _tensors.OP:
        if not -input.dim() <= dim < input.dim():
            return theirs(input, dim, dtype=dtype)
        x = input if dtype is None else input.to(dtype)
        op = torch.ops.fastnll.log_softmax if log else torch.ops.fastnll.softmax
        found: Tensor = op(x, dim)
        return found
    x = input if dtype is None else input.to(dtype)
    try:
        result: Tensor = _tensors.recorded("fastnll::log_softmax" if log else "fastnll::softmax", value, log, x, dim)
    except FastnllError:
        return theirs(input, dim, dtype=dtype)
    if x.requires_grad and torch.is_grad_enabled():
        return _apply(x, log, dim, [result])
    return result


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Dtype | None = None) -> Tensor:
    """Return the logarithm of the softmax; `torch.nn.functional.log_softmax`, faster on CPUs.

    Parameters
    ----------
    input : Tensor
        Of any shape: float64, float32, float16 or bfloat16.
    dim : int, optional
        The class axis. PyTorch guesses it with a warning where None.
    dtype : torch.dtype, optional
        The input is cast to this first.

    Returns
    -------
    Tensor
        Log-probabilities in nats, of the input's shape.

    Raises
    ------
    IndexError, RuntimeError, TypeError
        PyTorch's own.

    References
    ----------
    `fastnll.log_softmax` has the formula.

    Examples
    --------
    >>> log_softmax(torch.tensor([1.0, 3.0]).log(), dim=0).exp()
    tensor([0.2500, 0.7500])
    """
    if dim is None or _tensors.few(input):
        return functional.log_softmax(input, dim, _stacklevel + 1, dtype)
    return _softmax(log_softmax, functional.log_softmax, True, input, dim, dtype)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Dtype | None = None) -> Tensor:
    """Return the softmax; `torch.nn.functional.softmax`, faster on CPUs.

    Parameters
    ----------
    input : Tensor
        Of any shape: float64, float32, float16 or bfloat16.
    dim : int, optional
        The class axis. PyTorch guesses it with a warning where None.
    dtype : torch.dtype, optional
        The input is cast to this first.

    Returns
    -------
    Tensor
        Probabilities, of the input's shape.

    Raises
    ------
    IndexError, RuntimeError, TypeError
        PyTorch's own.

    References
    ----------
    `fastnll.softmax` has the formula.

    Examples
    --------
    >>> softmax(torch.tensor([1.0, 3.0]).log(), dim=0)
    tensor([0.2500, 0.7500])
    """
    if dim is None or _tensors.few(input):
        return functional.softmax(input, dim, _stacklevel + 1, dtype)
    return _softmax(softmax, functional.softmax, False, input, dim, dtype)
