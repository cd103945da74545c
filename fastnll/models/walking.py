"""Passes over rows of a dataset that may lie in a file: pages are fetched ahead of the reader and let go behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnll.data.prefetching import map_pages, will_read
from fastnll.data.watching import report
from fastnll.models.spans import Spans

__all__ = ["Walk"]

# Rows that are fetched ahead in one go, 8 MiB of 16-bit tokens: some milliseconds of the fastest pass, so that the
# disk has begun on the next ones long before they are wanted.
_WINDOW = 1 << 22
# A page fault maps the pages around it too: 64 KiB on Linux.
_FAULT = 1 << 16


class Walk:
    """One pass over rows of a dataset, in rising order.

    Parameters
    ----------
    data : SequenceDataset or FeatureDataset
        Nothing is done for one that lies in memory, but to report how far the pass has come.
    spans : Spans
        Which rows. For sequences that were picked out (a batch) nothing is fetched or reported: who
        chose them knows them earlier, and a batch is over soon.
    start, stop : int, optional
        The part of the rows that this pass goes through, for the report. Default: all.
    """

    def __init__(self, data: Any, spans: Spans, start: int = 0, stop: int | None = None) -> None:
        self._data = data if getattr(data, "mapping", None) is not None else None
        self._spans, self._start = spans, start
        self._stop = spans.n_rows if stop is None else stop
        self._noted = self._fetched = start

    def steps(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the slices of up to `size` rows."""
        for low in range(self._start, self._stop, size):
            high = min(low + size, self._stop)
            self.at(low)
            yield low, high
            self.done(high)

    def at(self, row: int) -> None:
        """Say that the rows from here on are going to be read next."""
        if self._data is None or row < self._noted:
            return
        high = min(row + _WINDOW, self._stop)
        n_bytes = (high - row) * self._data.tokens.itemsize
        if self._spans.scattered:
            first, last = self._spans.overlapping(row, high)
            n_bytes += (last - first) * _FAULT
        else:
            self._fetch(max(row, self._fetched), min(high + _WINDOW, self._stop))
            map_pages(self._data, self._position(row), self._position(high - 1) + 1)
        # The rows before this window have been read, or are being: those few pages are mapped again.
        self._data.note_read(n_bytes)
        self._noted = high

    def _fetch(self, low: int, high: int) -> None:
        if low < high:
            will_read(self._data, np.array([self._position(low)]), np.array([self._position(high - 1) + 1]))
            self._fetched = high

    def _position(self, row: int) -> int:
        return int(self._spans.rows(row, row + 1)[0][0])

    def done(self, row: int) -> None:
        """Say that the rows before this one have been dealt with."""
        if not self._spans.scattered:
            report(row - self._start, self._stop - self._start)
