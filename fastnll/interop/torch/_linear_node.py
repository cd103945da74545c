"""The loss of a linear head, its gradients as arrays, and its node in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from fastnll.interop.torch import _loss, _tensors

__all__ = ["Grads", "apply", "gradients", "value"]

Tensor = torch.Tensor

_WRT = ("hidden", "weight", "bias")


class Grads(NamedTuple):
    """Gradients of the input, the linear weight and the bias; float32 beside 16-bit inputs, None where not needed."""

    input: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def value(
    c: _loss.Call, input: Tensor, linear_weight: Tensor, target: Tensor, bias: Tensor | None, weight: Tensor | None
) -> Tensor:
    """Return the loss.

    Raises
    ------
    FastnllError
        For what fastnll refuses; the caller asks PyTorch then.
    """
    h, w, t = (_tensors.array_of(t) for t in (input, linear_weight, target))
    loss = _loss.checked(c, None, weight).linear(h, w, t, None if bias is None else _tensors.array_of(bias))
    return _loss.as_tensor(c, loss)


def gradients(
    c: _loss.Call,
    upstream: Tensor | None,
    needed: tuple[bool, ...],
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor, Grads]:
    """Return the loss and those gradients that are needed, times an upstream gradient of the loss' shape."""
    h, w, t = (_tensors.array_of(t) for t in (input, linear_weight, target))
    compute = input.dtype if input.dtype.itemsize > 2 else torch.float32
    out, grads = [], []
    for tensor, wanted in zip((input, linear_weight, bias), needed, strict=True):
        array, grad = _tensors.uninitialised(tensor.shape, compute) if wanted and tensor is not None else (None, None)
        out.append(array)
        grads.append(grad)
    loss, _ = _loss.checked(c, None, weight).linear_value_and_grad(
        h,
        w,
        t,
        None if bias is None else _tensors.array_of(bias),
        grad_output=None if upstream is None else upstream.detach().double().numpy(),
        out=tuple(out),
        wrt=[name for name, wanted in zip(_WRT, needed, strict=True) if wanted],
    )
    return _loss.as_tensor(c, loss), Grads(*grads)


class _LinearCrossEntropy(torch.autograd.Function):
    """The node of the graph. For the mean and the sum the gradients come with the loss and are given away once."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        linear_weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        weight: Tensor | None,
        made: list[Any],
    ) -> Tensor:
        ctx.save_for_backward(input, linear_weight, target, bias, weight)
        loss: Tensor
        ctx.call, loss, ctx.unit = made
        ctx.dtype = input.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> Any:
        (upstream,) = upstreams
        unit = ctx.__dict__.pop("unit", None)
        if _tensors.needs_composite(upstream):
            return (*_composite(ctx, upstream), None, None, None)
        needed = ctx.needs_input_grad[:3]
        if unit is None:
            grads = _tensors.recorded(
                "fastnll::linear_cross_entropy_backward", gradients, ctx.call, upstream, needed, *ctx.saved_tensors
            )[1]
        else:
            # These are not rounded to 16 bits yet: a loss scale comes in time.
            factor = upstream.item()
            grads = Grads(*(g if g is None or factor == 1.0 else g.mul_(factor) for g in unit))
        dtype = ctx.dtype
        return (*(None if g is None else g.to(dtype) for g in grads), None, None, None)


apply: Callable[..., Tensor] = super(torch.autograd.Function, _LinearCrossEntropy).apply


def _composite(ctx: Any, upstream: Tensor) -> list[Tensor | None]:
    """Return the gradients through PyTorch's own operators: differentiable again, and batched where upstream is."""
    input, linear_weight, target, bias, weight = ctx.saved_tensors
    c: _loss.Call = ctx.call
    with torch.enable_grad():
        # Aliases: one tensor may have been made from another, whose derivative must not run through it.
        input, linear_weight = input.view_as(input), linear_weight.view_as(linear_weight)
        bias = None if bias is None else bias.view_as(bias)
        wanted = [t for t, need in zip((input, linear_weight, bias), ctx.needs_input_grad, strict=False) if need]
        logits = functional.linear(
            input.to(c.dtype), linear_weight.to(c.dtype), None if bias is None else bias.to(c.dtype)
        )
        loss = functional.cross_entropy(
            logits,
            target.to(c.dtype) if c.soft else target,
            None if weight is None else weight.to(c.dtype),
            ignore_index=c.ignore_index,
            reduction=c.reduction,
            label_smoothing=c.label_smoothing,
        )
    found = iter(torch.autograd.grad(loss, wanted, upstream, create_graph=torch.is_grad_enabled()))
    return [next(found) if need else None for need in ctx.needs_input_grad[:3]]
