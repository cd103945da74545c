"""The SGD step on one array."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from fastnll import events
from fastnll.arrays import shared_array
from fastnll.dtypes import FLOATS, float_type
from fastnll.errors import DTypeError, OptionError, ShapeError
from fastnll.kernels.spec import SgdTask
from fastnll.plan import make_plan

__all__ = ["sgd_update"]


def sgd_update(
    param: npt.NDArray[Any],
    grad: npt.NDArray[Any],
    momentum_buffer: npt.NDArray[Any] | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float = 1.0,
    first_step: bool = False,
    threads: SupportsIndex | None = None,
) -> None:
    r"""Take one step of SGD in place, in one pass over each array.

    With :math:`g = \pm s \nabla + \lambda\theta` the momentum buffer becomes :math:`b \leftarrow \mu b + (1-\tau) g`
    (:math:`b \leftarrow g` on the first step). The direction :math:`d` is :math:`b`, or :math:`g + \mu b` with
    Nesterov's form, and :math:`\theta \leftarrow \theta - \eta d`: the order of ``torch.optim.SGD``.

    Parameters
    ----------
    param : ndarray
        Parameters of any shape, C-contiguous and writeable; float64, float32, float16 or bfloat16.
    grad : ndarray
        Gradient, of the same shape and dtype. Not modified.
    momentum_buffer : ndarray, optional
        Same shape and dtype; needed when `momentum` is not 0. Updated in place.
    lr, momentum, dampening, weight_decay, grad_scale : float
        eta, mu, tau, lambda and s of the formula.
    nesterov, maximize : bool
        Use Nesterov's direction; ascend instead of descend (the sign of the formula).
    first_step : bool
        Initialise the buffer with g, as PyTorch does.
    threads : int, optional
        Threads for this call.

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other or cannot be updated in place.
    OptionError
        If momentum is asked for without a buffer.

    References
    ----------
    B. T. Polyak (1964); I. Sutskever et al., "On the importance of initialization and momentum in deep
    learning" (2013).

    Examples
    --------
    >>> import numpy as np
    >>> p = np.array([1.0, 2.0])
    >>> sgd_update(p, np.array([0.5, -0.5]), lr=0.1)
    >>> p.tolist()
    [0.95, 2.05]
    """
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    param, grad = shared_array(param, "param"), shared_array(grad, "grad")
    momentum_buffer = shared_array(momentum_buffer, "momentum_buffer")
    arrays = {"param": param, "grad": grad}
    if momentum_buffer is not None:
        arrays["momentum_buffer"] = momentum_buffer
    elif momentum:
        raise OptionError(f"momentum_buffer: expected an array beside momentum={momentum:g}, got None")
    for name, a in arrays.items():
        if not isinstance(a, np.ndarray):
            raise DTypeError(f"{name}: expected a numpy array, got {type(a).__name__}")
        if a.shape != param.shape:
            raise ShapeError(f"{name}: expected shape {param.shape} (that of param), got {a.shape}")
        if a.dtype != param.dtype or float_type(a.dtype) is None:
            expected = param.dtype if float_type(param.dtype) else ", ".join(FLOATS)
            raise DTypeError(f"{name}: expected dtype {expected}, got {a.dtype}")
        if name != "grad" and not (a.flags.c_contiguous and a.flags.writeable):
            raise DTypeError(f"{name}: expected a writeable C-contiguous array, for it is updated in place")
    if np.may_share_memory(param, grad) or (
        momentum_buffer is not None
        and (np.may_share_memory(param, momentum_buffer) or np.may_share_memory(grad, momentum_buffer))
    ):
        raise OptionError("param, grad, momentum_buffer: expected separate memory, got arrays that overlap")
    plan = make_plan(param.size, threads)
    plan.backend.sgd_update(
        SgdTask(
            param.reshape(-1),
            np.ascontiguousarray(grad).reshape(-1),
            momentum_buffer.reshape(-1) if momentum_buffer is not None and momentum else None,
            float(lr),
            float(momentum),
            float(dampening),
            float(weight_decay),
            float(grad_scale),
            bool(nesterov),
            bool(maximize),
            bool(first_step),
            plan.threads,
        )
    )
    if recorder is not None:
        recorder.done(events.OP, "sgd_update", start)
