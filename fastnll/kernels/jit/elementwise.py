"""The kernels that know no rows: a step of SGD, and the scan of the targets."""

from __future__ import annotations

from typing import Any

from fastnll.kernels.jit.arithmetic import widest
from fastnll.kernels.jit.compiler import helper, kernel
from fastnll.kernels.jit.constants import BLOCK
from fastnll.kernels.jit.formats import read_row, write_row
from fastnll.kernels.jit.memory import view

__all__ = ["scan", "sgd"]


@helper
def _direction(p: Any, g: Any, b: Any, n: int, s: Any, momentum: int, first: int, nesterov: int) -> None:
    """Replace p by its next value and b by the next momentum buffer.

    s holds lr, momentum, 1 - dampening, weight decay, and the gradient's factor, in the compute dtype.
    """
    widest()
    lr, mu, fresh, decay, scale = s[0], s[1], s[2], s[3], s[4]
    if momentum == 0:
        for v in range(n):
            p[v] -= lr * (scale * g[v] + decay * p[v])
        return
    if first != 0:
        # Not mu * b + ...: what an unused buffer holds may be NaN.
        for v in range(n):
            b[v] = scale * g[v] + decay * p[v]
    else:
        for v in range(n):
            b[v] = mu * b[v] + fresh * (scale * g[v] + decay * p[v])
    if nesterov != 0:
        for v in range(n):
            p[v] -= lr * ((scale * g[v] + decay * p[v]) + mu * b[v])
    else:
        for v in range(n):
            p[v] -= lr * b[v]


@kernel
def sgd(
    places: Any, codes: Any, steps: Any, numbers: Any, flags: Any, start: int, stop: int, work: Any, stamp: Any
) -> None:
    """Take a step for elements start .. stop - 1.

    Parameters
    ----------
    places, codes, steps : (3,) int64 arrays
        Addresses, storage codes and strides of parameter, gradient and buffer.
    numbers : (5,) array of the compute dtype
    flags : (3,) int64 array
        Whether there is momentum, whether this is the first step, whether it is Nesterov's.
    start, stop : int
    work : (3 * BLOCK,) array of the compute dtype
    stamp : array
        `records.STAMP`.
    """
    p, g, b = work[:BLOCK], work[BLOCK : 2 * BLOCK], work[2 * BLOCK : 3 * BLOCK]
    for at in range(start, stop, BLOCK):
        n = min(BLOCK, stop - at)
        read_row(places[0] + at * steps[0], steps[0], codes[0], p[:n])
        read_row(places[1] + at * steps[1], steps[1], codes[1], g[:n])
        if flags[0] != 0 and flags[1] == 0:
            read_row(places[2] + at * steps[2], steps[2], codes[2], b[:n])
        _direction(p, g, b, n, numbers, flags[0], flags[1], flags[2])
        if flags[0] != 0:
            write_row(b[:n], places[2] + at * steps[2], steps[2], codes[2])
        write_row(p[:n], places[0] + at * steps[0], steps[0], codes[0])


@helper
def _count(targets: Any, n_classes: int, ignore: Any, ignoring: bool) -> tuple[int, int]:
    ignored = bad = 0
    for i in range(targets.size):
        t = targets[i]
        if ignoring and t == ignore:
            ignored += 1
        elif t < 0 or t >= n_classes:
            bad += 1
    return ignored, bad


@kernel
def scan(
    address: int, n: int, n_classes: int, ignore: Any, ignoring: bool, start: int, stop: int, stamp: Any
) -> tuple[int, int, int]:
    """Return how many of n contiguous targets, from start to stop, are ignored or bad; and the first bad one.

    The targets have the dtype of `ignore`. Without a bad one the last number is -1.
    """
    targets = view(address, n, ignore)
    ignored, bad = _count(targets[start:stop], n_classes, ignore, ignoring)
    if bad > 0:
        for i in range(start, stop):
            t = targets[i]
            if not (ignoring and t == ignore) and (t < 0 or t >= n_classes):
                return ignored, bad, i
    return ignored, bad, -1
