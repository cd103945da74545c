"""The plain cross entropy of contiguous rows: integer targets, weights, nothing that changes a logit.

loss = c (lse - x_t); d loss / d x_v = c (p_v - [v = t]), where p_t - 1 = -(sum of the others) / total, without
cancellation. So the terms of a row with minus their sum in the target's place are the gradient but for one factor.
"""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.access import number_at, put, target_of
from fastnll.kernels.jit.arithmetic import pick
from fastnll.kernels.jit.compiler import helper, kernel
from fastnll.kernels.jit.constants import LANES
from fastnll.kernels.jit.emit import fill_row, scale_row
from fastnll.kernels.jit.finish import finish, gradient_factor, put_losses, row_loss, tables
from fastnll.kernels.jit.finish import start as start_rows
from fastnll.kernels.jit.groups import sum_rows, write_rows
from fastnll.kernels.jit.memory import view
from fastnll.kernels.jit.rows import lse_pair, row_stats
from fastnll.kernels.jit.sweeps import stores_done
from fastnll.kernels.jit.vecmath import wide

__all__ = ["cross_entropy_rows", "plain_row"]


@helper
def plain_row(task: Any, r: int, o: int, i: int, x: int, second: int, y: int, terms: int, like: Any) -> float:
    """Write loss and gradient of one row by itself; return its weighted loss."""
    n = task.classes
    weight = number_at(task.row_weight, r, 1.0)
    if weight == 0.0:
        put(task.loss, task.loss_code, r, 0.0)
        put(task.lse, task.lse_code, r, 0.0)
        if task.out != 0:
            fill_row(y, n, 0.0, like)
        return 0.0
    t = target_of(task, o, i)
    base, k, others = row_stats(x, n, t, terms, 1 if task.out != 0 else 0, like)
    lse, loss = lse_pair(base, k, others)[0], math.nan
    if t >= 0 and others == others:
        c = number_at(task.target_weight, r, 1.0)
        x_t = wide(view(x, n, like)[t])
        loss, factor, total = row_loss(others, x_t, base, k, weight * c, gradient_factor(task, r, weight) * c)
        lse = lse_pair(base, k, total)[0]
        if task.out != 0:
            view(terms, n, like)[t] = pick(like, -others, -others)
            scale_row(terms, y, n, pick(like, factor, factor), False)
    elif task.out != 0:
        fill_row(y, n, math.nan, like)
    put(task.lse, task.lse_code, r, lse)
    put(task.loss, task.loss_code, r, loss)
    return loss


@kernel
def cross_entropy_rows(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Write loss and gradient of rows start .. stop - 1; start is a multiple of `LANES` where blocks are summed."""
    task = tasks[0]
    lanes, state, targets = tables(work, task.lanes_at)
    block = 0.0
    r = start
    while r < stop:
        m = min(task.group, LANES - r % LANES, stop - r)
        start_rows(task, r, m, lanes, state, targets)
        sum_rows(task, r, m, lanes, state, targets, work)
        finish(m, lanes, state, targets)
        block = put_losses(task, r, m, lanes, state, block, work)
        if task.out != 0:
            write_rows(task, r, m, lanes, state, targets, work)
        r += m
    if task.bypass:
        stores_done()
