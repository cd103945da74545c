"""Calls of the losses for hypothesis: every dtype, layout, kind of target and option; and their outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

__all__ = ["DTYPES", "Case", "calls", "layouts", "outcome", "same", "tolerance"]

Tensor = torch.Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Case:
    """One call: tensors, keywords, and what multiplies the loss before the backward pass."""

    input: Tensor
    target: Tensor
    weight: Tensor | None
    options: dict[str, Any] = field(default_factory=dict)
    upstream: float = 1.0


def _strided(draw: Callable[[Any], Any], x: Tensor) -> Tensor:
    """Return the numbers of `x` in another layout."""
    layout = draw(st.sampled_from(("plain", "last", "slice", "step", "expand", "offset")))
    if layout == "last" and x.dim() > 1:  # the class axis last in memory, as models make it
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "slice":
        return torch.cat([x, x.flip(-1)], -1)[..., : x.shape[-1]]
    if layout == "step":
        return torch.stack([x, -x], -1).flatten(-2)[..., ::2]
    if layout == "expand" and x.dim() > 1:
        return x[:1].expand_as(x)
    if layout == "offset":
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)
    return x


@st.composite
def layouts(draw: Callable[[Any], Any], dtype: torch.dtype, classes: int | None = None) -> Tensor:
    """Draw logits (V,), (N, V) or (N, V, ...) that are no softmax of constants."""
    v = draw(st.integers(1, 40)) if classes is None else classes
    shape = draw(st.sampled_from(((v,), (1, v), (3, v), (70, v), (2, v, 5), (3, v, 1), (2, v, 3, 4))))
    seed = draw(st.integers(0, 2**16))
    x = 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _strided(draw, x.to(dtype))


@st.composite
def calls(draw: Callable[[Any], Any], soft: bool = True, smoothing: bool = True) -> Case:
    """Draw a call of cross_entropy, or of what takes a part of its arguments."""
    dtype = draw(st.sampled_from(DTYPES))
    x = draw(layouts(dtype))
    axis = 0 if x.dim() == 1 else 1
    v, shape = x.shape[axis], (*x.shape[:axis], *x.shape[axis + 1 :])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    options: dict[str, Any] = {"reduction": draw(st.sampled_from(("mean", "sum", "none")))}
    weight = torch.rand(v, generator=generator).to(dtype) if draw(st.booleans()) else None
    if soft and draw(st.integers(0, 3)) == 0:
        target = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(dtype)
        if weight is not None and dtype.itemsize == 2:
            weight = None  # PyTorch computes these in float32 and says so by the dtype of the loss
    else:
        target = torch.randint(v, shape, generator=generator)
        ignored = draw(st.sampled_from((-100, 0, v - 1, None)))
        if ignored is not None:
            options["ignore_index"] = ignored
            target = torch.where(torch.rand(shape, generator=generator) < 0.3, ignored, target)
        if ignored != -100 and v <= 256 and draw(st.booleans()):
            target = target.to(torch.uint8)
    if smoothing:
        options["label_smoothing"] = draw(st.sampled_from((0.0, 0.1, 1.0)))
    return Case(x, target, weight, options, draw(st.sampled_from((1.0, 0.25, -3.3))))


def tolerance(dtype: torch.dtype) -> float:
    """Return the relative error that rounding explains, where both sides round several times."""
    return {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}[dtype]


def outcome(function: Callable[..., Tensor], case: Case, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient, computed in `dtype` if that is given."""

    def cast(t: Tensor | None) -> Tensor | None:
        return t if t is None or dtype is None or not t.is_floating_point() else t.to(dtype)

    x = case.input.detach().to(dtype or case.input.dtype).requires_grad_()
    loss = function(x, cast(case.target), weight=cast(case.weight), **case.options)
    upstream = case.upstream * torch.linspace(1, 2, max(1, loss.numel()), dtype=loss.dtype)
    loss.backward(upstream[: loss.numel()].reshape(loss.shape))
    assert x.grad is not None
    return loss.detach(), x.grad


def same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Assert equality within what rounding to `dtype` explains."""
    scale = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 1.0
    bound = tolerance(dtype)
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=bound, atol=bound * max(scale, 1e-3), equal_nan=True
    )
