"""exp(x) 2^-k as LLVM instructions, for numbers and for vectors of them.

With n = round(x log2 e) and r = x - n ln 2, exp(x) 2^-k is p(r) 2^(n - k). Each function takes lists of values and
works on them side by side: one exponential is a chain of a dozen instructions that wait for each other.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from fastnll.kernels.jit.compiler import HAS_AVX512, HAS_FMA
from fastnll.kernels.jit.constants import (
    EXP6_F32,
    EXP11_F64,
    LN2_F32,
    LN2_F64,
    LN2_SPLIT_F32,
    LN2_SPLIT_F64,
    LOG2_E,
    POWERS_F32,
    POWERS_F64,
)

__all__ = [
    "by_powers",
    "call",
    "constant",
    "fmuladd",
    "integers_like",
    "less_n_ln2",
    "magic",
    "maximum",
    "minimum",
    "polynomial",
    "power",
    "reference_bits",
    "relative",
    "splat",
]

Values = list[Any]


def _is_single(kind: Any) -> bool:
    """Return whether an LLVM type is float32 or a vector of it."""
    return bool(getattr(kind, "element", kind) == ir.FloatType())


def constant(kind: Any, value: float) -> Any:
    """Return a constant of a float type; in a vector, each lane is it."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)
    return ir.Constant(kind, value)


def integers_like(kind: Any) -> Any:
    """Return the integers of a float type's size."""
    integer = ir.IntType(32 if _is_single(kind) else 64)
    return ir.VectorType(integer, kind.count) if isinstance(kind, ir.VectorType) else integer


def _integer(kind: Any, value: int) -> Any:
    integers = integers_like(kind)
    return ir.Constant(integers, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def splat(builder: Any, number: Any, like: Any) -> Any:
    """Return a vector as long as the type `like` with a number in all lanes."""
    kind = ir.VectorType(number.type, like.count)
    nothing, i32 = ir.Constant(kind, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(nothing, number, ir.Constant(i32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(i32, like.count), [0] * like.count))


def fmuladd(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c; fmuladd, not fma: without the instruction it is a product and a sum, not a call of libm."""
    count = f"v{a.type.count}" if isinstance(a.type, ir.VectorType) else ""
    return call(builder, f"llvm.fmuladd.{count}{'f32' if _is_single(a.type) else 'f64'}", a.type, [a, b, c])


def maximum(builder: Any, low: Any, x: Any) -> Any:
    """Return the larger; x where it is NaN."""
    return builder.select(builder.fcmp_ordered("<", x, low), low, x)


def minimum(builder: Any, high: Any, x: Any) -> Any:
    """Return the smaller; x where it is NaN."""
    return builder.select(builder.fcmp_ordered(">", x, high), high, x)


def magic(kind: Any) -> float:
    """Return the number that, added to another, makes the nearest integer the low bits of the sum."""
    return 12582912.0 if _is_single(kind) else 6755399441055744.0  # 1.5 * 2^23, 1.5 * 2^52


def polynomial(builder: Any, r: Values, table: tuple[float, ...]) -> Values:
    """Return sum_i table[i] r^i."""
    kind = r[0].type
    values = [constant(kind, table[-1])] * len(r)
    for c in reversed(table[:-1]):
        values = [fmuladd(builder, v, a, constant(kind, c)) for v, a in zip(values, r, strict=True)]
    return values


def less_n_ln2(builder: Any, n: Values, x: Values) -> Values:
    """Return x - n ln 2 for the n next to x / ln 2, as exact as `rows.LIMITS` promises.

    With fma, x - n hi is exact although hi has all bits of ln 2. Without it n hi must be exact by
    itself, so hi is short and the rest comes in more pieces.
    """
    kind = x[0].type
    if HAS_FMA:
        for part in LN2_F32 if _is_single(kind) else LN2_F64:
            x = [fmuladd(builder, a, constant(kind, -part), b) for a, b in zip(n, x, strict=True)]
        return x
    for part in LN2_SPLIT_F32 if _is_single(kind) else LN2_SPLIT_F64:
        x = [builder.fsub(b, builder.fmul(a, constant(kind, part))) for a, b in zip(n, x, strict=True)]
    return x


def reference_bits(builder: Any, k: Any) -> Any:
    """Return what `power` takes for the reference 2^k, k an integer in a float: its bits shifted, less the bias."""
    kind = k.type
    shifted = builder.fadd(k, constant(kind, magic(kind)))
    return builder.sub(builder.bitcast(shifted, integers_like(kind)), _integer(kind, 127 if _is_single(kind) else 1023))


def power(builder: Any, shifted: Any, bits: Any) -> Any:
    """Return 2^(n - k): n in the low bits of `shifted`, bits from `reference_bits`.

    0 for n - k = -127 and infinity for n - k = 128 (in float32); the caller keeps n - k between those.
    """
    kind = shifted.type
    biased = builder.sub(builder.bitcast(shifted, integers_like(kind)), bits)
    return builder.bitcast(builder.shl(biased, _integer(kind, 23 if _is_single(kind) else 52)), kind)


def relative(builder: Any, x: Values, low: Any, high: Any, bits: Any) -> Values:
    """Return exp(x) 2^-k: 0 for x <= low, infinity for x >= high, NaN for NaN.

    low and high are where 2^(n - k) is no longer a number.
    """
    kind = x[0].type
    add = constant(kind, magic(kind))
    x = [maximum(builder, low, a) for a in x]
    x = [minimum(builder, high, a) for a in x]
    shifted = [fmuladd(builder, a, constant(kind, LOG2_E), add) for a in x]
    n = [builder.fsub(t, add) for t in shifted]
    p = polynomial(builder, less_n_ln2(builder, n, x), EXP6_F32 if _is_single(kind) else EXP11_F64)
    return [builder.fmul(a, power(builder, t, bits)) for a, t in zip(p, shifted, strict=True)]


def by_powers(builder: Any, x: Values, low: Any, k: Any) -> Values:
    """Return exp(x) 2^-k for vectors of 64 bytes; infinity and NaN give NaN. A k of None is 0.

    n is in sixteenths: 2^floor(n) times one of sixteen numbers in a register. What is left of x is so small that
    few terms of the series do.
    """
    assert HAS_AVX512
    kind = x[0].type
    add = constant(kind, magic(kind) / 16)
    x = [maximum(builder, low, a) for a in x]
    shifted = [fmuladd(builder, a, constant(kind, LOG2_E), add) for a in x]
    n = [builder.fsub(t, add) for t in shifted]
    r = less_n_ln2(builder, n, x)
    powers = [_power_of_sixteen(builder, t) for t in shifted]
    s = polynomial(builder, r, POWERS_F32 if _is_single(kind) else POWERS_F64)
    s = [fmuladd(builder, builder.fmul(a, a), b, a) for a, b in zip(r, s, strict=True)]
    p = [fmuladd(builder, a, b, a) for a, b in zip(powers, s, strict=True)]
    if k is not None:
        n = [builder.fsub(a, k) for a in n]
    return [_scaled(builder, a, b) for a, b in zip(p, n, strict=True)]


def _power_of_sixteen(builder: Any, shifted: Any) -> Any:
    """Return 2^(j/16), j being the low four bits of each lane."""
    kind = shifted.type
    integers = integers_like(kind)
    index = builder.bitcast(shifted, integers)
    numbers = [2.0 ** (j / 16) for j in range(16)]
    if _is_single(kind):
        table = ir.Constant(kind, [ir.Constant(kind.element, p) for p in numbers])
        return call(builder, "llvm.x86.avx512.permvar.sf.512", kind, [table, index])
    halves = [ir.Constant(kind, [ir.Constant(kind.element, p) for p in numbers[i : i + 8]]) for i in (0, 8)]
    return call(builder, "llvm.x86.avx512.vpermi2var.pd.512", kind, [halves[0], index, halves[1]])


def _scaled(builder: Any, p: Any, n: Any) -> Any:
    """Return p 2^floor(n)."""
    kind = p.type
    mask = ir.IntType(kind.count)
    name = f"llvm.x86.avx512.mask.scalef.{'ps' if _is_single(kind) else 'pd'}.512"
    current_rounding = ir.Constant(ir.IntType(32), 4)
    return call(builder, name, kind, [p, n, p, ir.Constant(mask, -1), current_rounding])


def call(builder: Any, name: str, result: Any, arguments: Values) -> Any:
    """Call one of LLVM's intrinsics by its full name."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)
