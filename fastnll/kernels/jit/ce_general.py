"""The row formula of the cross entropy with every option. The formulas are derived in the reference.

Two rows of scratch memory beside the terms: the logits, transformed in place, which the gradient
replaces at the end; and the coefficients q of all soft targets together,

    q_v = (1 - eps) c_v + eps / L w_v (live v),    loss = sum_v q_v (lse - a_v) + hard target + z lse^2,

so that dense, sparse and smoothed targets are one sum and one term of the gradient.
"""

from __future__ import annotations

import math
from typing import Any

from fastnll.kernels.jit.access import number_at, put, row_loop, target_of
from fastnll.kernels.jit.arithmetic import pick, widest
from fastnll.kernels.jit.compiler import helper, kernel
from fastnll.kernels.jit.constants import STEP
from fastnll.kernels.jit.emit import fill_row
from fastnll.kernels.jit.finish import gradient_factor
from fastnll.kernels.jit.formats import read_row
from fastnll.kernels.jit.memory import load_f64, load_i64, load_u8, start_of, store_i64, view
from fastnll.kernels.jit.rows import lse_pair, nll, row_max, row_stats, row_sum, target_term
from fastnll.kernels.jit.vecmath import tanh, wide

__all__ = ["cross_entropy_general"]


@helper
def _mask(task: Any, o: int, i: int, x: int, like: Any) -> None:
    """Put -inf where the class mask of row (o, i) is False."""
    row = view(x, task.classes, like)
    mask = task.mask + o * task.mask_outer + i * task.mask_inner
    for v in range(task.classes):
        if load_u8(mask + v * task.mask_class) == 0:
            row[v] = -math.inf


@helper
def _transform(task: Any, x: int, like: Any) -> None:
    """Replace logits by a = softcap tanh(x / (T softcap)), or x / T; -inf stays what it is."""
    widest()
    n = task.classes
    row = view(x, n, like)
    if task.softcap != 0.0:
        lowest, cap = pick(like, -math.inf, -math.inf), pick(like, task.softcap, task.softcap)
        divisor = pick(like, task.softcap * task.temperature, task.softcap * task.temperature)
        for v in range(n):
            row[v] = lowest if row[v] == lowest else cap * tanh(row[v] / divisor)
    elif task.temperature != 1.0:
        divisor = pick(like, task.temperature, task.temperature)
        for v in range(n):
            row[v] = row[v] / divisor


@helper
def _coefficients(task: Any, r: int, o: int, i: int, x: int, q: int, like: Any) -> float:
    """Write the coefficients q of the row's soft targets and return their sum."""
    n = task.classes
    row, result = view(x, n, like), view(q, n, like)
    weights = view(task.class_weight if task.class_weight != 0 else q, n, like)
    rest = pick(like, 1.0 - task.smoothing, 1.0 - task.smoothing)
    zero, lowest = pick(like, 0.0, 0.0), pick(like, -math.inf, -math.inf)
    if task.probs != 0:
        probs = task.probs + o * task.probs_outer + i * task.probs_inner
        read_row(probs, task.probs_class, task.probs_code, result)
        for v in range(n):
            result[v] *= rest
        if task.class_weight != 0:
            for v in range(n):
                result[v] *= weights[v]
    else:
        fill_row(q, n, 0.0, like)
        for j in range(task.ids_count):
            at = 8 * (r * task.ids_count + j)
            v = load_i64(task.ids + at)
            if 0 <= v < n:
                c = rest * load_f64(task.id_probs + at)
                if task.class_weight != 0:
                    c *= weights[v]
                result[v] += pick(like, c, c)
    if task.smoothing != 0.0:
        live = 0
        for v in range(n):
            if row[v] > lowest:
                live += 1
        share = pick(like, task.smoothing / live, task.smoothing / live)
        if task.class_weight != 0:
            for v in range(n):
                result[v] += share * weights[v] if row[v] > lowest else zero
        else:
            for v in range(n):
                result[v] += share if row[v] > lowest else zero
    return row_sum(q, n, like)


@helper(inline=True)
def _gap(a: Any, high: Any, low: Any) -> Any:
    # lse is not below any a; what rounding makes of that is not either.
    zero = pick(a, 0.0, 0.0)
    gap = (high - a) + low
    return zero if gap < zero else gap


@helper(sums=True)
def _block_cost(c: int, x: int, n: int, high: Any, low: Any, like: Any) -> Any:
    widest()
    weights, row = view(c, n, like), view(x, n, like)
    total = zero = pick(like, 0.0, 0.0)
    for v in range(n):
        total += weights[v] * _gap(row[v], high, low) if weights[v] != zero else zero
    return total


@helper
def _cost(c: int, x: int, n: int, lse: float, rest: float, like: Any) -> float:
    """Return sum_v c_v (lse - a_v) over the v with c_v != 0."""
    high = pick(like, lse, lse)
    low = pick(like, (lse - high) + rest, (lse - high) + rest)
    total = 0.0
    step = STEP // like.itemsize
    for b in range(0, n, step):
        at = b * like.itemsize
        total += _block_cost(c + at, x + at, min(step, n - b), high, low, like)
    return total


@helper
def _argmax(x: int, n: int, like: Any) -> int:
    """Return the first position of the maximum, or of the first NaN: as NumPy's argmax."""
    row = view(x, n, like)
    best = 0
    top = row_max(x, n, like)
    found = False
    for v in range(n):
        if row[v] != row[v]:
            return v
        if not found and row[v] == top:
            best, found = v, True
    return best


@helper
def _rank(x: int, n: int, t: int, like: Any) -> int:
    row = view(x, n, like)
    count = 0
    for v in range(n):
        if row[v] > row[t]:
            count += 1
    return count


@helper
def _combine(terms: int, q: int, n: int, scale: float, factor: float, like: Any) -> None:
    """Replace the terms by scale e - factor q."""
    widest()
    grad, soft = view(terms, n, like), view(q, n, like)
    p, c = pick(like, scale, scale), pick(like, factor, factor)
    for v in range(n):
        grad[v] = grad[v] * p - c * soft[v]


@helper
def _multiply(terms: int, n: int, scale: float, like: Any) -> None:
    widest()
    grad = view(terms, n, like)
    p = pick(like, scale, scale)
    for v in range(n):
        grad[v] *= p


@helper
def _chain(task: Any, terms: int, x: int, like: Any) -> None:
    """Replace the transformed logits by the terms times da/dx; absent classes get 0."""
    widest()
    n = task.classes
    row, grad = view(x, n, like), view(terms, n, like)
    one, zero, lowest = pick(like, 1.0, 1.0), pick(like, 0.0, 0.0), pick(like, -math.inf, -math.inf)
    slope = pick(like, 1.0 / task.temperature, 1.0 / task.temperature)
    if task.softcap != 0.0:
        cap = pick(like, task.softcap, task.softcap)
        for v in range(n):
            u = row[v] / cap
            row[v] = zero if row[v] == lowest else grad[v] * ((one - u * u) * slope)
    elif task.temperature != 1.0:
        for v in range(n):
            row[v] = zero if row[v] == lowest else grad[v] * slope
    else:
        for v in range(n):
            row[v] = grad[v]


@helper
def _absent_row(task: Any, r: int, y: int, like: Any) -> None:
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


@helper
def general_row(task: Any, r: int, o: int, i: int, x: int, second: int, y: int, terms: int, like: Any) -> float:
    """Write loss, gradient and details of one row; return its weighted loss. x and y are one place."""
    n = task.classes
    weight = number_at(task.row_weight, r, 1.0)
    if weight == 0.0:
        _absent_row(task, r, y, like)
        return 0.0
    if task.mask != 0:
        _mask(task, o, i, x, like)
    row, grad = view(x, n, like), view(terms, n, like)
    t = target_of(task, o, i)
    # Of the logits as they are: the transform keeps their order, but rounds some to the same number.
    if task.argmax != 0:
        store_i64(task.argmax + 8 * r, _argmax(x, n, like))
    if task.rank != 0 and t >= 0:
        store_i64(task.rank + 8 * r, _rank(x, n, t, like))
    _transform(task, x, like)
    keep = 1 if task.out != 0 or task.entropy != 0 else 0
    base, k, others = row_stats(x, n, t, terms, keep, like)
    if others != others or (t < 0 and task.targets != 0):
        put(task.lse, task.lse_code, r, lse_pair(base, k, others)[0])
        put(task.loss, task.loss_code, r, math.nan)
        put(task.entropy, task.entropy_code, r, math.nan)
        if task.out != 0:
            fill_row(y, n, math.nan, like)
        return math.nan
    x_t = wide(row[max(t, 0)])
    e_t = target_term(x_t, base, k) if t >= 0 else 0.0
    total = others + e_t
    lse, rest = lse_pair(base, k, total)
    put(task.lse, task.lse_code, r, lse)
    if task.entropy != 0:
        # sum_v p_v (lse - a_v): no term is negative. The target's own keeps its accuracy.
        own = e_t * nll(others, e_t, x_t, base, k) if e_t > 0.0 else 0.0
        put(task.entropy, task.entropy_code, r, (_cost(terms, x, n, lse, rest, like) + own) / total)

    loss: float = task.z_loss * lse * lse
    slope = 2.0 * task.z_loss * lse
    c = 0.0
    if t >= 0:
        c = (1.0 - task.smoothing) * number_at(task.target_weight, r, 1.0)
        loss += c * nll(others, e_t, x_t, base, k) if c != 0.0 else 0.0
    q, q_t = 0, 0.0
    if task.soft_at != 0:
        q = start_of(like) + task.soft_at * like.itemsize
        slope += _coefficients(task, r, o, i, x, q, like)
        loss += _cost(q, x, n, lse, rest, like)
        q_t = wide(view(q, n, like)[max(t, 0)])
    loss *= weight
    put(task.loss, task.loss_code, r, loss)
    if task.out != 0:
        # (A + c) p_v - q_v with A = slope; at the target A p_t - c (1 - p_t) - q_t, 1 - p_t = others / total.
        factor = gradient_factor(task, r, weight)
        scale = factor * (c + slope) / total
        if q != 0:
            _combine(terms, q, n, scale, factor, like)
        else:
            _multiply(terms, n, scale, like)
        if t >= 0:
            own = factor * ((slope * e_t - c * others) / total - q_t)
            grad[t] = pick(like, own, own)
        _chain(task, terms, x, like)
    return loss


_general_loop = row_loop(general_row)


@kernel
def cross_entropy_general(tasks: Any, start: int, stop: int, work: Any) -> None:
    """Run `general_row` over a range of rows."""
    _general_loop(tasks, start, stop, work)
