"""The products of the linear head in NumPy, block by block of the vocabulary: for the backends without C.

Blocks are cut by size alone, each is one product on one thread, and what they add to the same numbers is added in
their order: no bit depends on the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.kernels.blas import single_threaded_blas
from fastnll.kernels.spec import LinearTask

__all__ = ["BLOCK", "linear_grads", "linear_logits"]

Array = npt.NDArray[Any]

# Columns of the logits in one product: a multiple of BLAS' own blocks, and few megabytes of weights.
BLOCK = 2048


def linear_logits(task: LinearTask) -> None:
    """Write ``hidden[rows] @ weight.T + bias`` to the logits of a `LinearTask`."""
    logits, kind = task.logits, task.logits.dtype
    h = task.hidden[task.rows].astype(kind, copy=False)

    def block(v0: int, v1: int) -> None:
        np.matmul(h, task.weight[v0:v1].astype(kind, copy=False).T, out=logits[:, v0:v1])
        if task.bias is not None:
            logits[:, v0:v1] += task.bias[v0:v1]

    with np.errstate(all="ignore"):  # what is not finite in rows that count reaches the loss, which says so
        for _ in _in_order(block, logits.shape[1], task.threads):
            pass


def linear_grads(task: LinearTask) -> None:
    """Write or add the gradients of a `LinearTask`, from the gradient in its logits."""
    g, kind = task.logits, task.logits.dtype
    h = task.hidden[task.rows].astype(kind, copy=False)

    def block(v0: int, v1: int) -> Array | None:
        part = g[:, v0:v1]
        if task.grad_weight is not None:
            to = task.grad_weight[v0:v1]
            if task.add_weight:
                to += part.T @ h
            else:
                np.matmul(part.T, h, out=to) if to.dtype == kind else np.copyto(to, part.T @ h)
        if task.grad_bias is not None:
            task.grad_bias[v0:v1] += part.sum(axis=0, dtype=np.float64)
        return None if task.grad_hidden is None else part @ task.weight[v0:v1].astype(kind, copy=False)

    total: Array | None = None
    with np.errstate(all="ignore"):
        for part in _in_order(block, g.shape[1], task.threads):
            if part is not None:
                total = part if total is None else np.add(total, part, out=total)
        if task.grad_hidden is not None and total is not None:
            if task.add_hidden:
                total += task.grad_hidden[task.rows]
            task.grad_hidden[task.rows] = total.astype(task.grad_hidden.dtype, copy=False)


def _in_order(function: Callable[[int, int], Array | None], v: int, threads: int) -> Iterator[Array | None]:
    """Yield ``function(v0, v1)`` of every block, in order; few of them wait at any time."""
    spans = [(v0, min(v0 + BLOCK, v)) for v0 in range(0, v, BLOCK)]
    with single_threaded_blas:
        if threads == 1 or len(spans) == 1:
            yield from (function(*span) for span in spans)
            return
        waiting: deque[Future[Array | None]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="fastnll") as pool:
            for span in spans:
                waiting.append(pool.submit(_quiet, function, span))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _quiet(function: Callable[[int, int], Array | None], span: tuple[int, int]) -> Array | None:
    with np.errstate(all="ignore"):  # a setting of each thread
        return function(*span)
