"""Rows in groups: the sums of all, then their scalars as vectors (see `finish`), then what is written.

The terms of a group fit the first-level cache and are still there when the scalars are known.
"""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.arithmetic import pick
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.emit import fill_row, log_row, scale_row
from fastnll.kernels.jit.finish import LOGIT, OWN, TOTAL, WEIGHT
from fastnll.kernels.jit.formats import read_row, write_row
from fastnll.kernels.jit.memory import start_of, view
from fastnll.kernels.jit.rows import lead_stats, row_stats
from fastnll.kernels.jit.vecmath import wide

__all__ = ["sum_rows", "write_rows"]


@helper
def sum_rows(task: Any, r: int, m: int, lanes: Any, state: Any, targets: Any, like: Any) -> None:
    """Sum rows r .. r + m - 1 without their targets, and keep the terms where the results are made of them.

    For log_softmax the targets are what is found: classes that take most of their rows.
    """
    n, size = task.classes, like.itemsize
    keep = 1 if task.out != 0 and task.log == 0 else 0
    e = start_of(like)
    o = r // task.inner
    i = r - o * task.inner
    for j in range(m):
        if state[WEIGHT, j] != 0.0:
            x, t = task.x + o * task.x_outer + i * task.x_inner, targets[j] if task.log == 0 else -1
            if not task.direct:
                fetched = start_of(like) + task.tile_at * size
                read_row(x, task.x_class, task.x_code, view(fetched, n, like))
                x = fetched
            if task.log != 0:
                base, k, others, targets[j], state[OWN, j] = lead_stats(x, n, e, like)
            else:
                base, k, others = row_stats(x, n, t, e, keep, like)
            if t >= 0:
                state[LOGIT, j] = wide(view(x, n, like)[t])
            if others != others:  # no distribution; the logsumexp may exist all the same
                lanes[0, j] = base
                others = 0.0 if base == -math.inf else math.nan
                base = 0.0
            elif keep and t >= 0:
                view(e, n, like)[t] = pick(like, -others, -others)
            lanes[1, j], lanes[2, j], state[TOTAL, j] = k, base, others
        e += keep * task.pitch * size
        i += 1
        if i == task.inner:
            i = 0
            o += 1


@helper
def write_rows(task: Any, r: int, m: int, lanes: Any, state: Any, targets: Any, like: Any) -> None:
    """Write rows r .. r + m - 1: terms times the factor in row 8 of `lanes`, or logits minus rows 8 and 9.

    Where results go past the caches, short rows are put together first: their ends are parts of lines.
    """
    n, size = task.classes, like.itemsize
    together = task.bypass and task.group > 1
    e = start_of(like)
    o = r // task.inner
    i = r - o * task.inner
    first = task.out + o * task.out_outer + i * task.out_inner
    for j in range(m):
        out = task.out + o * task.out_outer + i * task.out_inner
        y = out if task.direct and not together else e
        if state[WEIGHT, j] == 0.0:
            fill_row(y, n, 0.0, like)
        elif task.log != 0:
            x = task.x + o * task.x_outer + i * task.x_inner
            if not task.direct:
                read_row(x, task.x_class, task.x_code, view(e, n, like))
                x = e
            log_row(x, y, n, lanes[8, j], lanes[9, j], task.bypass and not together)
            if targets[j] >= 0:
                view(y, n, like)[targets[j]] = pick(like, state[OWN, j], state[OWN, j])
        else:
            scale_row(e, y, n, lanes[8, j], task.bypass and not together)
        if not task.direct:
            write_row(view(e, n, like), out, task.out_class, task.out_code)
        e += task.pitch * size
        i += 1
        if i == task.inner:
            i = 0
            o += 1
    if together:
        scale_row(start_of(like), first, m * n, pick(like, 1.0, 1.0), task.bypass)
