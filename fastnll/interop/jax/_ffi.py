"""XLA's foreign function interface from Python: handlers that see XLA's buffers as NumPy arrays, without a copy.

XLA calls a C function with a frame of pointers, laid out as jaxlib's header ``xla/ffi/api/c_api.h`` says. Here that
function is a ctypes callback over a Python one, so nothing has to be compiled against a jaxlib when fastnll is
installed. The callback takes the interpreter lock, which fastnll's kernels let go. Unlike `jax.pure_callback` it makes
no JAX arrays of the buffers: what hangs there, a callback that waits for the device it runs on, cannot happen.

XLA's threads outlive the interpreter. A compiled gate (``gate.h``) stands before each callback and is closed at exit:
what is under way is finished, what would begin later is cancelled. Without a compiler there is no gate.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes
import numpy as np
import numpy.typing as npt

try:
    from fastnll.interop.jax import _gate
except ImportError:  # built without a compiler
    _gate = None  # type: ignore[assignment]

__all__ = ["STRUCTS", "register"]

Array = npt.NDArray[Any]
Handler = Callable[[list[Array], list[Array], dict[str, int]], None]

# Of the header that the layouts below were read from; XLA refuses a handler of a major version that is not its own.
API_VERSION = (0, 3)

_METADATA = 1  # XLA_FFI_Extension_Metadata
_EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
_READ, _WRITE = 0x100, 0x200  # PyBUF_READ, PyBUF_WRITE

# By XLA_FFI_DataType.
_DTYPES: dict[int, np.dtype[Any]] = {
    code: np.dtype(kind)
    for code, kind in {
        1: np.bool_, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.uint8, 7: np.uint16, 8: np.uint32,
        9: np.uint64, 10: np.float16, 11: np.float32, 12: np.float64, 16: ml_dtypes.bfloat16,
    }.items()
}  # fmt: skip


class _Extension(ctypes.Structure):
    pass


_Extension._fields_ = [
    ("struct_size", ctypes.c_size_t),
    ("type", ctypes.c_int),
    ("next", ctypes.POINTER(_Extension)),
]

# Every struct of the interface starts with these two.
_HEAD: list[Any] = [("struct_size", ctypes.c_size_t), ("extension_start", ctypes.POINTER(_Extension))]


class _Version(ctypes.Structure):
    _fields_ = [*_HEAD, ("major_version", ctypes.c_int), ("minor_version", ctypes.c_int)]


class _ErrorArgs(ctypes.Structure):
    _fields_ = [*_HEAD, ("message", ctypes.c_char_p), ("errc", ctypes.c_int)]


_ErrorCreate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_ErrorArgs))


class _Api(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("api_version", _Version),
        ("internal_api", ctypes.c_void_p),
        ("XLA_FFI_Error_Create", _ErrorCreate),
    ]


class _Buffer(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    ]


class _Span(ctypes.Structure):
    _fields_ = [("ptr", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class _Scalar(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("value", ctypes.c_void_p)]


class _Args(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("args", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _Rets(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("rets", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _Attrs(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("names", ctypes.POINTER(ctypes.POINTER(_Span))),
        ("attrs", ctypes.POINTER(ctypes.POINTER(_Scalar))),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("api", ctypes.POINTER(_Api)),
        ("ctx", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("args", _Args),
        ("rets", _Rets),
        ("attrs", _Attrs),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("api_version", _Version), ("traits", ctypes.c_uint32)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("extension_base", _Extension), ("metadata", ctypes.POINTER(_Metadata))]


# By their names in the header: a test compares every offset with what a C compiler makes of it.
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "XLA_FFI_Extension_Base": _Extension,
    "XLA_FFI_Api_Version": _Version,
    "XLA_FFI_Error_Create_Args": _ErrorArgs,
    "XLA_FFI_Api": _Api,
    "XLA_FFI_Buffer": _Buffer,
    "XLA_FFI_ByteSpan": _Span,
    "XLA_FFI_Scalar": _Scalar,
    "XLA_FFI_Args": _Args,
    "XLA_FFI_Rets": _Rets,
    "XLA_FFI_Attrs": _Attrs,
    "XLA_FFI_CallFrame": _Frame,
    "XLA_FFI_Metadata": _Metadata,
    "XLA_FFI_Metadata_Extension": _MetadataExtension,
}

_Callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))
_memory = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)

# XLA keeps the addresses for ever, so the callbacks are kept for ever.
_registered: dict[str, Any] = {}


def _view(buffer: _Buffer, access: int) -> Array:
    """Return XLA's memory as an array."""
    shape = tuple(buffer.dims[: buffer.rank])
    dtype = _DTYPES[buffer.dtype]
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(_memory(buffer.data, count * dtype.itemsize, access), dtype).reshape(shape)


def _attributes(attrs: _Attrs) -> dict[str, int]:
    """Return the attributes, all of which are int64 scalars here."""
    found = {}
    for i in range(attrs.size):
        span = attrs.names[i].contents
        name = ctypes.string_at(span.ptr, span.len).decode()
        found[name] = ctypes.c_int64.from_address(attrs.attrs[i].contents.value).value
    return found


def _answer_metadata(frame: _Frame) -> bool:
    """Say which version of the interface this is, where XLA asks for nothing else."""
    start = frame.extension_start
    if not start or start.contents.type != _METADATA:
        return False
    asked = ctypes.cast(start, ctypes.POINTER(_MetadataExtension)).contents.metadata.contents
    asked.api_version.major_version, asked.api_version.minor_version = API_VERSION
    asked.traits = 0
    return True


def _error(frame: _Frame, error: Exception) -> int | None:
    """Return an error of XLA's making, which JAX raises with the message in it."""
    message = f"{type(error).__name__}: {error}".encode()
    made = _ErrorArgs(struct_size=ctypes.sizeof(_ErrorArgs), message=message, errc=_INTERNAL)
    address: int | None = frame.api.contents.XLA_FFI_Error_Create(ctypes.byref(made))
    return address


def _finish() -> None:
    """Wait for the results that somebody holds, then for the handlers that are under way, and let no other begin."""
    arrays: Any = jax.live_arrays
    for array in arrays():
        with contextlib.suppress(RuntimeError):  # of the computation: nobody is left to tell
            array.block_until_ready()
    if _gate is not None:
        _gate.close()


# Registered after JAX's own, so run before it.
atexit.register(_finish)


def register(name: str, handler: Handler) -> None:
    """Make ``handler(arguments, results, attributes)`` the CPU implementation of the custom call `name`.

    Arguments are read-only arrays over XLA's own memory, results writable ones; neither may be kept. Whatever is
    raised fails the computation that called.

    Examples
    --------
    >>> def double(arguments, results, attributes):
    ...     np.multiply(arguments[0], attributes["by"], out=results[0])
    >>> register("fastnll_doctest_scale", double)
    >>> call = jax.ffi.ffi_call("fastnll_doctest_scale", jax.ShapeDtypeStruct((3,), np.float32))
    >>> call(np.arange(3, dtype=np.float32), by=np.int64(2)).tolist()
    [0.0, 2.0, 4.0]
    """

    def called(pointer: Any) -> int | None:
        frame = pointer.contents
        if _answer_metadata(frame) or frame.stage != _EXECUTE:
            return None
        try:
            arguments = [_view(frame.args.args[i].contents, _READ) for i in range(frame.args.size)]
            results = [_view(frame.rets.rets[i].contents, _WRITE) for i in range(frame.rets.size)]
            handler(arguments, results, _attributes(frame.attrs))
        except Exception as error:  # not to be thrown through XLA's frames
            return _error(frame, error)
        return None

    if name in _registered:
        return
    callback = _Callback(called)
    capsule: Any = jax.ffi.pycapsule
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    if _gate is not None:
        address = _gate.guarded(address) or address
    jax.ffi.register_ffi_target(name, capsule(address), platform="cpu")
    _registered[name] = callback
