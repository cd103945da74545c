"""Reading and writing what a record (see `records`) points to: tiles of rows, targets, per-row numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.constants import LANES
from fastnll.kernels.jit.formats import read_float, read_row, write_float, write_row
from fastnll.kernels.jit.memory import (
    load_f64,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    start_of,
    store_f32,
    store_f64,
    view,
)

__all__ = ["number_at", "put", "read_integer", "row_loop", "target_of"]


@helper
def read_integer(address: int, code: int) -> int:
    """Return a stored integer; the codes are positions in `fastnll.dtypes.INTEGERS`.

    An uint64 beyond int64 comes out negative, which is no class either.
    """
    if code >= 6:
        value: int = load_i64(address)
    elif code == 5:
        value = load_i32(address)
    elif code == 4:
        value = load_u32(address)
    elif code == 3:
        value = load_i16(address)
    elif code == 2:
        value = load_u16(address)
    elif code == 1:
        value = load_i8(address)
    else:
        value = load_u8(address)
    return value


@helper(inline=True)
def target_of(task: Any, o: int, i: int) -> int:
    """Return the target of row (o, i), -1 where there is none or where it is no class.

    Targets have been checked where the caller wished so; where not, memory must still be safe.
    """
    if task.targets == 0:
        return -1
    t = read_integer(task.targets + o * task.targets_outer + i * task.targets_inner, task.targets_code)
    return t if 0 <= t < task.classes else -1


@helper(inline=True)
def number_at(address: int, r: int, missing: float) -> float:
    """Return element r of a float64 vector, or `missing` where there is no vector."""
    return load_f64(address + 8 * r) if address != 0 else missing


@helper(inline=True)
def put(address: int, code: int, r: int, value: float) -> None:
    """Write element r of a float64 (code 0) or float32 vector, where there is one."""
    if address == 0:
        return
    if code == 0:
        store_f64(address + 8 * r, value)
    else:
        store_f32(address + 4 * r, value)


@helper
def _fetch(x: int, inner: int, step: int, code: int, m: int, n: int, tile: int, like: Any) -> None:
    """Copy m rows of n elements to contiguous rows of the compute dtype."""
    if m == 1:
        read_row(x, step, code, view(tile, n, like))
        return
    rows = view(tile, m * n, like)
    plain = inner == like.itemsize and code == (1 if inner == 4 else 0)
    for v in range(n):
        if plain:
            near = view(x + v * step, m, like)
            for j in range(m):
                rows[j * n + v] = near[j]
        else:
            for j in range(m):
                rows[j * n + v] = read_float(x + v * step + j * inner, code, like)


@helper
def _store(tile: int, m: int, n: int, out: int, inner: int, step: int, code: int, like: Any) -> None:
    """Copy contiguous rows of the compute dtype to where they belong."""
    if m == 1:
        write_row(view(tile, n, like), out, step, code)
        return
    rows = view(tile, m * n, like)
    plain = inner == like.itemsize and code == (1 if inner == 4 else 0)
    for v in range(n):
        if plain:
            near = view(out + v * step, m, like)
            for j in range(m):
                near[j] = rows[j * n + v]
        else:
            for j in range(m):
                write_float(out + v * step + j * inner, code, rows[j * n + v])


def row_loop(formula: Callable[..., float]) -> Any:
    """Return the loop that applies a row formula to rows start .. stop - 1.

    The formula gets the record, the row's number and its two indices, the addresses of the row, of its
    second input and of its result, scratch memory for the terms, and the scratch array (for its dtype).
    It returns the row's loss. Sums of losses are per block of `LANES` rows, so start must be a multiple of that where
    they are asked for.
    """

    def loop(tasks: Any, start: int, stop: int, work: Any) -> None:
        task = tasks[0]
        n, size, inner = task.classes, work.itemsize, task.inner
        terms = start_of(work)
        tile, second_tile = terms + task.tile_at * size, terms + task.second_at * size
        block = 0.0
        r = start
        o = r // inner
        i = r - o * inner
        while r < stop:
            m = min(task.tile, inner - i, stop - r)
            x = task.x + o * task.x_outer + i * task.x_inner
            second = task.second + o * task.second_outer + i * task.second_inner
            out = task.out + o * task.out_outer + i * task.out_inner
            # A row of weight 0 is not read; in a tile of several it is read and not used.
            if not task.direct and (m > 1 or number_at(task.row_weight, r, 1.0) != 0.0):
                _fetch(x, task.x_inner, task.x_class, task.x_code, m, n, tile, work)
                if task.second != 0:
                    _fetch(second, task.second_inner, task.second_class, task.second_code, m, n, second_tile, work)
            for j in range(m):
                if task.direct:
                    value = formula(task, r, o, i, x, second, out, terms, work)
                else:
                    at = j * n * size
                    value = formula(task, r + j, o, i + j, tile + at, second_tile + at, tile + at, terms, work)
                block += value
                after = r + j + 1
                if task.row_loss != 0:
                    store_f64(task.row_loss + 8 * (after - 1), value)
                if after % LANES == 0 or after == task.rows:
                    if task.block_sums != 0:
                        store_f64(task.block_sums + 8 * ((after - 1) // LANES), block)
                    block = 0.0
            if not task.direct and task.out != 0:
                _store(tile, m, n, out, task.out_inner, task.out_class, task.out_code, work)
            r += m
            i += m
            if i == inner:
                i = 0
                o += 1

    # The linker knows functions by qualified name: two loops of one name would be one in kernels that come
    # from the cache, where the number that Numba appends counts the compilations of another process.
    loop.__name__ = loop.__qualname__ = f"loop_over_{formula.__name__}"
    return helper(paste=True)(loop)
