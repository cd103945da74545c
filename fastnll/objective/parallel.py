"""Independent blocks on several threads, their results in order.

Each thread computes whole blocks on its own: single-threaded BLAS, single-threaded kernels. So the products of NumPy's
BLAS and the kernels' OpenMP loops, which alternate in every block, never wait for each other's spinning threads; that
takes half of the speed where nothing else runs, and far more where something does. And since no sum inside a block is
cut by the number of threads, no bit of a result depends on it.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fastnll.config import using
from fastnll.kernels.blas import single_threaded_blas

__all__ = ["ordered_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    with single_threaded_blas:
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
