"""Memory at an address: single numbers, arrays, and cache lines asked for in advance."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types as numba_types
from numba.np.numpy_support import carray

from fastnll.kernels.jit.compiler import helper, instruction

__all__ = [
    "load_f32",
    "load_f64",
    "load_i8",
    "load_i16",
    "load_i32",
    "load_i64",
    "load_u8",
    "load_u16",
    "load_u32",
    "pointer",
    "prefetch_line",
    "start_of",
    "store_f32",
    "store_f64",
    "store_i64",
    "store_u16",
    "table",
    "view",
]

types: Any = numba_types


@instruction
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """Return an address as a pointer to the element type of `like`, any array or number."""
    kind = types.CPointer(like.dtype if isinstance(like, types.Array) else like)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.intp, like), codegen


@helper(inline=True)
def start_of(array: Any) -> Any:
    """Return the address of an array as an int64: unsigned, a sum with another integer would be a float64."""
    address: Any = np.int64(array.ctypes.data)
    return address


@helper(inline=True)
def view(address: int, n: int, like: Any) -> Any:
    """Return n contiguous elements at an address as an array of `like`'s element type."""
    return carray(pointer(address, like), (n,))


@helper(inline=True)
def table(address: int, rows: int, columns: int, like: Any) -> Any:
    """Return contiguous rows of elements at an address as a two-dimensional array."""
    return carray(pointer(address, like), (rows, columns))


def prefetch_line(builder: Any, address: Any, write: int = 0, locality: int = 3) -> None:
    """Write the instruction that asks for the cache line at an address; one that is not there is no error."""
    number = ir.IntType(32)
    at = builder.inttoptr(address, ir.PointerType(ir.IntType(8)))
    kind = ir.FunctionType(ir.VoidType(), [at.type, number, number, number])
    function = builder.module.declare_intrinsic("llvm.prefetch", (at.type,), kind)
    builder.call(function, [at, number(write), number(locality), number(1)])  # 1: data


def _prefetcher(write: int) -> Any:
    @instruction
    def prefetch(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            prefetch_line(builder, args[0], write)
            return context.get_dummy_value()

        return types.void(types.intp), codegen

    prefetch.__doc__ = "Ask for the cache line at an address" + (", to be written." if write else ".")
    return prefetch


prefetch_read, prefetch_write = _prefetcher(0), _prefetcher(1)


def _loader(kind: Any) -> Any:
    @instruction
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], context.get_value_type(types.CPointer(kind)))
            return builder.load(at, align=1)

        return kind(types.intp), codegen

    load.__doc__ = f"Return the {kind} at an address, which need not be aligned."
    return load


def _storer(kind: Any) -> Any:
    @instruction
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], context.get_value_type(types.CPointer(kind)))
            builder.store(context.cast(builder, args[1], value, kind), at, align=1)
            return context.get_dummy_value()

        return types.void(types.intp, value), codegen

    store.__doc__ = f"Write a number as {kind} to an address, which need not be aligned."
    return store


load_i8, load_u8 = _loader(types.int8), _loader(types.uint8)
load_i16, load_u16 = _loader(types.int16), _loader(types.uint16)
load_i32, load_u32 = _loader(types.int32), _loader(types.uint32)
load_i64 = _loader(types.int64)
load_f32, load_f64 = _loader(types.float32), _loader(types.float64)
store_u16, store_i64 = _storer(types.uint16), _storer(types.int64)
store_f32, store_f64 = _storer(types.float32), _storer(types.float64)
