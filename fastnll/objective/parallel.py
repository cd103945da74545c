"""Independent blocks on several threads, their results in order.

Each thread computes whole blocks on its own: single-threaded BLAS, single-threaded kernels. So the products of NumPy's
BLAS and the kernels' OpenMP loops, which alternate in every block, never wait for each other's spinning threads; that
takes half of the speed where nothing else runs, and far more where something does. And since no sum inside a block is
cut by the number of threads, no bit of a result depends on it.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from fastnll.config import using

__all__ = ["ordered_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class _SingleThreadedBlas:
    """Keeps NumPy's BLAS at one thread while anybody is inside; the limit is one number for the whole process.

    Counting the users lets calls from several threads overlap: the last one out puts the old number back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._limit = _controller().limit(limits=1, user_api="blas")
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._limit.restore_original_limits()
                self._limit = None

    def forget_lock(self) -> None:
        """Make a new lock: one that was held during a fork stays locked in the child for ever."""
        self._lock = threading.Lock()


@functools.cache
def _controller() -> Any:
    # Looking through the loaded libraries takes milliseconds, setting a limit microseconds.
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


_single_threaded_blas = _SingleThreadedBlas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_single_threaded_blas.forget_lock)


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order, computed on up to `threads` threads.

    Parameters
    ----------
    function : callable
        Runs under ``using(threads=1)``, with the caller's other settings.
    items : iterable
        Read one by one: no more than ``threads + 1`` items are taken beyond the results that were consumed.
    threads : int
        1: on the calling thread.

    Examples
    --------
    >>> list(ordered_map(lambda n: n * n, range(5), threads=2))
    [0, 1, 4, 9, 16]
    """
    with _single_threaded_blas:
        if threads == 1:
            yield from (_run(function, item) for item in items)
            return
        waiting: deque[Future[Result]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="fastnll")
        try:
            for item in items:
                # A context belongs to one thread at a time: each task gets its own copy of the caller's.
                waiting.append(pool.submit(contextvars.copy_context().run, _run, function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run(function: Callable[[Item], Result], item: Item) -> Result:
    with using(threads=1):
        return function(item)
