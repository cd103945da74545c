"""What Numba's Python cannot say: bits of a float, memory at an address, one fma, typed constants.

Each intrinsic becomes one or two LLVM instructions, so the vectoriser sees through all of them. An
argument called `like` is a value or array whose float type decides the type of the result: one source
serves float32 and float64, and no literal promotes float32 arithmetic to float64.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit
from numba.core import config, types
from numba.extending import intrinsic

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
    "HAS_FMA",
    "as_float",
    "as_int",
    "exp_polynomial",
    "expm1_polynomial",
    "fma",
    "helper",
    "load_u16",
    "pick",
    "pointer",
    "reduce_by_ln2",
    "store_u16",
]

# Sums may be reordered (that is what a vector accumulator does); nothing may assume that NaN, infinity
# or a sign of zero do not occur. Only functions that ask for it get even that.
SUMS = {"reassoc", "nsz"}


def helper(function: Callable[..., Any] | None = None, *, sums: bool = False, inline: bool = False, paste: bool = False) -> Any:
    """Compile a function that kernels call; it is part of their machine code and not cached by itself.

    Numba's cache compares the file of the function alone, not the files of what it calls; a helper that
    was cached could be stale inside a kernel that is not.
    """
    # Said even where it is False: a function that says nothing inherits the flags of its caller, and
    # reordering would undo what `exp_from` and `log_row` do in a fixed order.
    options: dict[str, Any] = {
        "error_model": "numpy",
        "fastmath": SUMS if sums else False,
        # Nobody calls it from Python: a third of the time to compile it.
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    if inline:
        options["forceinline"] = True
    if paste:  # into the source of its caller: one compilation less for what has one caller
        options["inline"] = "always"
    return njit(**options) if function is None else njit(**options)(function)


def _fused() -> bool:
    """Return whether a * b + c is one instruction on the CPU that Numba compiles for."""
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return True
    if config.CPU_NAME or config.CPU_FEATURES is not None:
        return "+fma" in (config.CPU_FEATURES or "")
    return bool(llvm.get_host_cpu_features().get("fma", False))


HAS_FMA = _fused()


def _scalar(like: Any) -> Any:
    kind = like.dtype if isinstance(like, types.Array) else like
    return kind if kind in {types.float32, types.float64} else None


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(ir.FloatType() if kind == types.float32 else ir.DoubleType(), value)


def _fmuladd(builder: Any, a: Any, b: Any, c: Any) -> Any:
    # fmuladd, not fma: without the instruction it is a product and a sum, not a call of libm.
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", (a.type,), kind), [a, b, c])


@intrinsic
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


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, in one rounding where the CPU has the instruction."""
    if not (a == b == c and _scalar(a)):
        return None
    return a(a, b, c), lambda context, builder, signature, args: _fmuladd(builder, *args)


@intrinsic
def as_int(typingctx: Any, x: Any) -> Any:
    """Return the bits of a float as a signed integer of its size."""
    result = {types.float32: types.int32, types.float64: types.int64}.get(x)
    if result is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(result))

    return result(x), codegen


@intrinsic
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


@intrinsic
def round_shifted(typingctx: Any, x: Any) -> Any:
    """Return round(x log2 e) plus the number that makes it the low bits of the sum."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fmuladd(builder, args[0], _constant(x, LOG2_E), _magic(x))

    return x(x), codegen


@intrinsic
def unshifted(typingctx: Any, t: Any) -> Any:
    """Return the integer in a sum made by `round_shifted`, as a float."""
    return t(t), lambda context, builder, signature, args: builder.fsub(args[0], _magic(t))


@intrinsic
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


@intrinsic
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


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """Return an address as a pointer to the element type of `like`, any array or number."""
    kind = types.CPointer(like.dtype if isinstance(like, types.Array) else like)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.intp, like), codegen


def _polynomial(builder: Any, r: Any, kind: Any, first: int) -> Any:
    table = (EXP6_F32 if kind == types.float32 else EXP11_F64)[first:]
    value = _constant(kind, table[-1])
    for c in reversed(table[:-1]):
        value = _fmuladd(builder, value, r, _constant(kind, c))
    return value


@intrinsic
def exp_polynomial(typingctx: Any, r: Any) -> Any:
    """Return exp(r) for |r| <= ln(2) / 2, to 0.9 ulp."""
    return r(r), lambda context, builder, signature, args: _polynomial(builder, args[0], r, 0)


@intrinsic
def expm1_polynomial(typingctx: Any, r: Any) -> Any:
    """Return (exp(r) - 1) / r for |r| <= ln(2) / 2."""
    return r(r), lambda context, builder, signature, args: _polynomial(builder, args[0], r, 1)


@intrinsic
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


@intrinsic
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


@intrinsic
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


@intrinsic
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


def _loader(kind: Any) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], context.get_value_type(types.CPointer(kind)))
            return builder.load(at, align=1)

        return kind(types.intp), codegen

    load.__doc__ = f"Return the {kind} at an address, which need not be aligned."
    return load


def _storer(kind: Any) -> Any:
    @intrinsic
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
