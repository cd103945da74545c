"""The reference backend: NumPy in float64, one readable function per op. The formulas are derived here.

Everything else in `fastnll.kernels` is tested against this file, and this file against longhand sums
and SciPy. It is slow, exact and short.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.kernels.blocked import linear_grads, linear_logits
from fastnll.kernels.spec import (
    ROW_BLOCK,
    CrossEntropyTask,
    GatherTask,
    SgdTask,
    SoftmaxTask,
    TargetScan,
    VjpTask,
    as_float64,
)

__all__ = [
    "cross_entropy",
    "gather",
    "linear_grads",
    "linear_logits",
    "logsumexp",
    "scan_targets",
    "sgd_update",
    "softmax",
    "softmax_vjp",
]

F64 = npt.NDArray[np.float64]


def _stats(a: F64) -> tuple[F64, F64, F64]:
    r"""Return (m, e, s): the shift, exp(a - m) and its sum, for each row of (N, V).

    m is the row's maximum, so every term lies in [0, 1] and the largest is 1: neither the sum nor its
    logarithm can overflow, and lse = m + log s. A row without a finite maximum has no such shift: NaN and
    +inf give NaN, and so does a row of only -inf (its probabilities are 0/0).
    """
    m = a.max(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        e = np.exp(a - m)
        return m, e, e.sum(axis=1, keepdims=True)


def _lse(a: F64) -> F64:
    """Return log sum exp of each row; -inf for a row of only -inf, +inf where one is, NaN for NaN."""
    m, _, s = _stats(a)
    with np.errstate(all="ignore"):
        return np.where(np.isinf(m), m, m + np.log(s))[:, 0]


def _rows(x: npt.NDArray[Any]) -> F64:
    return as_float64(x).reshape(-1, x.shape[-1])


def logsumexp(task: SoftmaxTask) -> None:
    """Write log(sum_v exp(x_v)) of each row, as m + log(sum_v exp(x_v - m)) with m = max_v x_v."""
    assert task.lse is not None
    with np.errstate(all="ignore"):
        task.lse[...] = _lse(_rows(task.x))


def softmax(task: SoftmaxTask) -> None:
    """Write p_v = exp(x_v) / sum_u exp(x_u), or its logarithm (x_v - m) - log(sum_u exp(x_u - m))."""
    assert task.out is not None
    a = _rows(task.x)
    m, e, s = _stats(a)
    with np.errstate(all="ignore"):
        result = (a - m) - np.log(s) if task.log else e / s
        task.out[...] = result.reshape(task.x.shape)


def softmax_vjp(task: VjpTask) -> None:
    r"""Write the vector-Jacobian product.

    With p = softmax(x): d p_u / d x_v = p_u (delta_uv - p_v), so g^T J = p_v (g_v - sum_u g_u p_u).
    With l = log p: d l_u / d x_v = delta_uv - p_v, so g^T J = g_v - p_v sum_u g_u.
    """
    y, g = _rows(task.y), _rows(task.grad)
    with np.errstate(all="ignore"):
        if task.log:
            dx = g - np.exp(y) * g.sum(axis=1, keepdims=True)
        else:
            dx = y * (g - (g * y).sum(axis=1, keepdims=True))
        task.out[...] = dx.reshape(task.y.shape)


def _transform(task: CrossEntropyTask, live: npt.NDArray[np.bool_]) -> tuple[F64, F64 | None]:
    """Return a and da/dx of the live rows.

    a = x / T, then c * tanh(a / c), with derivative (1 - (a/c)^2) / T. A logit of -inf is a class that
    is absent: it stays -inf under the softcap, with derivative 0.
    """
    v = task.x.shape[-1]
    x = as_float64(task.x.reshape(-1, v)[live])
    slope = None
    a = x if task.temperature == 1.0 else x / task.temperature
    if task.softcap:
        with np.errstate(all="ignore"):
            capped = task.softcap * np.tanh(a / task.softcap)
        a = np.where(a == -np.inf, -np.inf, capped)
        slope = np.where(a == -np.inf, 0.0, 1.0 - (capped / task.softcap) ** 2)
    if task.class_mask is not None:
        mask = np.broadcast_to(task.class_mask, task.x.shape).reshape(-1, v)[live]
        a = np.where(mask, a, -np.inf)
    if task.temperature != 1.0:
        slope = np.full_like(a, 1.0 / task.temperature) if slope is None else slope / task.temperature
    return a, slope


def _soft_targets(task: CrossEntropyTask, live: npt.NDArray[np.bool_]) -> F64:
    """Return the dense (n, V) matrix of target coefficients c_rv of the live rows."""
    v = task.x.shape[-1]
    n = int(live.sum())
    if task.probs is not None:
        c = as_float64(task.probs.reshape(-1, v)[live])
    else:
        c = np.zeros((n, v))
        if task.ids is not None:
            assert task.id_probs is not None
            np.add.at(c, (np.arange(n)[:, None], task.ids[live]), task.id_probs[live])
        elif task.targets is not None:
            weight = 1.0 if task.target_weight is None else task.target_weight[live]
            t = task.targets.reshape(-1)[live].astype(np.int64)
            c[np.arange(n), np.where((t >= 0) & (t < v), t, 0)] = weight
            return c
    return c if task.class_weight is None else c * task.class_weight


def cross_entropy(task: CrossEntropyTask) -> None:
    r"""Write the loss of `CrossEntropyTask`, its block sums, its gradient and its details.

    Value: lse - a_t = log(sum_v exp(a_v - a_t)) = log1p(sum_{v != t} exp(a_v - a_t)). The last form keeps
    the relative accuracy of confident rows, whose loss is far below the rounding of lse.

    Gradient, with d lse / d a_v = p_v: each term c * (lse - a_u) gives c * (p_v - delta_uv), z * lse^2
    gives 2 z lse p_v, so

        d loss / d a_v = A p_v - (1 - eps) c_v - eps / L * w_v,
        A = (1 - eps) sum_u c_u + eps / L * sum_u w_u + 2 z lse,

    and the chain rule multiplies by da/dx. At an integer target, A p_t - c = -c (1 - p_t) + ..., with
    1 - p_t = sum_{v != t} e_v / s formed without cancellation.
    """
    n, v = task.x.shape[0] * task.x.shape[1], task.x.shape[2]
    live = np.ones(n, bool) if task.row_weight is None else task.row_weight != 0.0
    weight = np.ones(n) if task.row_weight is None else task.row_weight
    a, slope = _transform(task, live)
    rows = np.arange(a.shape[0])
    m, e, s = _stats(a)
    eps, hard = task.smoothing, task.targets is not None
    t = task.targets.reshape(-1)[live].astype(np.int64) if task.targets is not None else None
    outside = np.zeros(len(a), bool)
    if t is not None:
        outside = (t < 0) | (t >= v)  # only where validation was off: such a row is NaN
        t = np.where(outside, 0, t)
        a[outside] = s[outside] = np.nan  # s: for the gradient
    c = _soft_targets(task, live)
    finite = a > -np.inf
    w = np.ones(v) if task.class_weight is None else task.class_weight
    with np.errstate(all="ignore"):
        log_s = np.log(s)
        # s = 0 cannot be (the largest term is 1); a row of only -inf has m = -inf and e = NaN.
        logp = (a - m) - log_s
        others = e.copy()
        if t is not None:
            others[rows, t] = 0.0
            rest = others.sum(axis=1)
            e_t = e[rows, t]
            nll_t = np.where(rest < e_t, np.log1p(rest / e_t), -logp[rows, t])
        loss = (1.0 - eps) * np.where(c != 0.0, -logp * c, 0.0).sum(axis=1)
        if t is not None:
            loss = (1.0 - eps) * np.where(c[rows, t] != 0.0, nll_t * c[rows, t], 0.0)
        if eps == 1.0:
            loss = np.zeros_like(loss)  # 0 * inf = 0
        n_live = finite.sum(axis=1, keepdims=True)
        if eps:
            loss = loss + eps * np.where(finite & (w != 0.0), -logp * w, 0.0).sum(axis=1) / n_live[:, 0]
        lse = (m + log_s)[:, 0]
        if task.z_loss:
            loss = loss + task.z_loss * lse**2
        loss = np.where(np.isnan(s[:, 0]), np.nan, loss)

        if task.grad is not None:
            p = e / s
            factor = task.grad_scale * (weight if task.grad_weight is None else task.grad_weight)[live]
            total = (1.0 - eps) * c.sum(axis=1, keepdims=True) + 2.0 * task.z_loss * lse[:, None]
            smooth = eps * np.where(finite, w, 0.0) / n_live if eps else np.zeros((1, v))
            total = total + smooth.sum(axis=1, keepdims=True)
            g = total * p - (1.0 - eps) * c - smooth
            if hard and t is not None:
                c_t = (1.0 - eps) * c[rows, t]
                p_t = p[rows, t]
                at_t = -c_t * rest / s[:, 0] + (total[:, 0] - c_t) * p_t
                g[rows, t] = at_t - np.broadcast_to(smooth, g.shape)[rows, t]
            if slope is not None:
                g = np.where(finite, g * slope, 0.0)
            full = np.zeros((n, v))
            full[live] = np.where(np.isnan(s), np.nan, g * factor[:, None])
            task.grad[...] = full.reshape(task.x.shape)

    row_loss = np.zeros(n)
    row_loss[live] = loss * weight[live]
    if task.loss is not None:
        with np.errstate(all="ignore"):
            task.loss[...] = row_loss
    if task.block_sums is not None:
        for b in range(len(task.block_sums)):
            task.block_sums[b] = row_loss[b * ROW_BLOCK : (b + 1) * ROW_BLOCK].sum()
    _details(task, live, a, m, e, s, t)


def _details(task: CrossEntropyTask, live: npt.NDArray[np.bool_], a: F64, m: F64, e: F64, s: F64, t: Any) -> None:
    """Write logsumexp, argmax, rank and entropy of the live rows; absent rows get 0, and -1 for ids.

    entropy = -sum_v p_v log p_v = log s - sum_v p_v (a_v - m), with 0 log 0 = 0.
    """
    with np.errstate(all="ignore"):
        if task.lse is not None:
            task.lse[...] = 0.0
            task.lse[live] = np.where(np.isinf(m), m, m + np.log(s))[:, 0]
        if task.entropy is not None:
            task.entropy[...] = 0.0
            mean = np.where(e > 0.0, e * (a - m), 0.0).sum(axis=1) / s[:, 0]
            task.entropy[live] = np.log(s[:, 0]) - mean
    if task.argmax is not None:
        task.argmax[...] = -1
        task.argmax[live] = a.argmax(axis=1)
    if task.rank is not None and t is not None:
        task.rank[...] = -1
        task.rank[live] = (a > a[np.arange(len(t)), t][:, None]).sum(axis=1)


def gather(task: GatherTask) -> None:
    """Write x at each id minus the row's logsumexp: log softmax(x) at those ids, and 0 at absent ones."""
    outer, inner, _ = task.x.shape
    present = task.ids >= 0
    # Taken before it is widened: log-probabilities are read at these ids alone.
    at = np.where(present, task.ids, 0).reshape(outer, inner, task.ids.shape[1])
    picked = as_float64(np.take_along_axis(task.x, at, axis=2)).reshape(present.shape)
    if not task.normalised:
        m, _, s = _stats(_rows(task.x))
        with np.errstate(all="ignore"):
            picked = (picked - m) - np.log(s)
    with np.errstate(all="ignore"):
        task.out[...] = np.where(present, picked, 0.0)


def sgd_update(task: SgdTask) -> None:
    """Take one step of `SgdTask` (Polyak 1964; Sutskever et al. 2013 for the Nesterov form)."""
    with np.errstate(all="ignore"):
        _sgd_update(task)


def _sgd_update(task: SgdTask) -> None:
    p = as_float64(task.param)
    g = task.grad_scale * as_float64(task.grad)
    if task.maximize:
        g = -g
    g = g + task.weight_decay * p
    if task.buffer is not None:
        if task.first_step:
            buffer = g
        else:
            buffer = task.momentum * as_float64(task.buffer) + (1.0 - task.dampening) * g
        task.buffer[...] = buffer
        g = g + task.momentum * buffer if task.nesterov else buffer
    task.param[...] = p - task.lr * g


def scan_targets(targets: npt.NDArray[Any], n_classes: int, ignore: int | None, threads: int = 1) -> TargetScan:
    """Count ignored targets and targets outside 0 .. n_classes - 1, and find the first of the latter."""
    flat = targets.reshape(-1)
    ignored = np.zeros(flat.shape, bool)
    if ignore is not None and np.iinfo(flat.dtype).min <= ignore <= np.iinfo(flat.dtype).max:
        ignored = flat == flat.dtype.type(ignore)
    bad = ((flat < 0) | (flat > n_classes - 1)) & ~ignored
    n_bad = int(bad.sum())
    return TargetScan(int(ignored.sum()), n_bad, int(bad.argmax()) if n_bad else -1)
