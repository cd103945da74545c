"""Running totals over more items than an array of totals should be kept for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["RunningTotal"]

# Up to here all totals are kept (8 MiB); above, one in _STEP, and what lies between is added up again where it is
# asked for. 10**8 sequences of ten tokens then take 2 MB, where the array of their ends would take 800.
_WHOLE = 1 << 20
_STEP = 512
# Items whose sizes are looked at in one go (a multiple of _STEP).
_PART = 1 << 18


class RunningTotal:
    """The sums of the first 0, 1, .. n of some sizes, for any n.

    Parameters
    ----------
    n : int
        Number of items.
    sizes : callable
        ``sizes(low, high)``: the sizes of the items ``low`` to ``high``, int64, at least 0. Asked for again and again.

    Attributes
    ----------
    total : int
        Sum of all sizes.

    Examples
    --------
    >>> total = RunningTotal(4, lambda low, high: np.array([2, 0, 3, 1])[low:high])
    >>> total.ends(1, 3), total.find(2, "left"), total.find(2, "right")
    (array([2, 2, 5]), 1, 3)
    >>> total.locate(np.array([0, 4, 5]))          # the items that hold these units, and what lies before them
    (array([0, 2, 3]), array([0, 2, 5]))
    """

    def __init__(self, n: int, sizes: Callable[[int, int], np.ndarray]) -> None:
        self._n, self._sizes = n, sizes
        # Every _stride-th total, and the last.
        self._stride = 1 if n <= _WHOLE else _STEP
        self._marks = np.zeros(-(-n // self._stride) + 1, np.int64)
        for low in range(0, n, _PART):
            part = sizes(low, min(low + _PART, n))
            if self._stride > 1:
                part = np.add.reduceat(part, np.arange(0, part.size, self._stride))
            first = 1 + low // self._stride
            self._marks[first : first + part.size] = part
        np.cumsum(self._marks, out=self._marks)
        self.total = int(self._marks[-1])

    def ends(self, low: int, high: int) -> np.ndarray:
        """The totals before the items ``low`` to ``high``, and the one behind them: int64, shape (high - low + 1,)."""
        if self._stride == 1:
            return self._marks[low : high + 1]
        mark = low // self._stride
        start = mark * self._stride
        totals = np.empty(high - start + 1, np.int64)
        totals[0] = self._marks[mark]
        if high > start:
            np.cumsum(self._sizes(start, high), out=totals[1:])
            totals[1:] += totals[0]
        return totals[low - start :]

    def find(self, total: int, side: str) -> int:
        """Where `total` stands among all n + 1 totals, as `numpy.searchsorted` says with the same `side`."""
        place = int(self._marks.searchsorted(total, side=side))  # type: ignore[call-overload]
        if self._stride == 1 or place == 0:
            return place
        start = min((place - 1) * self._stride, self._n)
        window = self.ends(start, min(start + self._stride, self._n))
        return start + int(window.searchsorted(total, side=side))  # type: ignore[call-overload]

    def locate(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which item each unit belongs to, if item i is a run of ``sizes[i]`` units, and the units before that item.

        Parameters
        ----------
        units : ndarray of int64, shape (K,)
            Each in ``[0, total)``, in any order.
        """
        if self._stride == 1:
            items = self._marks.searchsorted(units, side="right") - 1
            return items, self._marks[items]
        order = np.argsort(units, kind="stable")
        wanted = units[order]
        windows = self._marks.searchsorted(wanted, side="right") - 1
        items, before = np.empty_like(wanted), np.empty_like(wanted)
        done = 0
        while done < wanted.size:
            # Neighbouring windows are looked at together: as many as hold units one after the other.
            first = int(windows[done])
            limit = int(windows.searchsorted(first + _PART // self._stride))
            gap = np.flatnonzero(np.diff(windows[done:limit]) > 4)
            stop = limit if not gap.size else done + int(gap[0]) + 1
            start = first * self._stride
            totals = self.ends(start, min((int(windows[stop - 1]) + 1) * self._stride, self._n))
            place = totals.searchsorted(wanted[done:stop], side="right") - 1
            items[order[done:stop]] = start + place
            before[order[done:stop]] = totals[place]
            done = stop
        return items, before
