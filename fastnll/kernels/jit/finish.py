"""From the sums of some rows to their losses and factors: as vectors with a row in each lane.

A row's numbers are in column j of two tables. `lanes`, of the compute dtype, has in its first rows m (its
logsumexp where there is no distribution; for rows side by side the largest element so far), k and base (the
reference, as in `rows`), and in row 8 the factor of the gradient. `state`, of float64, has the rows named here.
"""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.access import number_at, put, read_integer
from fastnll.kernels.jit.arithmetic import widest
from fastnll.kernels.jit.compiler import helper
from fastnll.kernels.jit.constants import LANES
from fastnll.kernels.jit.formats import read_float
from fastnll.kernels.jit.memory import start_of, store_f64, table, view
from fastnll.kernels.jit.rows import lse_pair, nll, target_term
from fastnll.kernels.jit.vecmath import wide

__all__ = [
    "LOGIT",
    "LOSS",
    "OWN",
    "TOTAL",
    "WEIGHT",
    "finish",
    "finish_softmax",
    "gradient_factor",
    "put_logsumexps",
    "put_losses",
    "row_loss",
    "start",
    "tables",
]

# Sum of terms, row weight, target's logit, its weight, factor of the gradient, weighted loss, gradient at the target.
TOTAL, WEIGHT, LOGIT, C, FACTOR, LOSS, OWN = range(7)


@helper
def tables(work: Any, at: int) -> tuple[Any, Any, Any]:
    """Return the two tables and the targets, in `FINISH_WORDS` elements of scratch memory."""
    address = start_of(work) + at * work.itemsize
    behind = address + 10 * LANES * work.itemsize
    lanes, state = table(address, 10, LANES, work), table(behind, 7, LANES, 0.0)
    return lanes, state, view(behind + 7 * LANES * 8, LANES, 0)


@helper(inline=True)
def gradient_factor(task: Any, r: int, weight: float) -> float:
    """Return what the gradient of row r's loss is multiplied by."""
    factor: float = task.grad_scale * number_at(task.grad_weight, r, weight)
    return factor


@helper
def _has_nan(task: Any, r: int, like: Any) -> bool:
    o = r // task.inner
    x = task.x + o * task.x_outer + (r - o * task.inner) * task.x_inner
    for v in range(task.classes):
        value = read_float(x + v * task.x_class, task.x_code, like)
        if value != value:
            return True
    return False


@helper
def _lone_lse(task: Any, r: int, top: Any, total: float, like: Any) -> float:
    """Return the logsumexp of a lane without a distribution: its total is 0 (only -inf) or NaN."""
    if total == 0.0 or (top == math.inf and not _has_nan(task, r, like)):
        return wide(top)
    return math.nan


@helper(inline=True)
def _whole(m: int) -> int:
    """Return how many lanes to compute for m rows: LLVM's loops take 32 at a time, and fewer one by one.

    Lanes beyond the last row have a weight of 0.
    """
    return (m + 31) & -32 if m > 6 else m


@helper
def start(task: Any, r: int, m: int, lanes: Any, state: Any, targets: Any) -> None:
    """Read targets and the numbers of m rows; what the caller puts into the tables is 0."""
    o = r // task.inner
    i = r - o * task.inner
    for j in range(_whole(m)):
        t = -1
        weight = 0.0
        if j < m:
            weight = number_at(task.row_weight, r + j, 1.0)
            state[C, j] = number_at(task.target_weight, r + j, 1.0)
            state[FACTOR, j] = gradient_factor(task, r + j, weight)
            at = task.targets + o * task.targets_outer + i * task.targets_inner
            if weight != 0.0:
                t = read_integer(at, task.targets_code)
            if not 0 <= t < task.classes:
                t = -1
            i += 1
            if i == task.inner:
                i = 0
                o += 1
        targets[j] = t
        state[WEIGHT, j] = weight
        state[TOTAL, j] = state[LOGIT, j] = lanes[1, j] = lanes[2, j] = 0.0


@helper(inline=True)
def row_loss(
    others: float, x_t: float, base: float, k: float, weight: float, upstream: float
) -> tuple[float, float, float]:
    """Return a row's weighted loss, what its terms are multiplied by for the gradient, and the sum with its target."""
    e_t = target_term(x_t, base, k)
    total = others + e_t
    loss = weight * nll(others, e_t, x_t, base, k) if weight != 0.0 else 0.0
    return loss, upstream / total, total


@helper
def finish(m: int, lanes: Any, state: Any, targets: Any) -> None:
    """Turn totals without the target into weighted losses, full totals, factors and target gradients."""
    widest()
    for j in range(_whole(m)):
        c, weight = state[C, j], state[WEIGHT, j]
        others, base, k = state[TOTAL, j], wide(lanes[2, j]), wide(lanes[1, j])
        loss, factor, total = row_loss(others, state[LOGIT, j], base, k, weight * c, state[FACTOR, j] * c)
        valid = total > 0.0 and targets[j] >= 0
        loss = loss if valid else math.nan
        factor = factor if valid else math.nan
        state[LOSS, j] = loss if weight != 0.0 else 0.0
        factor = factor if weight != 0.0 else 0.0
        lanes[8, j] = factor
        state[OWN, j] = -factor * others
        state[TOTAL, j] = total


@helper
def put_losses(task: Any, r: int, m: int, lanes: Any, state: Any, block: float, like: Any) -> float:
    """Write what is asked for of rows r .. r + m - 1, all of one block; return its sum so far, 0 after its end."""
    for j in range(m):
        block += state[LOSS, j]
        put(task.loss, task.loss_code, r + j, state[LOSS, j])
        if task.row_loss != 0:
            store_f64(task.row_loss + 8 * (r + j), state[LOSS, j])
        if task.lse != 0:
            total, lse = state[TOTAL, j], 0.0
            if total > 0.0 and state[WEIGHT, j] != 0.0:
                lse = lse_pair(wide(lanes[2, j]), wide(lanes[1, j]), total)[0]
            elif state[WEIGHT, j] != 0.0:
                lse = _lone_lse(task, r + j, lanes[0, j], total, like)
            put(task.lse, task.lse_code, r + j, lse)
    if (r + m) % LANES != 0 and r + m != task.rows:
        return block
    if task.block_sums != 0:
        store_f64(task.block_sums + 8 * (r // LANES), block)
    return 0.0


@helper
def finish_softmax(m: int, lanes: Any, state: Any, log: int) -> None:
    """Turn totals into logsumexps (NaN where there is no distribution) and what `out` needs of them."""
    widest()
    for j in range(_whole(m)):
        total = state[TOTAL, j]
        lse, rest = lse_pair(wide(lanes[2, j]), wide(lanes[1, j]), total)
        lse = lse if total > 0.0 else math.nan
        high = lse if log != 0 else lse - lse + 1.0 / total
        lanes[8, j] = high
        lanes[9, j] = (lse - wide(lanes[8, j])) + rest
        state[LOSS, j] = lse


@helper
def put_logsumexps(task: Any, r: int, m: int, lanes: Any, state: Any, like: Any) -> None:
    """Write the logsumexps of rows r .. r + m - 1 where they are asked for."""
    if task.lse == 0:
        return
    for j in range(m):
        lse = state[LOSS, j]
        if lse != lse:
            lse = _lone_lse(task, r + j, lanes[0, j], state[TOTAL, j], like)
        put(task.lse, task.lse_code, r + j, lse)
