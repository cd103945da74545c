"""Threads of our own: serial kernels over ranges of rows, taken from one queue.

Numba's `prange` is not used: its workqueue layer aborts the process when two threads call it at once,
its sums depend on the number of threads, and its kernels compile several times as long.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ranges", "run", "scratch"]

# A range is worth a trip to the queue (some microseconds under the interpreter's lock) from about here.
_ELEMENTS_PER_RANGE = 1 << 18
_RANGES_PER_THREAD = 4
# Scratch memory up to this is kept by its thread: fresh pages would cost as much as a pass over it.
_KEPT_BYTES = 8 << 20
_LINE = 64

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None
_local = threading.local()


def _executor() -> ThreadPoolExecutor:
    """Return this process's pool; a child of fork makes its own, as the parent's threads are not in it."""
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():
            # An upper bound: a thread is started when there is work and no idle one.
            _pool = (os.getpid(), ThreadPoolExecutor(max(32, os.cpu_count() or 1), "fastnll-numba"))
        return _pool[1]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # may have been held by a thread that does not exist in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def scratch(words: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return at least `words` elements of scratch memory that belong to the calling thread."""
    n_bytes = -(-words * np.dtype(dtype).itemsize // _LINE) * _LINE
    if n_bytes > _KEPT_BYTES:
        return _lines(n_bytes).view(dtype)
    kept: npt.NDArray[np.uint8] | None = getattr(_local, "memory", None)
    if kept is None or kept.nbytes < n_bytes:
        kept = _local.memory = _lines(max(8192, n_bytes))
    return kept.view(dtype)


def _lines(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return memory that begins with a cache line: a vector across two of them is read in two steps."""
    memory = np.empty(n_bytes + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + n_bytes]


def ranges(n_rows: int, row_size: int, threads: int, unit: int) -> list[tuple[int, int]]:
    """Return ranges of rows, in whole units, a few per thread but none too small.

    Examples
    --------
    >>> ranges(200, 1 << 18, 1, 64)
    [(0, 64), (64, 128), (128, 192), (192, 200)]
    """
    wanted = max(_ELEMENTS_PER_RANGE // max(row_size, 1), n_rows // (threads * _RANGES_PER_THREAD), 1)
    step = -(-wanted // unit) * unit
    return [(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def run(work: Callable[[int, int], None], parts: list[tuple[int, int]], threads: int) -> None:
    """Call ``work(start, stop)`` for every range, on the calling thread and up to ``threads - 1`` others.

    An exception of any of them is raised here, after all have ended.
    """
    helpers = min(threads, len(parts)) - 1
    if helpers <= 0:
        for start, stop in parts:
            work(start, stop)
        return
    queue = deque(parts)

    def drain() -> None:
        while True:
            try:
                start, stop = queue.popleft()
            except IndexError:
                return
            work(start, stop)

    futures: list[Future[None]] = []
    try:
        pool = _executor()
        for _ in range(helpers):
            futures.append(pool.submit(drain))  # noqa: PERF401 (those submitted before an error count)
    except RuntimeError:
        pass  # the interpreter is shutting down, or can start no thread: the calling thread does the rest
    try:
        drain()
    finally:
        queue.clear()
        for future in futures:
            if not future.cancel():
                future.exception()
    for future in futures:
        if not future.cancelled():
            future.result()
