"""The loss of a tensor, and its gradient, as arrays: what both the direct way and the operators call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fastnll.interop.torch import _tensors
from fastnll.losses import CrossEntropy

__all__ = ["Call", "as_tensor", "call", "checked", "gradient", "value", "value_and_gradient"]

Array = npt.NDArray[Any]
Tensor = torch.Tensor

_REDUCTIONS = ("mean", "sum", "none")


class Call(NamedTuple):
    """The options of one call of the loss, as PyTorch names them.

    Attributes
    ----------
    reduction : {"mean", "sum", "none"}
    ignore_index : int
    label_smoothing : float
    soft : bool
        Whether the targets are probabilities.
    dtype : torch.dtype
        Of the loss.
    """

    reduction: str
    ignore_index: int
    label_smoothing: float
    soft: bool
    dtype: torch.dtype


def call(
    shape: Sequence[int],
    dtype: torch.dtype,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
) -> Call | None:
    """Return the options of a call for logits of a shape and dtype, or None where PyTorch has to compute or to refuse.

    Shapes are compared when the arrays are read, except for what fastnll takes and PyTorch does not.
    """
    if not _tensors.is_float(dtype) or target.requires_grad or not len(shape):
        return None
    half_autocast = dtype.itemsize == 2 and torch.is_autocast_enabled("cpu")
    if weight is not None:
        fits = weight.dtype is dtype or (half_autocast and weight.dtype is torch.float32)
        if not fits or weight.requires_grad or weight.dim() != 1:
            return None
    if target.dtype is torch.int64 or target.dtype is torch.uint8:
        # PyTorch takes bytes for class ids in some of its paths only.
        byte = target.dtype is torch.uint8 and (len(shape) > 2 or (weight is not None and label_smoothing))
        if target.dim() != len(shape) - 1 or byte:
            return None
        soft = False
    elif target.dtype is dtype and target.shape == shape:
        soft = True
    else:
        return None
    if reduction not in _REDUCTIONS or not isinstance(ignore_index, int) or (soft and ignore_index >= 0):
        return None
    if not isinstance(label_smoothing, float | int) or not 0.0 <= label_smoothing <= 1.0:
        return None
    return Call(reduction, ignore_index, float(label_smoothing), soft, torch.float32 if half_autocast else dtype)


# The checked options of fastnll, by those of the call: to check them takes longer than a small batch.
_checked: dict[tuple[Any, ...], CrossEntropy] = {}


def checked(c: Call, ndim: int | None, weight: Tensor | None) -> CrossEntropy:
    """Return fastnll's loss for a call; for logits of `ndim` axes, or for the linear head where None."""
    threads = _tensors.threads()
    key = (c.reduction, c.ignore_index, c.label_smoothing, c.soft, ndim, threads)
    found = _checked.get(key) if weight is None else None
    if found is None:
        options: dict[str, Any] = {
            "reduction": c.reduction,
            "ignore_index": None if c.soft else c.ignore_index,
            "label_smoothing": c.label_smoothing,
            "axis": -1 if ndim is None or ndim == 1 else 1,
            "threads": threads,
        }
        if weight is not None:
            options["weight"] = weight.detach().double().numpy()
        if c.soft:
            options["validate"] = "off"  # PyTorch takes any numbers for probabilities
        found = CrossEntropy(**options)
        if weight is None and len(_checked) < 256:
            _checked[key] = found
    return found


def value(c: Call, input: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return the loss.

    Raises
    ------
    FastnllError
        For what fastnll refuses; the caller asks PyTorch then.
    """
    loss = checked(c, input.dim(), weight)(_tensors.array_of(input), _tensors.array_of(target))
    return as_tensor(c, loss)


def value_and_gradient(c: Call, input: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient, from one pass over the logits."""
    x = _tensors.array_of(input)
    out, grad = _tensors.result_like(x)
    loss, _ = checked(c, input.dim(), weight).value_and_grad(x, _tensors.array_of(target), out=out)
    return as_tensor(c, loss), grad


def gradient(c: Call, upstream: Tensor, input: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return the gradient times an upstream gradient of the loss' shape, rounded once."""
    x = _tensors.array_of(input)
    out, grad = _tensors.result_like(x)
    up = upstream.detach().double().numpy()
    loss = checked(c, input.dim(), weight)
    loss.value_and_grad(x, _tensors.array_of(target), grad_output=up, out=out)
    return grad


def as_tensor(c: Call, loss: Any) -> Tensor:
    """Return the loss as the tensor that PyTorch returns."""
    if isinstance(loss, float):
        return _tensors.scalar(loss, c.dtype)
    return torch.from_numpy(np.asarray(loss)).to(c.dtype)
