"""Loops over explicit vectors, as LLVM instructions.

LLVM's own vectoriser makes good loops of plain ones. It does not know that sixteen powers of two lie in one
register, that the end of a row is one vector under a mask, or that a result should not pass through the caches.
Vectors are as long as the CPU's widest register.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils as numba_cgutils
from numba.core import types as numba_types

from fastnll.kernels.jit import exponential
from fastnll.kernels.jit.compiler import VECTOR_BYTES

__all__ = ["SIDE_BY_SIDE", "Loops"]

types: Any = numba_types
cgutils: Any = numba_cgutils
# Vectors in one round of a loop.
SIDE_BY_SIDE = 4


class Loops:
    """Loops over vectors of one float type, written where the builder stands."""

    def __init__(self, context: Any, builder: Any, kind: Any) -> None:
        self.builder = builder
        self.size = 4 if kind == types.float32 else 8
        self.width = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(context.get_value_type(kind), self.width)
        self.intp = context.get_value_type(types.intp)

    def number(self, value: float) -> Any:
        """Return a vector of a constant."""
        return exponential.constant(self.vector, value)

    def all(self, value: Any) -> Any:
        """Return a vector of one number."""
        return exponential.splat(self.builder, value, self.vector)

    def variable(self, value: Any) -> Any:
        """Return the place of a variable with its first value."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)
        return place

    def add_to(self, place: Any, value: Any) -> None:
        """Add to a variable."""
        self.builder.store(self.builder.fadd(self.builder.load(place), value), place)

    def whole(self, n: Any) -> Any:
        """Return how many of n elements the unrolled loop takes."""
        return self.builder.and_(n, self.intp(-SIDE_BY_SIDE * self.width))

    def least(self, a: Any, b: Any) -> Any:
        """Return the smaller of two counts."""
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    @contextmanager
    def over(self, start: Any, stop: Any, step: int) -> Iterator[Any]:
        """Write the body of a loop that may not run at all."""
        with cgutils.for_range_slice(self.builder, start, stop, self.intp(step), self.intp) as (i, _):
            yield i

    def address(self, start: Any, i: Any, ahead: int = 0) -> Any:
        """Return the address of element i, and of what lies some elements further on."""
        moved = self.builder.add(i, self.intp(ahead)) if ahead else i
        return self.builder.add(start, self.builder.mul(moved, self.intp(self.size)))

    def _pointer(self, address: Any) -> Any:
        return self.builder.inttoptr(address, ir.PointerType(self.vector))

    def load(self, address: Any) -> Any:
        """Return the vector at an address."""
        return self.builder.load(self._pointer(address), align=self.size)

    def store(self, value: Any, address: Any, bypass: bool = False) -> None:
        """Write a vector; past the caches only where the address is a multiple of its size."""
        done = self.builder.store(value, self._pointer(address), align=VECTOR_BYTES if bypass else self.size)
        if bypass:
            self._mark(done)

    def store_bits(self, value: Any, address: Any) -> None:
        """Write one number past the caches."""
        bits = ir.IntType(8 * self.size)
        at = self.builder.inttoptr(address, ir.PointerType(bits))
        self._mark(self.builder.store(self.builder.bitcast(value, bits), at, align=self.size))

    def _mark(self, store: Any) -> None:
        store.set_metadata("nontemporal", self.builder.module.add_metadata([ir.IntType(32)(1)]))

    def load_one(self, address: Any) -> Any:
        """Return the number at an address."""
        return self.builder.load(self.builder.inttoptr(address, ir.PointerType(self.vector.element)), align=self.size)

    def integers(self, number: Any) -> Any:
        """Return a vector of an integer, of the floats' size."""
        kind = exponential.integers_like(self.vector).element
        return self.all(number if kind == self.intp else self.builder.trunc(number, kind))

    def counting(self, first: int) -> Any:
        """Return the integers from the first on."""
        kind = exponential.integers_like(self.vector)
        return ir.Constant(kind, [ir.Constant(kind.element, first + j) for j in range(self.width)])

    def lanes(self, predicate: str, number: Any) -> Any:
        """Return which lanes' own numbers are `predicate` an integer."""
        return self.builder.icmp_signed(predicate, self.counting(0), self.integers(number))

    def load_part(self, address: Any, live: Any, rest: float) -> Any:
        """Return the live lanes of the vector at an address, others being `rest`."""
        arguments = [self._pointer(address), ir.IntType(32)(self.size), live, self.number(rest)]
        return self._masked("load", self.vector, arguments)

    def store_part(self, value: Any, address: Any, live: Any) -> None:
        """Write the live lanes of a vector."""
        self._masked("store", ir.VoidType(), [value, self._pointer(address), ir.IntType(32)(self.size), live])

    def _masked(self, name: str, result: Any, arguments: list[Any]) -> Any:
        return exponential.call(self.builder, f"llvm.masked.{name}.v{self.width}f{8 * self.size}.p0", result, arguments)

    def _halved(self, value: Any, operation: Callable[[Any, Any], Any]) -> Any:
        """Return what an operation makes of all lanes of a vector."""
        b = self.builder
        while value.type.count > 1:
            half = value.type.count // 2
            kind = ir.VectorType(ir.IntType(32), half)
            parts = [ir.Constant(kind, list(range(at, at + half))) for at in (0, half)]
            value = operation(*[b.shuffle_vector(value, value, part) for part in parts])
        return b.extract_element(value, ir.IntType(32)(0))

    def _wide(self, value: Any) -> Any:
        return self.builder.fpext(value, ir.VectorType(ir.DoubleType(), self.width)) if self.size == 4 else value

    def sum(self, values: list[Any]) -> Any:
        """Return the sum of all lanes in float64."""
        while len(values) > 1:
            values = [self.builder.fadd(*values[i : i + 2]) for i in range(0, len(values), 2)]
        return self._halved(self._wide(values[0]), self.builder.fadd)

    def largest(self, values: list[Any]) -> Any:
        """Return the largest of all lanes in float64; with NaN among them, it or NaN."""
        greatest = values[0]
        for value in values[1:]:
            greatest = exponential.maximum(self.builder, greatest, value)
        return self._halved(self._wide(greatest), lambda a, b: exponential.maximum(self.builder, a, b))
