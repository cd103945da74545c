"""The row formula of the plain cross entropy: integer targets, weights, nothing that changes a logit."""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.access import number_at, put, row_loop, target_of
from fastnll.kernels.jit.arithmetic import pick
from fastnll.kernels.jit.compiler import helper, kernel
from fastnll.kernels.jit.emit import fill_row, scale_row
from fastnll.kernels.jit.memory import store_i64, view
from fastnll.kernels.jit.rows import lse_pair, nll, row_stats, target_term
from fastnll.kernels.jit.vecmath import wide

__all__ = ["absent_row", "cross_entropy_rows", "gradient_factor"]


@helper
def absent_row(task: Any, r: int, y: int, like: Any) -> None:
    """Write the outputs of a row of weight 0."""
    put(task.loss, task.loss_code, r, 0.0)
    put(task.lse, task.lse_code, r, 0.0)
    put(task.entropy, task.entropy_code, r, 0.0)
    if task.argmax != 0:
        store_i64(task.argmax + 8 * r, -1)
    if task.rank != 0:
        store_i64(task.rank + 8 * r, -1)
    if task.out != 0:
        fill_row(y, task.classes, 0.0, like)


@helper(inline=True)
def gradient_factor(task: Any, r: int, weight: float) -> float:
    """Return what the gradient of row r's loss is multiplied by."""
    factor: float = task.grad_scale * number_at(task.grad_weight, r, weight)
    return factor


@helper
def plain_row(task: Any, r: int, o: int, i: int, x: int, second: int, y: int, terms: int, like: Any) -> float:
    """Write loss and gradient of one row; return its weighted loss.

    loss = c (lse - x_t); d loss / d x_v = c (p_v - [v = t]), where p_t - 1 = -(sum of the others) / total,
    without cancellation.
    """
    n = task.classes
    weight = number_at(task.row_weight, r, 1.0)
    if weight == 0.0:
        absent_row(task, r, y, like)
        return 0.0
    t = target_of(task, o, i)
    base, k, others = row_stats(x, n, t, terms, 1 if task.out != 0 else 0, like)
    if t < 0 or others != others:
        # No class, or no distribution. The logsumexp may exist all the same.
        put(task.lse, task.lse_code, r, lse_pair(base, k, others)[0])
        put(task.loss, task.loss_code, r, math.nan)
        if task.out != 0:
            fill_row(y, n, math.nan, like)
        return math.nan
    x_t = wide(view(x, n, like)[t])
    e_t = target_term(x_t, base, k)
    total = others + e_t
    if task.lse != 0:  # a logarithm that most calls do not need
        put(task.lse, task.lse_code, r, lse_pair(base, k, total)[0])
    c = number_at(task.target_weight, r, 1.0)
    loss = weight * c * nll(others, e_t, x_t, base, k) if c != 0.0 else 0.0
    put(task.loss, task.loss_code, r, loss)
    if task.out != 0:
        factor = gradient_factor(task, r, weight) * c / total
        scale_row(terms, y, n, factor, like)
        view(y, n, like)[t] = pick(like, -factor * others, -factor * others)
    return loss


_plain_loop = row_loop(plain_row)


@kernel
def cross_entropy_rows(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Run `plain_row` over a range of rows."""
    _plain_loop(tasks, start, stop, work)
