"""Beyond 2^31 elements: offsets that do not fit 32 bits, and more elements than they can count.

The memory is reserved, not used: an anonymous mapping holds pages only where something was written.
"""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import FULL, OPS, Engine, frozen, make_case
from tests.ops.layouts import check

Array = np.ndarray[Any, Any]


def sparse(shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> Array:
    """Return an array of large strides (in elements) over reserved memory."""
    size = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    item = np.dtype(dtype).itemsize
    if not sys.platform.startswith("linux"):
        pytest.skip("reserving address space without memory is known here for Linux only")
    try:
        # MAP_NORESERVE has a name in Python only from 3.13 on.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        memory = mmap.mmap(-1, size * item, flags=flags)
    except (OSError, OverflowError) as error:
        pytest.skip(f"cannot reserve {size * item} bytes of address space: {error!r}")
    return np.ndarray(shape, dtype, buffer=memory, strides=tuple(s * item for s in strides))


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS.values()])
def test_offsets_beyond_32_bits(engine: Engine, op: Any, dtype: str) -> None:
    """Rows 2^30 elements apart, then classes 2^29 apart: the last lies past 2^31 elements, 2^33 bytes."""
    for n, v, strides in ((4, 33, (2**30, 1)), (5, 6, (1, 2**29))):
        case = make_case(n, v, dtype)
        x = sparse((n, v), strides, case.x.dtype)
        x[...] = case.x
        t = sparse((n,), (2**30,), np.int32)
        t[...] = case.t
        check(op, x, t, case, (n,), -1)
        check(op, x.T, t, case, (n,), 0)
        if op.takes_out:
            check(op, case.x, case.t, case, (n,), -1, out=sparse((n, v), strides, case.x.dtype))
            check(op, x, t, case, (n,), -1, out=x)


@pytest.mark.slow
def test_more_elements_than_32_bits_count(engine: Engine) -> None:
    """Each row the same, in the same memory."""
    if engine.backend != "native":
        pytest.skip(f"{engine.name}: takes minutes")
    n, v = 2**16 + 8, 2**15
    case = make_case(1, v, "float32")
    x = np.broadcast_to(case.x, (n, v))
    t = frozen(np.full(n, case.t[0], np.uint16))[0]
    assert x.size > 2**31
    rows = fn.cross_entropy(x, t, reduction="none")
    assert np.all(rows == fn.cross_entropy(case.x, case.t, reduction="none"))
    assert fn.cross_entropy(x, t) == pytest.approx(float(case.truth.loss[0]), rel=1e-6)
