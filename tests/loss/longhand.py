"""The loss written out, one row and one class at a time, in float64: no code, and no arrangement, of the package."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def transformed(x: Array, o: dict[str, Any]) -> Array:
    """Return a of (N, V) float64 logits: scaled, capped, and -inf for the classes that take no part."""
    a = x[:, : o.get("valid_classes") or x.shape[1]].astype(np.float64)
    a = a / o.get("temperature", 1.0)
    cap = o.get("softcap")
    if cap is not None:
        a = np.where(a == -np.inf, a, cap * np.tanh(a / cap))
    if o.get("class_mask") is not None:
        mask = np.broadcast_to(o["class_mask"], x.shape)[:, : a.shape[1]]
        a = np.where(mask, a, -np.inf)
    return a


def row_targets(t: Array, o: dict[str, Any]) -> tuple[Array, Array]:
    """Return (target, live) of each row of (N,) class ids, a position of one sequence or of the ragged ones."""
    n = len(t)
    offsets = o.get("offsets")
    bounds = [0, n] if offsets is None else list(offsets)
    moved, live = np.zeros(n, np.int64), np.zeros(n, bool)
    ignore = o.get("ignore_index", -100)
    ignored = () if ignore is None else tuple(np.atleast_1d(ignore).tolist())
    for start, stop in itertools.pairwise(bounds):
        for i in range(start, stop):
            j = i + o.get("shift", 0)
            if j < stop and int(t[j]) not in ignored:
                moved[i], live[i] = t[j], True
    return moved, live


def weights(n: int, o: dict[str, Any], live: Array) -> Array:
    """Return token weights, 0 where a row is absent."""
    w = np.ones(n) if o.get("token_weight") is None else np.broadcast_to(o["token_weight"], n).astype(np.float64)
    if o.get("mask") is not None:
        live = live & np.broadcast_to(o["mask"], n)
    return np.where(live, w, 0.0)


def one_row(a: Array, q: Array, o: dict[str, Any]) -> float:
    """Return the loss of one row from a, target coefficients q, without the token weight."""
    w = np.ones(len(a)) if o.get("weight") is None else np.asarray(o["weight"], np.float64)[: len(a)]
    top = max(a)
    lse = top + math.log(math.fsum(math.exp(v - top) for v in a))
    eps = o.get("label_smoothing", 0.0)
    target = math.fsum(q[v] * w[v] * (lse - a[v]) for v in range(len(a)) if q[v] * w[v] != 0)
    live = [v for v in range(len(a)) if a[v] > -math.inf]
    spread = math.fsum(w[v] * (lse - a[v]) for v in live) / len(live)
    return (1 - eps) * target + eps * spread + o.get("z_loss", 0.0) * lse**2


def rows(x: Array, targets: Any, o: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Return (losses, token weights, weights of the mean) of logits (N, V)."""
    n, a = len(x), transformed(x, o)
    hard = not isinstance(targets, tuple) and np.asarray(targets).ndim == 1
    if hard:
        t, live = row_targets(np.asarray(targets), o)
    else:
        t, live = np.zeros(n, np.int64), np.ones(n, bool)
    token = weights(n, o, live)
    losses, mean_weight = np.zeros(n), token.copy()
    for i in np.flatnonzero(token):
        q = np.zeros(a.shape[1])
        if hard:
            q[t[i]] = 1.0
            if o.get("weight") is not None:
                mean_weight[i] *= o["weight"][t[i]]
        elif isinstance(targets, tuple):
            for k, p in zip(targets[0][i], targets[1][i], strict=True):
                if p != 0:
                    q[k] += p
        else:
            q = np.asarray(targets, np.float64)[i, : a.shape[1]]
        losses[i] = token[i] * one_row(a[i], q, o)
    return losses, token, mean_weight


def loss(x: Array, targets: Any, o: dict[str, Any]) -> Any:
    """Return the reduced loss of logits (N, V)."""
    losses, _, weight = rows(x, targets, o)
    reduction = o.get("reduction", "mean")
    if reduction == "none":
        return losses
    if reduction in ("sum", "mean"):
        by = o.get("normalizer") or (math.fsum(weight) if reduction == "mean" else 1.0)
        return math.fsum(losses) / by
    bounds = o["offsets"]
    pairs = list(itertools.pairwise(bounds))
    sums = np.array([math.fsum(losses[i:j]) for i, j in pairs])
    counts = np.array([math.fsum(weight[i:j]) for i, j in pairs])
    empty = 0.0 if o.get("empty") == "zero" else math.nan
    if reduction == "sequence_sum":
        return sums
    return np.array([s / c if c else empty for s, c in zip(sums, counts, strict=True)])


def numeric_gradient(f: Callable[[Array], float], x: Array, where: Array | None = None, h: float = 1e-5) -> Array:
    """Return central differences of f at x, for all its elements or where `where` says; -inf has none: 0."""
    g = np.zeros(x.shape)
    for index in np.argwhere(np.isfinite(x) if where is None else where & np.isfinite(x)):
        i = tuple(index)
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        g[i] = (f(up) - f(down)) / (up[i] - down[i])
    return g
