"""sgd_update inside ``njit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll import ops
from fastnll.errors import DTypeError, OptionError
from fastnll.interop.numba._rows import compiles_to, given, named, require_floats, same_shape, types
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.elementwise import _direction


@helper
def _step(param: Any, grad: Any, buffer: Any, numbers: Any, momentum: bool, first: bool, nesterov: bool) -> None:
    same_shape(grad.shape, param.shape)
    same_shape(buffer.shape, param.shape)
    p, b = param.reshape(param.size), buffer.reshape(buffer.size)
    g = np.ascontiguousarray(grad).reshape(grad.size)
    _direction(p, g, b, p.size, numbers, 1 if momentum else 0, 1 if first else 0, 1 if nesterov else 0)


@compiles_to(ops.sgd_update)
def _sgd_update(
    param: Any,
    grad: Any,
    momentum_buffer: Any = None,
    lr: Any = None,
    momentum: Any = 0.0,
    dampening: Any = 0.0,
    nesterov: Any = False,
    weight_decay: Any = 0.0,
    maximize: Any = False,
    grad_scale: Any = 1.0,
    first_step: Any = False,
) -> Callable[..., Any]:
    if not given(lr):
        raise OptionError("lr: expected a number, got none")
    arrays = {"param": param, "grad": grad}
    has_buffer = given(momentum_buffer)
    if has_buffer:
        arrays["momentum_buffer"] = momentum_buffer
    for name, a in arrays.items():
        require_floats(name, a)
        if a.dtype != param.dtype or a.ndim != param.ndim:
            raise DTypeError(f"{name}: expected an array like {param} inside njit, got {a}")
        if name != "grad" and not (a.layout == "C" and a.mutable):
            raise DTypeError(f"{name}: expected a writeable C-contiguous array, for it is updated in place, got {a}")
    if not has_buffer and not isinstance(momentum, float | int | types.Omitted):
        raise OptionError("momentum_buffer: expected an array beside momentum, got None")

    def step(
        param: Any,
        grad: Any,
        momentum_buffer: Any = None,
        lr: Any = None,
        momentum: Any = 0.0,
        dampening: Any = 0.0,
        nesterov: Any = False,
        weight_decay: Any = 0.0,
        maximize: Any = False,
        grad_scale: Any = 1.0,
        first_step: Any = False,
    ) -> None:
        scale = -grad_scale if maximize else grad_scale
        numbers = np.array([float(lr), float(momentum), 1.0 - dampening, float(weight_decay), float(scale)])
        used = momentum_buffer if has_buffer else param
        _step(param, grad, used, numbers.astype(param.dtype), has_buffer and momentum != 0.0, first_step, nesterov)

    return named(step, f"sgd_update_{has_buffer}")
