"""One thread for BLAS, while threads of ours each multiply blocks of their own.

Two pools that take turns wait for each other's spinning threads: half of the speed is lost. And a product that one
thread computes has the same bits whatever the number of threads is.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

__all__ = ["single_threaded_blas"]


class SingleThreadedBlas:
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
                _take_control()
                self._limit = _controller().limit(limits=1, user_api="blas")
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                _take_control()  # the first one in need not be the last one out
                self._limit.restore_original_limits()
                self._limit = None
                _take_control()

    def forget_lock(self) -> None:
        """Make a new lock: one that was held during a fork stays locked in the child for ever."""
        self._lock = threading.Lock()


@functools.cache
def _controller() -> Any:
    # Looking through the loaded libraries takes milliseconds, setting a limit microseconds.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _take_control() -> None:
    """Let the calling thread set the limit: threadpoolctl 3.7 on obeys one thread and silently ignores all others."""
    for library in _controller().lib_controllers:
        clear = getattr(library, "clear_controlling_thread", None)
        if clear is not None:
            clear(force=True)


single_threaded_blas = SingleThreadedBlas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=single_threaded_blas.forget_lock)
