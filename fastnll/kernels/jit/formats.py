"""float16 and bfloat16 by bit operations, and rows of any storage dtype as rows of the compute dtype.

Storage codes are those of `fastnll.dtypes.FLOATS`: 0 float64, 1 float32, 2 bfloat16, 3 float16. The
16-bit formats arrive as addresses of 16-bit words: Numba has no type for either.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types as numba_types

from fastnll.kernels.jit.arithmetic import pick
from fastnll.kernels.jit.compiler import helper, instruction
from fastnll.kernels.jit.memory import load_f32, load_f64, load_u16, store_f32, store_f64, store_u16, view

__all__ = [
    "bf16_to_f32",
    "f16_to_f32",
    "f32_to_bf16",
    "f32_to_f16",
    "read_float",
    "read_row",
    "write_float",
    "write_row",
]

types: Any = numba_types
_I32, _I16, _F32 = ir.IntType(32), ir.IntType(16), ir.FloatType()


def _i32(value: int) -> Any:
    return ir.Constant(_I32, value)


@instruction
def bf16_to_f32(typingctx: Any, h: Any) -> Any:
    """Return the float32 whose upper half the word is."""
    if h != types.uint16:
        return None

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(b.shl(b.zext(args[0], _I32), _i32(16)), _F32)

    return types.float32(h), codegen


@instruction
def f16_to_f32(typingctx: Any, h: Any) -> Any:
    """Return the float32 of a float16 word."""
    if h != types.uint16:
        return None

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        word = b.zext(args[0], _I32)
        magnitude = b.shl(b.and_(word, _i32(0x7FFF)), _i32(13))
        # 2^112 moves the exponent bias from 15 to 127, for subnormals too; infinity and NaN need the bits.
        scaled = b.fmul(b.bitcast(magnitude, _F32), ir.Constant(_F32, 2.0**112))
        special = b.or_(magnitude, _i32(0x7F800000))
        bits = b.select(b.icmp_unsigned("<", magnitude, _i32(0x7C00 << 13)), b.bitcast(scaled, _I32), special)
        return b.bitcast(b.or_(bits, b.shl(b.and_(word, _i32(0x8000)), _i32(16))), _F32)

    return types.float32(h), codegen


def _odd_bit(b: Any, bits: Any, position: int) -> Any:
    return b.and_(b.lshr(bits, _i32(position)), _i32(1))


@instruction
def f32_to_bf16(typingctx: Any, x: Any) -> Any:
    """Return the word of the nearest bfloat16 (ties to even)."""
    if x != types.float32:
        return None

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        bits = b.bitcast(args[0], _I32)
        rounded = b.add(b.add(bits, _i32(0x7FFF)), _odd_bit(b, bits, 16))
        nan = b.icmp_unsigned(">", b.and_(bits, _i32(0x7FFFFFFF)), _i32(0x7F800000))
        result = b.select(nan, b.or_(bits, _i32(0x00400000)), rounded)
        return b.trunc(b.lshr(result, _i32(16)), _I16)

    return types.uint16(x), codegen


@instruction
def f32_to_f16(typingctx: Any, x: Any) -> Any:
    """Return the word of the nearest float16 (ties to even)."""
    if x != types.float32:
        return None

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        bits = b.bitcast(args[0], _I32)
        a = b.and_(bits, _i32(0x7FFFFFFF))
        biased = b.add(b.sub(a, _i32(112 << 23)), _i32(0xFFF))
        normal = b.lshr(b.add(biased, _odd_bit(b, a, 13)), _i32(13))
        # Below 2^-14: half plus the number has its result in the low bits, rounded by the addition.
        half = ir.Constant(_F32, 0.5)
        tiny = b.sub(b.bitcast(b.fadd(b.bitcast(a, _F32), half), _I32), _i32(0x3F000000))
        result = b.select(b.icmp_unsigned("<", a, _i32(113 << 23)), tiny, normal)
        # From 65520 on everything rounds to infinity.
        result = b.select(b.icmp_unsigned(">=", a, _i32(0x477FF000)), _i32(0x7C00), result)
        result = b.select(b.icmp_unsigned(">", a, _i32(0x7F800000)), _i32(0x7E00), result)
        return b.trunc(b.or_(result, b.and_(b.lshr(bits, _i32(16)), _i32(0x8000))), _I16)

    return types.uint16(x), codegen


@helper(inline=True)
def read_float(address: int, code: int, like: Any) -> Any:
    """Return one stored element in the compute dtype."""
    if code == 0:
        value = load_f64(address)
        return pick(like, value, value)
    if code == 1:
        single = load_f32(address)
    elif code == 2:
        single = bf16_to_f32(load_u16(address))
    else:
        single = f16_to_f32(load_u16(address))
    return pick(like, single, single)


@helper(inline=True)
def write_float(address: int, code: int, value: Any) -> None:
    """Store one element of the compute dtype; code 0 only ever goes with float64."""
    if code == 0:
        store_f64(address, value)
        return
    single = np.float32(value)
    if code == 1:
        store_f32(address, single)
    elif code == 2:
        store_u16(address, f32_to_bf16(single))
    else:
        store_u16(address, f32_to_f16(single))


@helper
def read_row(address: int, stride: int, code: int, row: Any) -> None:
    """Fill `row` (compute dtype) from stored elements `stride` bytes apart."""
    n = row.shape[0]
    if code == 0 and stride == 8:
        doubles = view(address, n, 0.0)
        for v in range(n):
            row[v] = doubles[v]
    elif code == 1 and stride == 4:
        singles = view(address, n, np.float32(0.0))
        for v in range(n):
            row[v] = singles[v]
    elif code >= 2 and stride == 2:
        words = view(address, n, np.uint16(0))
        if code == 2:
            for v in range(n):
                row[v] = bf16_to_f32(words[v])
        else:
            for v in range(n):
                row[v] = f16_to_f32(words[v])
    else:
        for v in range(n):
            row[v] = read_float(address + v * stride, code, row)


@helper
def write_row(row: Any, address: int, stride: int, code: int) -> None:
    """Store `row` (compute dtype) to elements `stride` bytes apart."""
    n = row.shape[0]
    if code == 0 and stride == 8:
        doubles = view(address, n, 0.0)
        for v in range(n):
            doubles[v] = row[v]
    elif code == 1 and stride == 4:
        singles = view(address, n, np.float32(0.0))
        for v in range(n):
            singles[v] = row[v]
    elif code >= 2 and stride == 2:
        words = view(address, n, np.uint16(0))
        if code == 2:
            for v in range(n):
                words[v] = f32_to_bf16(np.float32(row[v]))
        else:
            for v in range(n):
                words[v] = f32_to_f16(np.float32(row[v]))
    else:
        for v in range(n):
            write_float(address + v * stride, code, row[v])
