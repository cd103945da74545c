"""Arithmetic that Numba's Python cannot say: bits of a float, one fma, constants of a type.

Each of these becomes one or two LLVM instructions, so the vectoriser sees through all of them. An
argument called `like` is a value or array whose float type decides the type of the result: one source
serves float32 and float64, and no literal promotes float32 arithmetic to float64.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types as numba_types

from fastnll.kernels.jit.compiler import HAS_FMA, instruction
from fastnll.kernels.jit.constants import (
    EXP6_F32,
    EXP11_F64,
    LN2_F32,
    LN2_F64,
    LN2_SPLIT_F32,
    LN2_SPLIT_F64,
    LOG2_E,
)

__all__ = [
    "as_float",
    "as_int",
    "bits_of",
    "exp_polynomial",
    "expm1_polynomial",
    "fma",
    "from_key",
    "order_key",
    "pick",
    "power",
    "reduce_by_ln2",
    "round_shifted",
    "unshifted",
    "widest",
]

types: Any = numba_types  # its classes are made in ways that no type checker follows


def _scalar(like: Any) -> Any:
    kind = like.dtype if isinstance(like, types.Array) else like
    return kind if kind in {types.float32, types.float64} else None


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(ir.FloatType() if kind == types.float32 else ir.DoubleType(), value)


def _fmuladd(builder: Any, a: Any, b: Any, c: Any) -> Any:
    # fmuladd, not fma: without the instruction it is a product and a sum, not a call of libm.
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", (a.type,), kind), [a, b, c])


@instruction
def pick(typingctx: Any, like: Any, single: Any, double: Any) -> Any:
    """Return `single` as float32 or `double` as float64, by the type of `like`."""
    kind = _scalar(like)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if kind == types.float32:
            return context.cast(builder, args[1], single, types.float32)
        return context.cast(builder, args[2], double, types.float64)

    return kind(like, single, double), codegen


@instruction
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, in one rounding where the CPU has the instruction."""
    if not (a == b == c and _scalar(a)):
        return None
    return a(a, b, c), lambda context, builder, signature, args: _fmuladd(builder, *args)


@instruction
def as_int(typingctx: Any, x: Any) -> Any:
    """Return the bits of a float as a signed integer of its size."""
    result = {types.float32: types.int32, types.float64: types.int64}.get(x)
    if result is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(result))

    return result(x), codegen


@instruction
def as_float(typingctx: Any, bits: Any) -> Any:
    """Return the float with the given 32 or 64 bits."""
    result = {types.int32: types.float32, types.int64: types.float64}.get(bits)
    if result is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(result))

    return result(bits), codegen


def _width(kind: Any) -> tuple[Any, int, int]:
    """Return LLVM's integer type of a float's size, its mantissa bits and its exponent bias."""
    return (ir.IntType(32), 23, 127) if kind == types.float32 else (ir.IntType(64), 52, 1023)


def _magic(kind: Any) -> Any:
    # 1.5 * 2^23 or 2^52: adding it rounds to an integer, which then is the low bits of the sum.
    return _constant(kind, 12582912.0 if kind == types.float32 else 6755399441055744.0)


@instruction
def round_shifted(typingctx: Any, x: Any) -> Any:
    """Return round(x log2 e) plus the number that makes it the low bits of the sum."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fmuladd(builder, args[0], _constant(x, LOG2_E), _magic(x))

    return x(x), codegen


@instruction
def unshifted(typingctx: Any, t: Any) -> Any:
    """Return the integer in a sum made by `round_shifted`, as a float."""
    return t(t), lambda context, builder, signature, args: builder.fsub(args[0], _magic(t))


@instruction
def bits_of(typingctx: Any, k: Any) -> Any:
    """Return what `power` takes for the reference 2^k, k an integer in a float."""
    result = {types.float32: types.int32, types.float64: types.int64}.get(k)
    if result is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer, _, bias = _width(k)
        shifted = builder.bitcast(builder.fadd(args[0], _magic(k)), integer)
        return builder.sub(shifted, ir.Constant(integer, bias))

    return result(k), codegen


@instruction
def power(typingctx: Any, t: Any, bits: Any) -> Any:
    """Return 2^(n - k) for t from `round_shifted` and bits from `bits_of`.

    0 for n - k = -127 and infinity for n - k = 128 (in float32); the caller keeps n - k between those.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer, mantissa, _ = _width(t)
        biased = builder.sub(builder.bitcast(args[0], integer), args[1])
        shifted = builder.shl(biased, ir.Constant(integer, mantissa))
        return builder.bitcast(shifted, args[0].type)

    return t(t, bits), codegen


def _polynomial(builder: Any, r: Any, kind: Any, first: int) -> Any:
    table = (EXP6_F32 if kind == types.float32 else EXP11_F64)[first:]
    value = _constant(kind, table[-1])
    for c in reversed(table[:-1]):
        value = _fmuladd(builder, value, r, _constant(kind, c))
    return value


@instruction
def exp_polynomial(typingctx: Any, r: Any) -> Any:
    """Return exp(r) for |r| <= ln(2) / 2, to 0.9 ulp."""
    return r(r), lambda context, builder, signature, args: _polynomial(builder, args[0], r, 0)


@instruction
def expm1_polynomial(typingctx: Any, r: Any) -> Any:
    """Return (exp(r) - 1) / r for |r| <= ln(2) / 2."""
    return r(r), lambda context, builder, signature, args: _polynomial(builder, args[0], r, 1)


@instruction
def reduce_by_ln2(typingctx: Any, n: Any, x: Any) -> Any:
    """Return x - n ln 2 for the n next to x / ln 2, as exact as `rows.LIMITS` promises.

    With fma, x - n hi is exact although hi has all bits of ln 2. Without it n hi must be exact by
    itself, so hi is short and the rest comes in more pieces.
    """
    kind = _scalar(x)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n_value, value = args
        if HAS_FMA:
            for part in LN2_F32 if kind == types.float32 else LN2_F64:
                value = _fmuladd(builder, n_value, _constant(kind, -part), value)
            return value
        for part in LN2_SPLIT_F32 if kind == types.float32 else LN2_SPLIT_F64:
            value = builder.fsub(value, builder.fmul(n_value, _constant(kind, part)))
        return value

    return kind(n, x), codegen


@instruction
def order_key(typingctx: Any, x: Any) -> Any:
    """Return an integer of the float's size that sorts as the float does; NaN is an extreme.

    A maximum of floats is no vector loop for LLVM unless NaN is ruled out; one of integers is.
    """
    result = {types.float32: types.int32, types.float64: types.int64}.get(x)
    if result is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _flip(builder, builder.bitcast(args[0], context.get_value_type(result)))

    return result(x), codegen


@instruction
def from_key(typingctx: Any, key: Any) -> Any:
    """Return the float that `order_key` made a key of."""
    result = {types.int32: types.float32, types.int64: types.float64}.get(key)
    if result is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(_flip(builder, args[0]), context.get_value_type(result))

    return result(key), codegen


def _flip(builder: Any, bits: Any) -> Any:
    """Return the bits with all but the sign inverted where that is set: its own inverse."""
    width = bits.type.width
    mask = builder.lshr(builder.ashr(bits, ir.Constant(bits.type, width - 1)), ir.Constant(bits.type, 1))
    return builder.xor(bits, mask)


@instruction
def widest(typingctx: Any) -> Any:
    """Ask for the widest vectors in the function that calls it.

    LLVM takes half of AVX-512's registers on Intel's server chips, for the sake of programs that touch
    them now and then; loops that do nothing else are faster with all of it.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        attributes = builder.function.attributes
        if isinstance(attributes, set):  # its own `add` knows only attributes without a value
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen
