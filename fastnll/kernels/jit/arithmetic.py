"""Arithmetic that Numba's Python cannot say: bits of a float, one fma, constants of a type.

Each of these becomes one or two LLVM instructions, so the vectoriser sees through all of them. An
argument called `like` is a value or array whose float type decides the type of the result: one source
serves float32 and float64, and no literal promotes float32 arithmetic to float64.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types as numba_types

from fastnll.kernels.jit import exponential
from fastnll.kernels.jit.compiler import instruction
from fastnll.kernels.jit.constants import EXP6_F32, EXP11_F64, LOG2_E

__all__ = [
    "as_float",
    "as_int",
    "bits_of",
    "exp_from",
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
    return a(a, b, c), lambda context, builder, signature, args: exponential.fmuladd(builder, *args)


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


@instruction
def round_shifted(typingctx: Any, x: Any) -> Any:
    """Return round(x log2 e) plus the number that makes it the low bits of the sum."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        log2_e, add = (exponential.constant(kind, value) for value in (LOG2_E, exponential.magic(kind)))
        return exponential.fmuladd(builder, args[0], log2_e, add)

    return x(x), codegen


@instruction
def unshifted(typingctx: Any, t: Any) -> Any:
    """Return the integer in a sum made by `round_shifted`, as a float."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        return builder.fsub(args[0], exponential.constant(kind, exponential.magic(kind)))

    return t(t), codegen


@instruction
def bits_of(typingctx: Any, k: Any) -> Any:
    """Return what `power` takes for the reference 2^k, k an integer in a float."""
    result = {types.float32: types.int32, types.float64: types.int64}.get(k)
    if result is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return exponential.reference_bits(builder, args[0])

    return result(k), codegen


@instruction
def power(typingctx: Any, t: Any, bits: Any) -> Any:
    """Return 2^(n - k) for t from `round_shifted` and bits from `bits_of`."""
    return t(t, bits), lambda context, builder, signature, args: exponential.power(builder, *args)


@instruction
def exp_from(typingctx: Any, x: Any, low: Any, high: Any, bits: Any) -> Any:
    """Return exp(x) 2^-k: 0 for x <= low, infinity for x >= high, NaN for NaN; see `vecmath.exp_range`."""
    if not (x == low == high and _scalar(x)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return exponential.relative(builder, args[:1], *args[1:])[0]

    return x(x, low, high, bits), codegen


@instruction
def expm1_polynomial(typingctx: Any, r: Any) -> Any:
    """Return (exp(r) - 1) / r for |r| <= ln(2) / 2."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return exponential.polynomial(builder, args, (EXP6_F32 if r == types.float32 else EXP11_F64)[1:])[0]

    return r(r), codegen


@instruction
def reduce_by_ln2(typingctx: Any, n: Any, x: Any) -> Any:
    """Return x - n ln 2 for the n next to x / ln 2 (see `exponential.less_n_ln2`)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return exponential.less_n_ln2(builder, args[:1], args[1:])[0]

    return x(n, x), codegen


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
