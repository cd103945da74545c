"""nll_loss with PyTorch's signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import _reduction, functional
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fastnll.interop.torch import _loss, _tensors

__all__ = ["nll_loss"]

Tensor = torch.Tensor


def _rows(c: _loss.Call, input: Tensor, target: Tensor, weight: Tensor | None) -> tuple[int, Tensor, Tensor] | None:
    """Return the class axis, ids that are classes, and what each row counts; None if a live id is no class."""
    axis = 0 if input.dim() == 1 else 1
    live = target != c.ignore_index
    ids = target.where(live, 0).long()
    if bool(((ids < 0) | (ids >= input.shape[axis])).any()):
        return None
    return axis, ids, live.double() if weight is None else weight.double()[ids] * live


def _value(c: _loss.Call, input: Tensor, target: Tensor, weight: Tensor | None) -> Tensor | None:
    """Return the loss, or None for what PyTorch refuses."""
    if target.shape != (*input.shape[:1], *input.shape[2:])[input.dim() == 1 :]:
        return None
    if weight is not None and weight.shape[0] != input.shape[min(1, input.dim() - 1)]:
        return None
    rows = _rows(c, input, target, weight)
    if rows is None:
        return None
    axis, ids, factor = rows
    picked = input.detach().gather(axis, ids.unsqueeze(axis)).squeeze(axis).double()
    # What an ignored row holds does not matter, not even infinity.
    losses = torch.where(factor == 0.0, 0.0, -picked * factor) + 0.0
    if c.reduction == "none":
        return losses.to(c.dtype)
    total = losses.sum()
    return (total / factor.sum() if c.reduction == "mean" else total).to(c.dtype)


def _gradient(c: _loss.Call, upstream: Tensor, input: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return zeros with minus the row's factor at its target."""
    _, grad = _tensors.result_like(_tensors.array_of(input))
    rows = _rows(c, input, target, weight)
    assert rows is not None
    axis, ids, factor = rows
    up = upstream.double()
    if c.reduction == "mean":
        up = up / factor.sum()
    # Ignored rows put a 0 on their class 0, which is what stands there.
    values = (-up * factor).where(target != c.ignore_index, 0.0).to(grad.dtype).unsqueeze(axis)
    return grad.zero_().scatter_(axis, ids.unsqueeze(axis), values)


class _NllLoss(torch.autograd.Function):
    """The node of the graph."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, made: list[Any]) -> Tensor:
        ctx.save_for_backward(input, target, weight)
        loss: Tensor
        ctx.call, loss = made
        return loss

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> Any:
        (upstream,) = upstreams
        input, target, weight = ctx.saved_tensors
        c = ctx.call
        if not _tensors.needs_composite(upstream):
            grad = _tensors.recorded("fastnll::nll_loss_backward", _gradient, c, upstream, input, target, weight)
            return grad, None, None, None
        with torch.enable_grad():
            loss = _theirs(
                input.to(c.dtype), target, None if weight is None else weight.to(c.dtype), c.ignore_index, c.reduction
            )
        grad = torch.autograd.grad(loss, input, upstream, create_graph=torch.is_grad_enabled())[0]
        return grad, None, None, None


_apply: Callable[..., Tensor] = super(torch.autograd.Function, _NllLoss).apply


def _theirs(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> Tensor:
    return functional.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of given log-probabilities; `torch.nn.functional.nll_loss`.

    Parameters
    ----------
    input : Tensor (V,), (N, V) or (N, V, d1, ...)
        Log-probabilities, class axis second; only the targets' are read.
    target : Tensor
        Class ids, int64 or uint8, of the shape of `input` without the class axis.
    weight : Tensor (V,), optional
        Weight of each class.
    size_average, reduce : bool, optional
        Deprecated by PyTorch, with its meaning.
    ignore_index : int
        Target id that marks a row as absent.
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor
        In nats. Sums are held in float64 before they are rounded to the input's dtype.

    Raises
    ------
    IndexError, RuntimeError, ValueError, TypeError
        PyTorch's own.

    Notes
    -----
    What costs time is the gradient, zeros but for one number a row; its memory is reused from step to step. A compiler
    gets PyTorch's own operator, which it fuses.

    References
    ----------
    `fastnll.nll_loss` has the formula.

    Examples
    --------
    >>> nll_loss(torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log(), torch.tensor([0, 0]), reduction="sum")
    tensor(2.0794)
    """
    if _tensors.few(input):
        return functional.nll_loss(input, target, weight, size_average, ignore_index, reduce, reduction)
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if torch.compiler.is_compiling():
        return _theirs(input, target, weight, ignore_index, reduction)
    if has_torch_function_variadic(input, target, weight):
        if _tensors.overridden(input, target, weight):
            return _theirs(input, target, weight, ignore_index, reduction)
        return handle_torch_function(
            nll_loss,
            (input, target, weight),
            input,
            target,
            weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
        )
    way = _tensors.way(input, target, optional=[weight] if weight is not None else ())
    if way == _tensors.DIRECT:
        c = _loss.call(input.shape, input.dtype, target, weight, reduction, ignore_index, 0.0)
        if c is not None and not c.soft:
            loss = _tensors.recorded("fastnll::nll_loss", _value, c, input, target, weight)
            if loss is not None:
                wants = input.requires_grad and torch.is_grad_enabled()
                return _apply(input, target, weight, [c, loss]) if wants else loss
    return _theirs(input, target, weight, ignore_index, reduction)
