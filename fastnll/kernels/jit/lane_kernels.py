"""The loops over tiles of rows side by side: softmax and the plain cross entropy (see `lanes`)."""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.arithmetic import pick
from fastnll.kernels.jit.compiler import helper, kernel
from fastnll.kernels.jit.constants import FINISH_WORDS, LANES, SEGMENT
from fastnll.kernels.jit.finish import (
    LOGIT,
    LOSS,
    OWN,
    TOTAL,
    finish,
    finish_softmax,
    put_logsumexps,
    put_losses,
    tables,
)
from fastnll.kernels.jit.finish import start as start_lanes
from fastnll.kernels.jit.formats import read_float
from fastnll.kernels.jit.lanes import (
    add_all_but_largest,
    add_segment,
    add_terms,
    load_tile,
    scale_tile,
    store_tile,
    subtract_tile,
)
from fastnll.kernels.jit.memory import start_of, view
from fastnll.kernels.jit.rows import nll, target_term
from fastnll.kernels.jit.vecmath import wide

__all__ = ["cross_entropy_lanes", "softmax_lanes"]


@helper
def _scratch(work: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return the tile, a row of it, and the tables of `finish`."""
    lanes, state, targets = tables(work, 0)
    at = start_of(work) + FINISH_WORDS * work.itemsize
    tile = view(at, SEGMENT * LANES, work)
    # Lanes beyond the last row compute with what is there: make that numbers.
    for i in range(tile.size):
        tile[i] = pick(work, 0.0, 0.0)
    return tile, view(at + SEGMENT * LANES * work.itemsize, SEGMENT, work), lanes, state, targets


@helper
def _find_leads(task: Any, r: int, m: int, tile: Any, row: Any, lanes: Any, state: Any) -> None:
    """Put the logits of classes that take more than half of their rows into row 5, and their results into row 6.

    The tile holds the terms where they are one segment. See `rows.lead_stats`.
    """
    found = False
    for j in range(m):
        lead = wide(lanes[0, j]) - state[LOSS, j] > -0.69
        found = found or lead
        lanes[5, j] = lanes[0, j] if lead else pick(lanes, math.nan, math.nan)
    if not found:
        return
    n, others = task.classes, state[OWN]
    for j in range(LANES):
        others[j], lanes[6, j] = 0.0, 0.0
    for first in range(0, n, SEGMENT):
        count = min(SEGMENT, n - first)
        if n > SEGMENT:
            load_tile(task, r, m, first, count, tile, row)
            add_terms(tile, count, lanes)
        add_all_but_largest(tile, count, lanes, others)
    for j in range(m):
        x_t, base, k = wide(lanes[0, j]), wide(lanes[2, j]), wide(lanes[1, j])
        lanes[6, j] = -nll(others[j], target_term(x_t, base, k), x_t, base, k)


@kernel
def softmax_lanes(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write softmax, log_softmax, logsumexp of rows start .. stop - 1, `LANES` at a time."""
    task = tasks[0]
    n = task.classes
    tile, row, lanes, state, _ = _scratch(work)
    total = state[TOTAL]
    for r in range(start, stop, LANES):
        m = min(LANES, stop - r)
        for j in range(LANES):
            lanes[0, j], total[j] = -math.inf, 0.0
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            load_tile(task, r, m, first, count, tile, row)
            add_segment(tile, count, lanes, total, n == 1)
        finish_softmax(m, lanes, state, task.log)
        put_logsumexps(task, r, m, lanes, state, work)
        if task.out == 0:
            continue
        if task.log != 0:
            _find_leads(task, r, m, tile, row, lanes, state)
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            if task.log != 0 or n > SEGMENT:
                load_tile(task, r, m, first, count, tile, row)
            if task.log != 0:
                subtract_tile(tile, count, lanes[8], lanes[9], lanes[5], lanes[6])
            else:
                if n > SEGMENT:
                    add_terms(tile, count, lanes)
                scale_tile(tile, count, lanes[8])
            store_tile(task, r, m, first, count, tile, row)


@helper
def _read_logits(task: Any, r: int, m: int, lanes: Any, state: Any, targets: Any) -> None:
    """Read the logits of m targets, which are the first maxima."""
    o = r // task.inner
    i = r - o * task.inner
    for j in range(LANES):
        lanes[0, j] = 0.0
        if j < m:
            lanes[0, j] = -math.inf
            if targets[j] >= 0:
                x = task.x + o * task.x_outer + i * task.x_inner
                lanes[0, j] = read_float(x + targets[j] * task.x_class, task.x_code, lanes)
            i += 1
            if i == task.inner:
                i = 0
                o += 1
        state[LOGIT, j] = lanes[0, j]


@helper
def _leave_targets_out(first: int, count: int, targets: Any, tile: Any) -> None:
    for j in range(LANES):
        v = targets[j] - first
        if 0 <= v < count:
            tile[v * LANES + j] = -math.inf


@kernel
def cross_entropy_lanes(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write loss and gradient of rows start .. stop - 1, `LANES` at a time; start is a multiple of that."""
    task = tasks[0]
    n = task.classes
    tile, row, lanes, state, targets = _scratch(work)
    for r in range(start, stop, LANES):
        m = min(LANES, stop - r)
        start_lanes(task, r, m, lanes, state, targets)
        _read_logits(task, r, m, lanes, state, targets)
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            load_tile(task, r, m, first, count, tile, row)
            _leave_targets_out(first, count, targets, tile)
            add_segment(tile, count, lanes, state[TOTAL], n == 1)
        finish(m, lanes, state, targets)
        put_losses(task, r, m, lanes, state, 0.0, work)
        if task.out == 0:
            continue
        for first in range(0, n, SEGMENT):
            count = min(SEGMENT, n - first)
            if n > SEGMENT:
                load_tile(task, r, m, first, count, tile, row)
                add_terms(tile, count, lanes)
            scale_tile(tile, count, lanes[8])
            for j in range(m):
                v = targets[j] - first
                if 0 <= v < count:
                    tile[v * LANES + j] = state[OWN, j]
            store_tile(task, r, m, first, count, tile, row)
