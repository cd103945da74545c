"""Between tensors and arrays, without copies; and which way a call takes.

Three ways lead through this package:

- *direct*: ordinary CPU tensors in eager mode. Nothing stands between the memory and the kernel, so the kernel is
  called at once; a dispatch through PyTorch would take longer than a small batch.
- *op*: something watches operators (torch.compile, torch.export, fake tensors, make_fx). The same work, as an operator
  of the ``fastnll`` library.
- *theirs*: everything else (other devices, tensor subclasses, vmap and the other transforms, forward-mode
  derivatives, dtypes without a kernel, and every call that is wrong) is PyTorch's own function, with its errors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd import forward_ad

from fastnll import config
from fastnll.buffers import pool

__all__ = [
    "DIRECT",
    "OP",
    "SMALL",
    "THEIRS",
    "array_of",
    "few",
    "hooked",
    "is_float",
    "needs_composite",
    "overridden",
    "recorded",
    "result_like",
    "scalar",
    "threads",
    "traced_way",
    "uninitialised",
    "watched",
    "way",
]

Array = npt.NDArray[Any]
Tensor = torch.Tensor
Result = TypeVar("Result")

DIRECT, OP, THEIRS = 0, 1, 2

# Up to this many logits (four times as many where no gradient is wanted) PyTorch's own call is over about when ours has
# looked at its arguments: some tens of microseconds.
SMALL = 1 << 15

try:
    from ml_dtypes import bfloat16 as _bfloat16
except ImportError:  # bfloat16 tensors then take PyTorch's own way
    bfloat16: np.dtype[Any] | None = None
else:
    bfloat16 = np.dtype(_bfloat16)

_NUMPY = {t: np.dtype(n) for t, n in ((torch.float64, "f8"), (torch.float32, "f4"), (torch.float16, "f2"))}
_TORCH = {n: t for t, n in _NUMPY.items()} | ({bfloat16: torch.bfloat16} if bfloat16 is not None else {})
_FLOATS = frozenset(_TORCH.values())
_PLAIN = (torch.Tensor, torch.nn.Parameter)
# A number of threads that was asked of fastnll itself is kept; else PyTorch's own number holds for both.
_env_threads = bool(os.environ.get("FASTNLL_NUM_THREADS"))

_dispatch_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._are_functorch_transforms_active
# autograd.grad(is_grads_batched=True) still runs on the first vmap, which has no levels.
_old_batched = torch._C._functorch.is_legacy_batchedtensor
_jit = torch._C._get_tracing_state
_profiling = torch._C._autograd._profiler_enabled


def is_float(dtype: torch.dtype) -> bool:
    """Whether the kernels take this dtype.

    Examples
    --------
    >>> is_float(torch.float16), is_float(torch.complex64)
    (True, False)
    """
    return dtype in _FLOATS


def watched() -> bool:
    """Whether a mode, a transform or a tracer has to see what is done to ordinary tensors.

    Examples
    --------
    >>> watched()
    False
    """
    return bool(_dispatch_modes() or _transforms() or forward_ad._current_level >= 0 or _jit() is not None)


def way(*tensors: Tensor, optional: Sequence[Tensor | None] = ()) -> int:
    """Return the way a call over these tensors takes: `DIRECT`, `OP` or `THEIRS`.

    Examples
    --------
    >>> way(torch.zeros(2), optional=[None]) == DIRECT, way(torch.zeros(2, device="meta")) == THEIRS
    (True, True)
    """
    if _transforms() or forward_ad._current_level >= 0 or _jit() is not None:
        return THEIRS
    modes = _dispatch_modes() > 0
    for tensor in (*tensors, *(t for t in optional if t is not None)) if optional else tensors:
        if type(tensor) not in _PLAIN and not (modes and isinstance(tensor, torch._subclasses.FakeTensor)):
            return THEIRS
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            return THEIRS
    return OP if modes else DIRECT


def few(input: Any) -> bool:
    """Whether these are so few logits that PyTorch's own function is faster.

    Examples
    --------
    >>> few(torch.zeros(8, 10)), few(torch.zeros(800, 1000))
    (True, False)
    """
    if type(input) not in _PLAIN or _jit() is not None:  # sizes are tensors in a trace
        return False
    number = input.numel()
    return number <= SMALL or (number <= 4 * SMALL and not (input.requires_grad and torch.is_grad_enabled()))


def traced_way(*tensors: Tensor | None) -> int:
    """Return the way of a call inside a compiler, which traces this function too: `OP` or `THEIRS`.

    Examples
    --------
    >>> traced_way(torch.zeros(2), None) == OP, traced_way(torch.zeros(2, device="meta")) == THEIRS
    (True, True)
    """
    # Called by its full name, which the tracer knows.
    if torch._C._are_functorch_transforms_active():
        return THEIRS
    ours = all(t is None or (t.device.type == "cpu" and t.layout is torch.strided) for t in tensors)
    return OP if ours else THEIRS


def overridden(*tensors: Tensor | None) -> bool:
    """Whether a tensor is of a class with operators of its own, which know PyTorch's functions and not ours.

    Examples
    --------
    >>> overridden(torch.zeros(2), None)
    False
    """
    return any(t is not None and type(t) not in _PLAIN for t in tensors)


def hooked() -> bool:
    """Whether saved tensors go through hooks (checkpoints, offloading): nothing large may then be kept beside them.

    Examples
    --------
    >>> with torch.autograd.graph.save_on_cpu():
    ...     hooked()
    True
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def needs_composite(grad: Tensor) -> bool:
    """Whether a backward pass must be written in PyTorch's own operators: it is differentiated itself, or batched.

    Examples
    --------
    >>> with torch.no_grad():
    ...     needs_composite(torch.ones(()))
    False
    """
    return torch.is_grad_enabled() or type(grad) not in _PLAIN or watched() or _old_batched(grad)


def recorded(name: str, function: Callable[..., Result], *args: Any) -> Result:
    """Call a function, and show it to PyTorch's profiler where that runs.

    Examples
    --------
    >>> recorded("fastnll::max", max, 1, 2)
    2
    """
    if not _profiling():
        return function(*args)
    with torch.autograd.profiler.record_function(name):
        return function(*args)


def threads() -> int | None:
    """Return the threads of one call: PyTorch's, unless fastnll was told its own number.

    Examples
    --------
    >>> with config.using(threads=1):
    ...     threads() is None
    True
    """
    if _env_threads or config.current().threads is not None:
        return None
    number = torch.get_num_threads()
    return None if number == config.resolve_threads() else number  # the default needs no checks


def array_of(tensor: Tensor) -> Array:
    """Return the array over a tensor's memory.

    Examples
    --------
    >>> array_of(torch.zeros(2, dtype=torch.float16)).dtype
    dtype('float16')
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_neg():  # a view that negates when it is read
        tensor = tensor.resolve_neg()
    if tensor.dtype is torch.bfloat16:
        assert bfloat16 is not None
        return tensor.view(torch.uint16).numpy().view(bfloat16)
    array: Array = tensor.numpy()
    return array


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """Return a tensor of no axes; values beyond a 16-bit dtype become inf.

    Examples
    --------
    >>> scalar(1e6, torch.float16)
    tensor(inf, dtype=torch.float16)
    """
    if dtype is torch.float32 and not abs(value) > 3e38:
        return torch.scalar_tensor(value, dtype=dtype)
    return torch.scalar_tensor(value, dtype=torch.float64).to(dtype)


def uninitialised(shape: Sequence[int], dtype: torch.dtype) -> tuple[Array, Tensor]:
    """Return uninitialised memory in C order, as an array and as a tensor.

    Examples
    --------
    >>> array, tensor = uninitialised((2, 3), torch.float64)
    >>> array.ctypes.data == tensor.data_ptr(), array.shape, tensor.dtype
    (True, (2, 3), torch.float64)
    """
    if dtype is torch.bfloat16:
        assert bfloat16 is not None
        bits = pool.empty(shape, np.dtype(np.uint16))
        return bits.view(bfloat16), torch.from_numpy(bits).view(dtype)
    array = pool.empty(shape, _NUMPY[dtype])
    return array, torch.from_numpy(array)


def result_like(x: Array) -> tuple[Array, Tensor]:
    """Return uninitialised memory of x's shape, dtype and order of axes in memory, as an array and as a tensor.

    Examples
    --------
    >>> array, tensor = result_like(np.zeros((2, 3, 4)).transpose(0, 2, 1))
    >>> tensor.shape, tensor.stride()
    (torch.Size([2, 4, 3]), (12, 1, 4))
    """
    order = None
    shape = x.shape
    if not x.flags.c_contiguous:
        # Expanded axes (stride 0) say nothing about the order: they go to the outside, so that rows stay rows.
        order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]) if x.strides[axis] else -math.inf)
        shape = tuple(shape[axis] for axis in order)
    array, tensor = uninitialised(shape, _TORCH[x.dtype])
    if order is None:
        return array, tensor
    inverse = np.argsort(order)
    return array.transpose(inverse), tensor.permute(*inverse.tolist())
