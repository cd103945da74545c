"""Layouts: the same values, another shape in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.cases import OPS, Case, Op, frozen
from tests.ops.oracle import assert_within

Array = np.ndarray[Any, Any]
Layout = Callable[[Array], Array]

WITH_OUT = [pytest.param(op, id=op.name) for op in OPS.values() if op.takes_out]
ALL_OPS = [pytest.param(op, id=op.name) for op in OPS.values()]


# Each layout returns an array equal to its argument, of a different shape in memory.


def fortran(x: Array) -> Array:
    return x.copy(order="F")


def every_second(x: Array) -> Array:
    big = np.full(tuple(2 * s for s in x.shape), np.nan, x.dtype)
    view = big[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def all_reversed(x: Array) -> Array:
    backwards = tuple(slice(None, None, -1) for _ in x.shape)
    return x[backwards].copy()[backwards]


def rows_reversed(x: Array) -> Array:
    return x[::-1].copy()[::-1]


def padded_rows(x: Array) -> Array:
    big = np.full((*x.shape[:-1], x.shape[-1] + 3), np.nan, x.dtype)
    big[..., : x.shape[-1]] = x
    return big[..., : x.shape[-1]]


def one_element_off(x: Array) -> Array:
    flat = np.full(x.size + 1, np.nan, x.dtype)
    flat[1:] = x.ravel()
    return flat[1:].reshape(x.shape)


def one_byte_off(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def axes_reversed_in_memory(x: Array) -> Array:
    order = tuple(range(x.ndim))[::-1]
    return x.transpose(order).copy().transpose(order)


def first_two_axes_swapped_in_memory(x: Array) -> Array:
    return x.swapaxes(0, 1).copy().swapaxes(0, 1)


def read_only(x: Array) -> Array:
    return frozen(x.copy())[0]


LAYOUTS: dict[str, Layout] = {
    "fortran": fortran,
    "every-second": every_second,
    "reversed": all_reversed,
    "rows-reversed": rows_reversed,
    "padded-rows": padded_rows,
    "one-element-off": one_element_off,
    "one-byte-off": one_byte_off,
    "axes-reversed-in-memory": axes_reversed_in_memory,
    "first-two-axes-swapped-in-memory": first_two_axes_swapped_in_memory,
    "read-only": read_only,
}
by_layout = pytest.mark.parametrize("layout", [pytest.param(f, id=name) for name, f in LAYOUTS.items()])


def check(op: Op, x: Array, t: Array, case: Case, shape: tuple[int, ...], axis: int, **kw: Any) -> None:
    """Compare a call on logits of any layout with the truth of the same rows laid out as (N, V)."""
    for quantity, got in op.run(x, t, axis=axis, **kw).items():
        want, units = case.truth[quantity], case.truth.units[quantity]
        if want.ndim == 2:  # as wide as the logits
            got = np.moveaxis(np.asarray(got), axis, -1)
        assert got.shape == (*shape, *want.shape[1:])
        name = f"{op.name} {quantity} axis={axis} of {x.shape}, strides {x.strides}"
        assert_within(name, got.reshape(want.shape), want, units, x.dtype)
