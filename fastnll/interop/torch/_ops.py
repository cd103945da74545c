"""The operators of the ``fastnll`` library: schema, kernel, fake kernel and derivative of each.

They are what torch.compile, torch.export, fake tensors and make_fx see. Eager calls go past them: a dispatch through a
Python operator takes longer than a small batch. Nobody but this package needs to call them; under vmap and the other
transforms it calls PyTorch's functions instead, so they have no batching rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from fastnll.interop.torch import _linear_node, _loss, _softmax

__all__: list[str] = []

Tensor = torch.Tensor


def _options(input: Tensor, target: Tensor, reduction: str, ignore_index: int, label_smoothing: float) -> _loss.Call:
    return _loss.Call(reduction, ignore_index, label_smoothing, target.is_floating_point(), input.dtype)


def _laid_out(grad: Tensor, like: Tensor) -> Tensor:
    """Return a result with the strides that ``torch.empty_like`` promises to a compiler."""
    strides = torch.empty_like(like, device="meta").stride()
    if grad.stride() == strides:
        return grad
    return torch.empty_strided(grad.shape, strides, dtype=grad.dtype).copy_(grad)


@torch.library.custom_op("fastnll::cross_entropy", mutates_args=(), device_types="cpu")
def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int, label_smoothing: float
) -> Tensor:
    """Value of the loss."""
    c = _options(input, target, reduction, ignore_index, label_smoothing)
    return _loss.value(c, input, target, weight)


@torch.library.custom_op("fastnll::cross_entropy_backward", mutates_args=(), device_types="cpu")
def cross_entropy_backward(
    upstream: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """Gradient with respect to the logits."""
    c = _options(input, target, reduction, ignore_index, label_smoothing)
    return _laid_out(_loss.gradient(c, upstream, input, target, weight), input)


@cross_entropy.register_fake
def _(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int, label_smoothing: float
) -> Tensor:
    return functional.cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


@cross_entropy_backward.register_fake
def _(upstream: Tensor, input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(input)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, target, weight, *ctx.options = inputs
    ctx.save_for_backward(input, target, weight)


def _differentiate(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    input, target, weight = ctx.saved_tensors
    grad = torch.ops.fastnll.cross_entropy_backward(upstream, input, target, weight, *ctx.options)
    return grad, None, None, None, None, None


cross_entropy.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("fastnll::log_softmax", mutates_args=(), device_types="cpu")
def log_softmax(input: Tensor, dim: int) -> Tensor:
    """Logarithm of the softmax."""
    return _laid_out(_softmax.value(True, input, dim), input)


@torch.library.custom_op("fastnll::log_softmax_backward", mutates_args=(), device_types="cpu")
def log_softmax_backward(upstream: Tensor, output: Tensor, dim: int) -> Tensor:
    """Gradient with respect to the input."""
    return _laid_out(_softmax.gradient(True, upstream, output, dim), output)


@torch.library.custom_op("fastnll::softmax", mutates_args=(), device_types="cpu")
def softmax(input: Tensor, dim: int) -> Tensor:
    """Softmax."""
    return _laid_out(_softmax.value(False, input, dim), input)


@torch.library.custom_op("fastnll::softmax_backward", mutates_args=(), device_types="cpu")
def softmax_backward(upstream: Tensor, output: Tensor, dim: int) -> Tensor:
    """Gradient with respect to the input."""
    return _laid_out(_softmax.gradient(False, upstream, output, dim), output)


def _register_softmax(op: Any, backward: Any, name: str) -> None:
    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(output)

    def differentiate(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return getattr(torch.ops.fastnll, name + "_backward")(upstream, output, ctx.dim), None

    op.register_fake(lambda input, dim: torch.empty_like(input))
    backward.register_fake(lambda upstream, output, dim: torch.empty_like(output))
    op.register_autograd(differentiate, setup_context=save)


_register_softmax(log_softmax, log_softmax_backward, "log_softmax")
_register_softmax(softmax, softmax_backward, "softmax")


def _empty(like: Tensor | None, dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype) if like is None else torch.empty(like.shape, dtype=dtype)


def _compute(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize == 2 else dtype


@torch.library.custom_op("fastnll::linear_cross_entropy", mutates_args=(), device_types="cpu")
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss of a linear head in what it is computed in, and those gradients that are needed; the others are empty."""
    c = _options(input, target, reduction, ignore_index, label_smoothing)._replace(dtype=_compute(input.dtype))
    empty = [_empty(None, c.dtype) for _ in range(3)]
    if not any(needed):
        loss = _linear_node.value(c, input, linear_weight, target, bias, weight)
        return loss, empty[0], empty[1], empty[2]
    loss, grads = _linear_node.gradients(c, None, tuple(needed), input, linear_weight, target, bias, weight)
    a, b, d = (e if g is None else g for g, e in zip(grads, empty, strict=True))
    return loss, a, b, d


@torch.library.custom_op("fastnll::linear_cross_entropy_backward", mutates_args=(), device_types="cpu")
def linear_cross_entropy_backward(
    upstream: Tensor,
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the losses of the rows."""
    c = _options(input, target, reduction, ignore_index, label_smoothing)
    arguments = (input, linear_weight, target, bias, weight)
    grads = _linear_node.gradients(c, upstream, tuple(needed), *arguments)[1]
    a, b, d = (_empty(None, _compute(input.dtype)) if g is None else g for g in grads)
    return a, b, d


def _empty_grads(input: Tensor, linear_weight: Tensor, bias: Tensor | None, needed: list[bool]) -> list[Tensor]:
    tensors = (input, linear_weight, bias)
    return [_empty(t if want else None, _compute(input.dtype)) for t, want in zip(tensors, needed, strict=True)]


@linear_cross_entropy.register_fake
def _(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    needed: list[bool],
) -> tuple[Tensor, ...]:
    shape = input.shape[:-1] if reduction == "none" else ()
    loss = torch.empty(shape, dtype=_compute(input.dtype))
    return (loss, *_empty_grads(input, linear_weight, bias, needed))


@linear_cross_entropy_backward.register_fake
def _(upstream: Tensor, input: Tensor, linear_weight: Tensor, target: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    return tuple(_empty_grads(input, linear_weight, bias, rest[-1]))


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, reduction, ignore_index, label_smoothing, needed = inputs
    ctx.options = (reduction, ignore_index, label_smoothing)
    ctx.dtype, ctx.has_grads = tensors[0].dtype, any(needed)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*(output[1:] if ctx.has_grads else tensors))


def _differentiate_linear(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    needed = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
    if ctx.has_grads:
        grads = [g * upstream for g in ctx.saved_tensors]
    else:
        backward = torch.ops.fastnll.linear_cross_entropy_backward
        grads = backward(upstream, *ctx.saved_tensors, *ctx.options, needed)
    a, b, d = (g.to(ctx.dtype) if want else None for g, want in zip(grads, needed, strict=True))
    return a, b, None, d, None, None, None, None, None


linear_cross_entropy.register_autograd(_differentiate_linear, setup_context=_save_linear)
