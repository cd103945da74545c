"""linear_cross_entropy with PyTorch's signature."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fastnll.errors import FastnllError, LabelError
from fastnll.interop.torch import _linear_node, _loss, _tensors

__all__ = ["linear_cross_entropy"]

Tensor = torch.Tensor


def _theirs(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    **options: Any,
) -> Tensor:
    return functional.linear_cross_entropy(
        input, linear_weight, target, linear_bias=linear_bias, weight=weight, **options
    )


def _fits(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None) -> bool:
    """Whether the tensors are those of one head, so that PyTorch has nothing to refuse."""
    if input.dim() not in (1, 2) or linear_weight.dim() != 2 or input.shape[-1] != linear_weight.shape[1]:
        return False
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:1]:
        return False
    dtypes = {t.dtype for t in (input, linear_weight, linear_bias) if t is not None}
    mixed = torch.is_autocast_enabled("cpu") and torch.float64 not in dtypes
    return all(_tensors.is_float(d) for d in dtypes) and (len(dtypes) == 1 or mixed)


def _computed(
    way: int,
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int | None,
    label_smoothing: float,
) -> Tensor | None:
    """Return the loss by fastnll, or None for what PyTorch has to do or to refuse."""
    if not _fits(input, linear_weight, linear_bias):
        return None
    if torch.is_autocast_enabled("cpu") and input.dtype is not torch.float64:
        # Autocast would round 32-bit operands to 16 bits for a faster product; here nothing is gained by that.
        different = len({t.dtype for t in (input, linear_weight, linear_bias) if t is not None}) > 1
        if different:
            input, linear_weight = input.float(), linear_weight.float()
            linear_bias = None if linear_bias is None else linear_bias.float()
    shape = (*input.shape[:-1], linear_weight.shape[0])
    c = _loss.call(
        shape,
        input.dtype,
        target,
        weight,
        reduction,
        -100 if ignore_index is None else ignore_index,
        label_smoothing,
    )
    if c is None or (c.soft and ignore_index is not None):
        return None
    tensors = (input, linear_weight, linear_bias)
    grad = torch.is_grad_enabled()
    needed = [grad and t is not None and t.requires_grad for t in tensors]
    if way == _tensors.OP:
        return _watched(c, input, linear_weight, target, linear_bias, weight, needed)
    unit = None
    arguments = (input, linear_weight, target, linear_bias, weight)
    try:
        if any(needed) and reduction != "none" and not _tensors.hooked():
            name = "fastnll::linear_cross_entropy"
            loss, unit = _tensors.recorded(name, _linear_node.gradients, c, None, needed, *arguments)
        else:
            loss = _tensors.recorded("fastnll::linear_cross_entropy", _linear_node.value, c, *arguments)
    except LabelError:
        raise
    except FastnllError:
        return None
    if not any(needed):
        return loss
    return _linear_node.apply(*tensors, target, weight, [c, loss, unit])


def _watched(
    c: _loss.Call,
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    needed: list[bool],
) -> Tensor:
    """Return the loss by the operator of the library, which compilers and tracers can see."""
    forward = needed if c.reduction != "none" else [False] * 3
    found = torch.ops.fastnll.linear_cross_entropy(
        input, linear_weight, target, linear_bias, weight, c.reduction, c.ignore_index, c.label_smoothing, forward
    )
    loss: Tensor = found[0]
    return loss.to(c.dtype)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """Return the loss of ``input @ linear_weight.T + linear_bias``; `torch.nn.functional.linear_cross_entropy`.

    The logits are never held, whatever the options: a chunk of them is worked on at a time.

    Parameters
    ----------
    input : Tensor (D,) or (N, D)
        Features: float64, float32, float16 or bfloat16.
    linear_weight : Tensor (V, D)
        One row per class. Further axes, (V, d1, ..., D), go to PyTorch.
    target : Tensor
        Class ids () or (N,), int64 or uint8; or probabilities (V,) or (N, V) of the dtype of `input`.
    linear_bias : Tensor (V,), optional
    weight : Tensor (V,), optional
        Weight of each class.
    reduction : {"mean", "sum", "none"}
    ignore_index : int, optional
        Target id that marks a row as absent: -100 where None. Not beside probabilities.
    label_smoothing : float
        From 0 to 1.
    options : torch.nn.LinearCrossEntropyOptions, optional
        Taken for compatibility: nothing needs to be chosen, and gradients may be asked for again and again.

    Returns
    -------
    Tensor
        In nats, of the dtype of `input`; float32 or better under autocast.

    Raises
    ------
    LabelError
        An IndexError: if a target is no class id.
    RuntimeError, ValueError, TypeError
        PyTorch's own.

    Notes
    -----
    For the mean and the sum the gradients are computed together with the loss; for "none", and where hooks watch saved
    tensors, in the backward pass. Small heads, other devices and function transforms go to PyTorch's own function.

    References
    ----------
    `fastnll.linear_cross_entropy` has the references.

    Examples
    --------
    >>> hidden, weight = torch.ones(3, 2), torch.zeros(4, 2, requires_grad=True)
    >>> loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2]))
    >>> loss.backward()
    >>> round(loss.item(), 6), weight.grad[3].tolist()
    (1.386294, [0.25, 0.25])
    """
    tensors = (input, linear_weight, target, linear_bias, weight)
    named: dict[str, Any] = {
        "reduction": reduction,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "options": options,
    }
    compiling = torch.compiler.is_compiling()
    if not compiling and has_torch_function_variadic(*tensors):
        if _tensors.overridden(*tensors):
            return _theirs(*tensors, **named)
        named.update(linear_bias=linear_bias, weight=weight)
        return handle_torch_function(linear_cross_entropy, tensors, *tensors[:3], **named)
    way = _tensors.traced_way(*tensors) if compiling else _tensors.way(*tensors[:3], optional=tensors[3:])
    known = options is None or isinstance(options, torch.nn.LinearCrossEntropyOptions)
    if way != _tensors.THEIRS and known and (way == _tensors.OP or _worth_it(input, linear_weight)):
        found = _computed(way, *tensors, reduction, ignore_index, label_smoothing)
        if found is not None:
            return found
    return _theirs(*tensors, **named)


def _worth_it(input: Tensor, linear_weight: Tensor) -> bool:
    if linear_weight.dim() != 2 or input.dim() == 0:
        return False
    return (input.numel() // max(1, input.shape[-1])) * linear_weight.shape[0] > _tensors.SMALL
