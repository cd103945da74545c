"""The only input checks: from what a user passed to what a kernel may trust.

A user's array becomes a *row view* ``(outer, inner, V)``: the class axis last, the other axes merged
into two where their strides allow it without a copy. Everything after this file relies on it.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.buffers import pool
from fastnll.dtypes import FLOATS, float_type
from fastnll.errors import DTypeError, OptionError, ShapeError

__all__ = [
    "as_array",
    "as_float_array",
    "as_targets",
    "check_axis",
    "out_rows",
    "rows_view",
    "shared_array",
    "split_axes",
]

Array = npt.NDArray[Any]


def as_float_array(x: Any, name: str) -> Array:
    """Return `x` as an array of a supported float dtype, without a copy where it is one already.

    Integers become float64, as NumPy's own functions do.

    Raises
    ------
    DTypeError
        For complex, boolean, object, text and other dtypes that have no softmax.
    """
    a = x if type(x) is np.ndarray else as_array(x, name)
    if float_type(a.dtype) is not None:
        return a if _regular(a) else a.copy()
    if a.dtype.kind in "iu" and a.dtype != object:
        return a.astype(np.float64)
    if a.dtype.kind == "f" and a.dtype.itemsize <= 8:  # a foreign byte order
        return a.astype(a.dtype.newbyteorder("="))
    raise DTypeError(
        f"{name}: expected dtype {', '.join(FLOATS)} or an integer dtype, got {a.dtype}; "
        f"convert it first, for example {name}.astype(numpy.float32)"
    )


def as_array(x: Any, name: str) -> Array:
    """Return whatever holds numbers in the CPU's memory as an array: no copy where the object shows its memory.

    That is a NumPy array, a sequence, and any object with ``__array__`` or ``__dlpack__``, PyTorch's and JAX's among
    them, bfloat16 too. Read-only memory stays so, which no input minds.

    Raises
    ------
    DTypeError
        For memory of another device, a masked array, and a tensor that does not give its memory away (one that
        requires a gradient, or is sparse), in its own words.
    ShapeError
        For nested sequences of unequal lengths.
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise DTypeError(f"{name}: expected a plain array, got a masked one; fill it, or pass mask= for rows")
    shared = hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray | np.generic)
    if shared:
        _refuse_other_memory(x, name)
    try:
        return np.from_dlpack(x) if shared and not hasattr(x, "__array__") else np.asarray(x)
    except ValueError as error:
        raise ShapeError(
            f"{name}: expected a rectangular array, got nested sequences of other lengths ({error})"
        ) from None
    except (BufferError, RuntimeError, TypeError) as error:
        if not shared:
            raise
        found = _bfloat16_of(x)
        if found is None:
            raise DTypeError(f"{name}: expected an array that NumPy can read, got: {error}") from error
        return found


def shared_array(x: Any, name: str) -> Any:
    """Return the memory of a foreign array as an array, to be written to; whatever is no array stays what it is."""
    return as_array(x, name) if hasattr(x, "__dlpack__") else x


# DLPack's device types whose memory the CPU reads: its own, and what CUDA and ROCm pin or manage for it.
_CPU_MEMORY = (1, 3, 11, 13)
_DEVICES = {2: "CUDA", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}
_BFLOAT16 = (4, 16, 1)  # DLPack's code, bits, lanes; NumPy's own reader does not know them


def _refuse_other_memory(x: Any, name: str) -> None:
    try:
        kind, number = x.__dlpack_device__()
    except (BufferError, RuntimeError, ValueError) as error:  # PyTorch's "meta" tensors, which have no memory
        raise DTypeError(f"{name}: expected an array in the CPU's memory, got: {error}") from error
    if kind not in _CPU_MEMORY:
        device = _DEVICES.get(int(kind), f"a device of DLPack type {int(kind)}")
        raise DTypeError(
            f"{name}: expected an array in the CPU's memory, got one on {device} (number {number}); copy it to the CPU"
        )


class _DLTensor(ctypes.Structure):
    """The head of what a DLPack capsule points to (dmlc/dlpack, dlpack.h)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Borrowed:
    """Memory of a capsule that stays alive, and unconsumed, as long as an array looks at it."""

    def __init__(self, capsule: Any, interface: dict[str, Any]) -> None:
        self.capsule, self.__array_interface__ = capsule, interface


def _bfloat16_of(x: Any) -> Array | None:
    """Return a bfloat16 tensor as an array of ``ml_dtypes.bfloat16``, or None where it is none, or not to be had."""
    try:
        capsule = x.__dlpack__()
    except (BufferError, RuntimeError, TypeError):
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    t = ctypes.cast(pointer(capsule, b"dltensor"), ctypes.POINTER(_DLTensor)).contents
    if (t.code, t.bits, t.lanes) != _BFLOAT16:
        return None
    import ml_dtypes

    shape = tuple(t.shape[: t.ndim])
    if not t.data or 0 in shape:
        return np.empty(shape, ml_dtypes.bfloat16)
    strides = tuple(2 * s for s in t.strides[: t.ndim]) if t.strides else None
    interface = {"version": 3, "typestr": "=u2", "shape": shape, "strides": strides}
    interface["data"] = (t.data + t.byte_offset, False)
    found: Array = np.asarray(_Borrowed(capsule, interface)).view(ml_dtypes.bfloat16)
    return found


def check_axis(axis: object, ndim: int, name: str) -> int:
    """Return the class axis counted from the front.

    Raises
    ------
    ShapeError
        If the array has no such axis.
    OptionError
        If `axis` is no integer.
    """
    if ndim == 0:
        raise ShapeError(f"{name}: expected at least one axis (the classes), got a scalar")
    try:
        index = operator.index(axis)  # type: ignore[arg-type]
    except TypeError:
        raise OptionError(f"axis: expected an integer, got {axis!r}") from None
    if not -ndim <= index < ndim:
        raise ShapeError(f"axis: expected -{ndim} to {ndim - 1} for {name} of {ndim} axes, got {index}")
    return index % ndim


def split_axes(x: Array, axis: int) -> Array:
    """Return a view of `x` with the class axis last."""
    if axis == x.ndim - 1:
        return x
    order = [i for i in range(x.ndim) if i != axis]
    return x.transpose(*order, axis)


def rows_view(x: Array, name: str) -> Array:
    """Return (outer, inner, V) rows of an array whose class axis is last; a copy only if no view exists.

    Raises
    ------
    ShapeError
        If there are no classes.
    """
    v = x.shape[-1]
    if v == 0:
        raise ShapeError(f"{name}: expected at least one class, got shape {x.shape} with none")
    if x.ndim == 2:
        return x[None]
    if x.ndim == 3:
        return x
    lead = x.shape[:-1]
    for cut in range(len(lead)):
        shape = (_product(lead[:cut]), _product(lead[cut:]), v)
        try:
            return x.reshape(shape, copy=False)
        except ValueError:
            continue
    return x.reshape(1, -1, v)


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _same_memory(a: Array, b: Array) -> bool:
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.shape == b.shape and a.dtype == b.dtype


def out_rows(
    out: Array | None, sources: Sequence[Array], axis: int, row_shape: tuple[int, ...], name: str = "out"
) -> tuple[Array, Array, Callable[[], None] | None]:
    """Check or make an output array of the shape and dtype of ``sources[0]``.

    Returns
    -------
    result : ndarray
        What the user gets: `out` itself, or a fresh C-contiguous array.
    rows : ndarray (outer, inner, V)
        Where the kernel writes. Either a view of `result` or, if its strides allow none or if it
        overlaps a source other than exactly, a buffer.
    finish : callable or None
        Copies the buffer to `result`; call it after the kernel.

    Raises
    ------
    ShapeError, DTypeError
        If `out` does not fit, or is not writeable.
    """
    like = sources[0]
    if out is None:
        result = pool.empty(like.shape, like.dtype)
        rows = _row_view(result, axis, row_shape)
        return (result, rows, None) if rows is not None else (result, *_buffer(result, axis, row_shape))
    if not isinstance(out, np.ndarray):
        raise DTypeError(f"{name}: expected a numpy array, got {type(out).__name__}")
    if out.shape != like.shape:
        raise ShapeError(f"{name}: expected shape {like.shape}, got {out.shape}")
    if out.dtype != like.dtype:
        raise DTypeError(f"{name}: expected dtype {like.dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise DTypeError(f"{name}: expected a writeable array, got a read-only one; pass a copy")
    if _overlaps_itself(out):
        raise ShapeError(
            f"{name}: expected elements with memory of their own, got strides {out.strides} for shape {out.shape}"
        )
    overlaps = any(np.may_share_memory(out, s) and not _same_memory(out, s) for s in sources)
    rows = None if overlaps else _row_view(out, axis, row_shape)
    return (out, rows, None) if rows is not None else (out, *_buffer(out, axis, row_shape))


def _row_view(a: Array, axis: int, row_shape: tuple[int, ...]) -> Array | None:
    """Return the rows of `a` in the cut of axes that the logits asked for, or None if its strides allow none."""
    try:
        return split_axes(a, axis).reshape(row_shape, copy=False) if _regular(a) else None
    except ValueError:
        return None


def _buffer(result: Array, axis: int, row_shape: tuple[int, ...]) -> tuple[Array, Callable[[], None]]:
    """Return rows to write to, and what copies them to `result`."""
    rows = np.empty(row_shape, result.dtype)
    last = split_axes(result, axis)
    return rows, lambda: np.copyto(last, rows.reshape(last.shape))


def _overlaps_itself(a: Array) -> bool:
    """Whether two elements may share memory: sorted by size, each stride must step over the axes below it."""
    if a.size == 0:
        return False
    reach = a.itemsize
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(a.strides, a.shape, strict=True) if size > 1
    ):
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False


def _regular(a: Array) -> bool:
    """Whether elements are aligned and strides count whole elements, as kernels assume."""
    return a.flags.aligned and all(stride % a.itemsize == 0 for stride in a.strides)


def as_targets(targets: Any, shape: tuple[int, ...], name: str = "targets") -> Array:
    """Return integer targets of the given shape, in place whatever their integer dtype.

    Raises
    ------
    DTypeError
        For floats (with the conversion to write), booleans and other dtypes.
    ShapeError
        If the shape is not the logits' shape without the class axis.
    """
    t = targets if type(targets) is np.ndarray else as_array(targets, name)
    if t.dtype.kind not in "iu":
        if t.size == 0 and t.dtype == np.float64 and not isinstance(targets, np.ndarray):
            t = t.astype(np.int64)  # an empty list
        else:
            hint = f"; class ids are integers: {name}.astype(numpy.int64)" if t.dtype.kind in "fb" else ""
            raise DTypeError(f"{name}: expected an integer dtype, got {t.dtype}{hint}")
    if not t.dtype.isnative:
        t = t.astype(t.dtype.newbyteorder("="))
    if not _regular(t):
        t = t.copy()
    if t.shape != shape:
        raise ShapeError(f"{name}: expected shape {shape} (the logits' shape without the class axis), got {t.shape}")
    return t
