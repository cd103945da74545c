"""SGD with PyTorch's interface: one pass over each parameter, its gradient and its momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import _use_grad_for_differentiable
from torch.optim.sgd import sgd

from fastnll import ops
from fastnll.errors import FastnllError
from fastnll.interop.torch import _tensors

__all__ = ["SGD"]

Tensor = torch.Tensor

# Below this size three operators of PyTorch are over before our checks are. Their 16-bit arithmetic rounds after each
# of them, so only 32 and 64 bits go there.
_SMALL = 2048


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` in one pass over memory; a drop-in, with its arguments, groups, hooks and ``state_dict``.

    CPU parameters of float64, float32, float16 and bfloat16 with dense gradients are updated by `fastnll.sgd_update`:
    sixteen-bit parameters with float32 arithmetic, rounded once. (PyTorch 2.13's own ``fused=True`` leaves full
    vectors of 16-bit parameters unchanged.) Everything else is updated by PyTorch's own code: other devices, sparse
    gradients, non-contiguous parameters, ``differentiable=True``, a learning rate that requires a gradient, steps
    under torch.compile. `foreach` and `fused` are accepted, and do not matter where fastnll updates.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused
        As for `torch.optim.SGD`.

    Raises
    ------
    ValueError, RuntimeError, TypeError
        PyTorch's own, for options that do not go together.

    References
    ----------
    `fastnll.sgd_update` has the formula.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = SGD([weight], lr=0.5)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.tolist()
    [0.5, 1.5]
    """

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss again, with gradients, and returns it.

        Returns
        -------
        What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)
        scale = getattr(self, "grad_scale", None)
        if found_inf is not None and found_inf.item():
            return loss
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if scale is not None:  # as PyTorch's fused step does, the gradients are left unscaled
                for p in params:
                    p.grad.div_(scale.to(p.grad.device))
            options = None if torch.compiler.is_compiling() else _numbers(group)
            left = params if options is None else [p for p in params if not self._updated(p, options)]
            if left:
                self._update_theirs(left, group)
        return loss

    def _updated(self, p: Tensor, options: dict[str, Any]) -> bool:
        """Update a parameter by fastnll, or return False."""
        grad = p.grad
        assert grad is not None
        state = self.state[p] if options["momentum"] else {}
        buffer = state.get("momentum_buffer")
        tensors = (p, grad) if buffer is None else (p, grad, buffer)
        if _tensors.way(*tensors) != _tensors.DIRECT or not _tensors.is_float(p.dtype):
            return False
        if p.numel() < (1 if p.dtype.itemsize == 2 else _SMALL):
            return False
        if not all(t.is_contiguous() and t.dtype is p.dtype and t.shape == p.shape for t in tensors):
            return False
        first = bool(options["momentum"]) and buffer is None
        if first:
            buffer = _tensors.uninitialised(p.shape, p.dtype)[1]
        param, slope = _tensors.array_of(p), _tensors.array_of(grad)
        momentum = None if buffer is None else _tensors.array_of(buffer)
        try:
            ops.sgd_update(param, slope, momentum, first_step=first, threads=_tensors.threads(), **options)
        except FastnllError:  # arrays that overlap
            return False
        # Written past PyTorch: whoever saved the old values for a backward pass is told.
        torch.autograd.graph.increment_version([p] if buffer is None else [p, buffer])
        if first:
            state["momentum_buffer"] = buffer
        return True

    def _update_theirs(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters by PyTorch's own code."""
        buffers = [self.state[p].get("momentum_buffer") if group["momentum"] else None for p in params]
        grads = [p.grad for p in params]
        sgd(
            params,
            grads,  # type: ignore[arg-type]
            buffers,
            has_sparse_grad=any(g is not None and g.is_sparse for g in grads),
            foreach=group["foreach"] or False,
            # PyTorch 2.13's fused step does not update 16-bit parameters on the CPU, and takes no sparse gradients.
            fused=False,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        if group["momentum"]:
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer


def _numbers(group: dict[str, Any]) -> dict[str, Any] | None:
    """Return a group's options as numbers, or None where one is differentiated."""
    if group["differentiable"]:
        return None
    options = {name: group[name] for name in ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")}
    for name, option in options.items():
        if isinstance(option, Tensor):
            if option.requires_grad:
                return None
            options[name] = option.item()
    return options
