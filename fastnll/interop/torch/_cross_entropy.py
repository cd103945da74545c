"""cross_entropy with PyTorch's signature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import _reduction, functional
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fastnll.errors import FastnllError, LabelError
from fastnll.interop.torch import _loss, _tensors

__all__ = ["cross_entropy"]

Tensor = torch.Tensor


class _CrossEntropy(torch.autograd.Function):
    """The node of the graph. The gradient comes with the loss, from one pass, and is given away in `backward`.

    A second pass backward finds it gone and computes it from the saved logits; so does one whose upstream gradient
    would round it twice.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, made: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(input, target, weight)
        loss: Tensor
        ctx.call, loss, ctx.unit = made
        return loss

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> Any:
        (upstream,) = upstreams
        unit = ctx.__dict__.pop("unit", None)
        if _tensors.needs_composite(upstream):
            return _composite(ctx, upstream), None, None, None
        if unit is not None:
            factor = upstream.item()
            if factor == 1.0:
                return unit, None, None, None
            if _scales(factor, unit.dtype):
                return unit.mul_(factor), None, None, None
            del unit
        input, target, weight = ctx.saved_tensors
        grad = _tensors.recorded(
            "fastnll::cross_entropy_backward", _loss.gradient, ctx.call, upstream, input, target, weight
        )
        return grad, None, None, None


# Function.apply looks for function transforms, which `way` has done.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _CrossEntropy).apply


def _scales(factor: float, dtype: torch.dtype) -> bool:
    """Whether a rounded gradient may be multiplied: no second error that anyone would see."""
    if dtype.itemsize > 2:
        return math.isfinite(factor)
    # Small gradients of float16 are lost before a loss scale could save them; bfloat16 has the range of float32.
    return dtype is torch.bfloat16 and math.isfinite(factor) and math.frexp(factor)[0] in (0.5, -0.5)


def _composite(ctx: Any, upstream: Tensor) -> Tensor:
    """Return the gradient through PyTorch's own operators: differentiable again, and batched where upstream is."""
    input, target, weight = ctx.saved_tensors
    c: _loss.Call = ctx.call
    with torch.enable_grad():
        loss = functional.cross_entropy(
            input.to(c.dtype),
            target.to(c.dtype) if c.soft else target,
            None if weight is None else weight.to(c.dtype),
            ignore_index=c.ignore_index,
            reduction=c.reduction,
            label_smoothing=c.label_smoothing,
        )
    grad: Tensor
    (grad,) = torch.autograd.grad(loss, input, upstream, create_graph=torch.is_grad_enabled())
    return grad


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of logits and targets; `torch.nn.functional.cross_entropy`, faster on CPUs.

    Parameters
    ----------
    input : Tensor (V,), (N, V) or (N, V, d1, ...)
        Logits, class axis second: float64, float32, float16 or bfloat16, of any strides.
    target : Tensor
        Class ids, int64 or uint8, of the shape of `input` without the class axis; or probabilities of the shape
        and dtype of `input`.
    weight : Tensor (V,), optional
        Weight of each class.
    size_average, reduce : bool, optional
        Deprecated by PyTorch, with its meaning.
    ignore_index : int
        Target id that marks a row as absent.
    reduction : {"mean", "sum", "none"}
    label_smoothing : float
        From 0 to 1.

    Returns
    -------
    Tensor
        In nats; of the dtype that PyTorch returns, autocast included.

    Raises
    ------
    LabelError
        An IndexError: if a target is no class id, with its position and how many there are.
    RuntimeError, ValueError, TypeError
        PyTorch's own, for whatever PyTorch refuses.

    Notes
    -----
    The gradient is computed together with the loss, in one pass over the logits, unless `reduction` is "none" or hooks
    watch saved tensors (checkpoints); then in the backward pass. Other devices, tensor subclasses and function
    transforms (vmap, jvp) are passed to PyTorch's own function, and so are few logits, for which it is faster. Where
    PyTorch returns NaN although a value exists, this may return the value: an ignored row holding NaN has gradient 0,
    a class of logit -inf does not spoil label smoothing or one-hot probabilities.

    References
    ----------
    `fastnll.cross_entropy` has the formula.

    Examples
    --------
    >>> logits = torch.zeros(2, 4, requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([1, 3]))
    >>> loss.backward()
    >>> round(loss.item(), 6), logits.grad[0].tolist()
    (1.386294, [0.125, -0.375, 0.125, 0.125])
    """
    if _tensors.few(input):
        return functional.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    if torch.compiler.is_compiling():
        if size_average is not None or reduce is not None:
            reduction = _reduction.legacy_get_string(size_average, reduce)
        return _watched(input, target, weight, ignore_index, reduction, label_smoothing)
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if has_torch_function_variadic(input, target, weight):
        if _tensors.overridden(input, target, weight):
            return _theirs(input, target, weight, ignore_index, reduction, label_smoothing)
        return handle_torch_function(
            cross_entropy,
            (input, target, weight),
            input,
            target,
            weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    way = _tensors.way(input, target, optional=[weight] if weight is not None else ())
    if way == _tensors.OP:
        return _watched(input, target, weight, ignore_index, reduction, label_smoothing)
    if way == _tensors.DIRECT:
        found = _direct(input, target, weight, ignore_index, reduction, label_smoothing)
        if found is not None:
            return found
    return _theirs(input, target, weight, ignore_index, reduction, label_smoothing)


def _direct(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor | None:
    """Return the loss by a kernel, or None for what PyTorch has to do or to refuse."""
    c = _loss.call(input.shape, input.dtype, target, weight, reduction, ignore_index, label_smoothing)
    if c is None:
        return None
    wants = input.requires_grad and torch.is_grad_enabled()
    unit = None
    try:
        if wants and reduction != "none" and not _tensors.hooked():
            loss, unit = _tensors.recorded("fastnll::cross_entropy", _loss.value_and_gradient, c, input, target, weight)
        else:
            loss = _tensors.recorded("fastnll::cross_entropy", _loss.value, c, input, target, weight)
    except LabelError:
        raise
    except FastnllError:
        return None
    return _apply(input, target, weight, (c, loss, unit)) if wants else loss


def _theirs(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    return functional.cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def _watched(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    """Return the loss by the operator of the library, which compilers and tracers can see."""
    c = None
    if _tensors.traced_way(input, target, weight) == _tensors.OP:
        c = _loss.call(input.shape, input.dtype, target, weight, reduction, ignore_index, label_smoothing)
    if c is None:
        return _theirs(input, target, weight, ignore_index, reduction, label_smoothing)
    # Autocast gives a float32 loss of 16-bit logits: the cast is fused by whoever watches.
    input, weight = input.to(c.dtype), None if weight is None else weight.to(c.dtype)
    target = target.to(c.dtype) if c.soft else target
    found: Tensor = torch.ops.fastnll.cross_entropy(input, target, weight, reduction, ignore_index, c.label_smoothing)
    return found
