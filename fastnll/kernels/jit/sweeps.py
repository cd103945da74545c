"""The loops over contiguous elements that rows are made of: exponentials and their sum, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types as numba_types

from fastnll.kernels.jit import exponential
from fastnll.kernels.jit.compiler import HAS_AVX512, IS_X86, VECTOR_BYTES, instruction
from fastnll.kernels.jit.constants import AHEAD, NEAR
from fastnll.kernels.jit.memory import prefetch_line
from fastnll.kernels.jit.vectors import SIDE_BY_SIDE, Loops

__all__ = [
    "exp_block",
    "exp_block_except",
    "kept_block",
    "kept_block_except",
    "scale",
    "scale_past_caches",
    "shifted_block",
    "stores_done",
    "subtract",
    "subtract_past_caches",
]

types: Any = numba_types
# Rounds whose sums are added up apart: a term that is most of the sum must not round each of the others of its lane.
_RUN = 16


def _exponentials(loops: Loops, x: list[Any], k: Any) -> list[Any]:
    """Return exp(x) 2^-k; without k where it is None."""
    b, single = loops.builder, loops.size == 4
    if HAS_AVX512:
        # Far enough below for what underflows to be an exact 0, and not so far that n is no number.
        return exponential.by_powers(b, x, loops.number(-(2.0**21) if single else -(2.0**42)), k)
    k = loops.number(0.0) if k is None else k
    ln2 = loops.number(math.log(2.0))
    low = b.fmul(b.fsub(k, loops.number(127.0 if single else 1023.0)), ln2)
    high = b.fmul(b.fadd(k, loops.number(128.0 if single else 1024.0)), ln2)
    return exponential.relative(b, x, low, high, exponential.reference_bits(b, k))


def _exp_block(keeps: bool, leaves_out: bool, shifts: bool) -> Any:
    @instruction
    def block(typingctx: Any, x: Any, e: Any, n: Any, skip: Any, k: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loops = Loops(context, builder, k)
            x_at, e_at, count, left_out, reference = args
            width = loops.width
            shift = loops.all(reference) if shifts else None
            zero = loops.number(0.0)
            sums, totals = ([loops.variable(zero) for _ in range(SIDE_BY_SIDE)] for _ in range(2))
            position = loops.variable(loops.integers(left_out))  # of what is left out, from a round's first element

            def put(i: Any, values: list[Any], live: Any = None) -> None:
                for q, value in enumerate(values):
                    if leaves_out:
                        own = builder.icmp_signed("==", loops.counting(q * width), builder.load(position))
                        value = builder.select(own, zero, value)
                    elif live is not None:
                        value = builder.select(live, value, zero)
                    if keeps and live is None:
                        loops.store(value, loops.address(e_at, i, q * width))
                    elif keeps:
                        loops.store_part(value, loops.address(e_at, i), live)
                    loops.add_to(sums[q], value)
                if leaves_out:
                    passed = loops.integers(loops.intp(len(values) * width))
                    builder.store(builder.sub(builder.load(position), passed), position)

            end, step = loops.whole(count), SIDE_BY_SIDE * width
            with loops.over(loops.intp(0), end, _RUN * step) as run:
                run_end = loops.least(builder.add(run, loops.intp(_RUN * step)), end)
                with loops.over(run, run_end, step) as i:
                    _ask(loops, loops.address(x_at, i), write=False)
                    logits = [loops.load(loops.address(x_at, i, q * width)) for q in range(SIDE_BY_SIDE)]
                    put(i, _exponentials(loops, logits, shift))
                for part, total in zip(sums, totals, strict=True):
                    loops.add_to(total, builder.load(part))
                    builder.store(zero, part)
            with loops.over(end, count, width) as i:
                live = loops.lanes("<", builder.sub(count, i))
                _ask(loops, loops.address(x_at, i), write=False, vectors=1)
                logits = [loops.load_part(loops.address(x_at, i), live, -math.inf)]
                put(i, _exponentials(loops, logits, shift), live)
            lanes = [builder.fadd(*map(builder.load, pair)) for pair in zip(totals, sums, strict=True)]
            total = loops.sum(lanes)
            return context.make_tuple(builder, pair, (total, loops.largest(lanes))) if measures else total

        measures = not (keeps or leaves_out)
        pair = types.UniTuple(types.float64, 2)
        return (pair if measures else types.float64)(types.intp, types.intp, types.intp, types.intp, k), codegen

    block.__doc__ = "Return the sum of exp(x){} of n elements in float64{}{}.".format(
        " 2^-k" if shifts else "",
        " without element `skip`" if leaves_out else "",
        ", and write the terms to e, 0 for what is left out" if keeps else "",
    )
    if not (keeps or leaves_out):
        block.__doc__ += " The second number is above half of it if one element is."
    return block


exp_block, exp_block_except, kept_block, kept_block_except = (
    _exp_block(keeps, leaves_out, shifts=False) for keeps in (False, True) for leaves_out in (False, True)
)
shifted_block = _exp_block(keeps=True, leaves_out=True, shifts=True)


def _ask(loops: Loops, address: Any, write: bool, vectors: int = SIDE_BY_SIDE) -> None:
    """Ask for the lines of a later round: far ahead as far as the second-level cache, less far all the way.

    The last round of a row asks too, or one line in as many as a row has would come from memory when it is needed.
    """
    b = loops.builder
    for line in range(0, vectors * VECTOR_BYTES, 64):
        if not write:
            prefetch_line(b, b.add(address, loops.intp(AHEAD + line)), locality=2)
        prefetch_line(b, b.add(address, loops.intp(NEAR + line)), write=int(write))


def _sweep(formula: Callable[..., Any], summary: str, bypass: bool, reads: bool) -> Any:
    """Return the instruction that writes a formula of each of n elements; x and y are apart or the same.

    The formula gets the builder, values (a vector or one number), and the two numbers as such.
    """

    @instruction
    def sweep(typingctx: Any, x: Any, y: Any, n: Any, first: Any, second: Any) -> Any:
        if first != second:
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loops = Loops(context, builder, first)
            x_at, y_at, count, *numbers = args
            vectors = [loops.all(number) for number in numbers]

            def one_by_one(start: Any, stop: Any) -> None:
                with loops.over(start, stop, 1) as i:
                    value = formula(builder, loops.load_one(loops.address(x_at, i)), *numbers)
                    loops.store_bits(value, loops.address(y_at, i))

            def ask(i: Any, vectors: int) -> None:
                if reads:
                    _ask(loops, loops.address(x_at, i), write=False, vectors=vectors)
                if not bypass:
                    _ask(loops, loops.address(y_at, i), write=True, vectors=vectors)

            start = loops.intp(0)
            if bypass:
                gap = builder.and_(builder.neg(y_at), loops.intp(VECTOR_BYTES - 1))
                start = loops.least(builder.udiv(gap, loops.intp(loops.size)), count)
                one_by_one(loops.intp(0), start)
            rounds = builder.add(start, loops.whole(builder.sub(count, start)))
            with loops.over(start, rounds, SIDE_BY_SIDE * loops.width) as i:
                ask(i, SIDE_BY_SIDE)
                for q in range(SIDE_BY_SIDE):
                    value = formula(builder, loops.load(loops.address(x_at, i, q * loops.width)), *vectors)
                    loops.store(value, loops.address(y_at, i, q * loops.width), bypass)
            if bypass:
                whole = builder.and_(builder.sub(count, rounds), loops.intp(-loops.width))
                end = builder.add(rounds, whole)
                with loops.over(rounds, end, loops.width) as i:
                    ask(i, 1)
                    value = formula(builder, loops.load(loops.address(x_at, i)), *vectors)
                    loops.store(value, loops.address(y_at, i), bypass)
                one_by_one(end, count)
            else:
                with loops.over(rounds, count, loops.width) as i:
                    live = loops.lanes("<", builder.sub(count, i))
                    ask(i, 1)
                    value = formula(builder, loops.load_part(loops.address(x_at, i), live, 0.0), *vectors)
                    loops.store_part(value, loops.address(y_at, i), live)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp, first, second), codegen

    sweep.__doc__ = summary + (" past the caches: call `stores_done` before others read it." if bypass else ".")
    return sweep


def _product(builder: Any, value: Any, factor: Any, _: Any) -> Any:
    return builder.fmul(value, factor)


def _difference(builder: Any, value: Any, high: Any, low: Any) -> Any:
    # The large part first, and at most 0: the logarithm of a probability.
    zero = exponential.constant(value.type, 0.0)
    return exponential.minimum(builder, zero, builder.fsub(builder.fsub(value, high), low))


_SCALE, _SUBTRACT = "Write x `first` to y", "Write min(x - first - second, 0) to y"
scale, scale_past_caches = (_sweep(_product, _SCALE, bypass, reads=False) for bypass in (False, True))
subtract, subtract_past_caches = (_sweep(_difference, _SUBTRACT, bypass, reads=True) for bypass in (False, True))


@instruction
def stores_done(typingctx: Any) -> Any:
    """Wait until stores past the caches are where others read them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if IS_X86:
            exponential.call(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
        else:
            builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
