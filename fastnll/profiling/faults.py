"""What touching a new page of memory costs here, measured: the system finds, clears and maps it at the first write."""

from __future__ import annotations

import functools
import mmap
import time
from typing import NamedTuple

import numpy as np

from fastnll.profiling.recording import usage

__all__ = ["FaultCost", "fault_cost", "lost"]

_SMALL, _LARGE = 1 << 24, 1 << 26
# Bytes a fault from which on its page was a huge one (2 MB on x86).
_HUGE = 1 << 16


class FaultCost(NamedTuple):
    """Seconds a page fault takes, for ordinary pages and for huge ones; None where there were none."""

    small: float | None
    huge: float | None


def _first_and_second(memory: np.ndarray[tuple[int], np.dtype[np.uint8]], step: int) -> tuple[float, int]:
    """Return the extra seconds of a first write to memory, and how many faults it took."""
    before = usage().minor_faults
    start = time.perf_counter()
    memory[::step] = 1
    middle = time.perf_counter()
    memory[::step] = 2
    end = time.perf_counter()
    return max(0.0, (middle - start) - (end - middle)), usage().minor_faults - before


@functools.cache
def fault_cost() -> FaultCost:
    """Measure both, once a process: some 10 ms and 64 MB.

    Examples
    --------
    >>> cost = fault_cost()
    >>> all(seconds is None or 0 <= seconds < 1 for seconds in cost)
    True
    """
    small: list[float] = []
    huge: list[float] = []
    for _ in range(3):
        with mmap.mmap(-1, _SMALL) as area:
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                area.madvise(mmap.MADV_NOHUGEPAGE)
            view = np.frombuffer(area, np.uint8)
            seconds, count = _first_and_second(view, mmap.PAGESIZE)
            del view  # the mapping cannot be closed while an array looks at it
        if count:
            small.append(seconds / count)
        # NumPy asks for huge pages where an array is large enough.
        seconds, count = _first_and_second(np.empty(_LARGE, np.uint8), mmap.PAGESIZE)
        if count and _LARGE / count >= _HUGE:
            huge.append(seconds / count)
    return FaultCost(min(small, default=None), min(huge, default=None))


def lost(faults: int, nbytes: int, cost: FaultCost | None = None) -> float:
    """Return about how many seconds some page faults took.

    Parameters
    ----------
    faults : int
    nbytes : int
        Memory that they are for; 0 where that is not known: then they are taken to be of ordinary pages.
    cost : FaultCost, optional
        Measured where not given.

    Examples
    --------
    >>> lost(10, 40960, FaultCost(small=0.5, huge=8.0)), lost(10, 20 << 20, FaultCost(small=0.5, huge=8.0))
    (5.0, 80.0)
    """
    if not faults:
        return 0.0
    cost = fault_cost() if cost is None else cost
    if cost.huge is not None and nbytes / faults >= _HUGE:
        return faults * cost.huge
    return faults * (cost.small or 0.0)
