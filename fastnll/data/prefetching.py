"""Reading ahead in a memory-mapped file, so that the disk works while the processor does.

Asking for pages (``madvise``) returns at once: the system reads them in the background, and a page that is there
already costs nothing. What a computation then touches is in memory, and it never waits for one page at a time.
"""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np

__all__ = ["Ahead", "map_pages", "will_read"]

# Linux cuts one request down to the largest read of the device, which is 128 KiB where nothing larger is set.
_REQUEST = 1 << 17
_PAGE = mmap.PAGESIZE
# MADV_POPULATE_READ, for which Python has no name yet.
_populate: int | None = 22 if sys.platform == "linux" else None


# Batches that are fetched ahead after one that had to wait for the disk.
_STAY = 64


class Ahead:
    """Fetching scattered pieces ahead, as long as the disk is what they come from.

    A request for pages that are in memory already costs some microseconds, as reading a short piece does. So nothing is
    asked for until a fault of this process had to wait for the disk, then for the next 64 times, then after another.

    Parameters
    ----------
    dataset : SequenceDataset
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._faults, self._left = _faults_of_disk(), 0

    def wanted(self) -> bool:
        """Say whether the next pieces are worth asking for."""
        faults = _faults_of_disk()
        if faults > self._faults:
            self._faults, self._left = faults, _STAY + 1
        self._left = max(0, self._left - 1)
        return self._left > 0

    def fetch(self, starts: np.ndarray, stops: np.ndarray) -> int:
        """Ask for the pages of some pieces, as `will_read` does."""
        return will_read(self._dataset, starts, stops)


def _faults_of_disk() -> int:
    """Page faults of this process that had to wait for a disk."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def will_read(dataset: Any, starts: np.ndarray, stops: np.ndarray) -> int:
    """Ask for the pages of ``dataset.tokens[starts[i]:stops[i]]``, which are going to be read soon.

    Parameters
    ----------
    dataset : SequenceDataset
        One that lies in memory is left alone.
    starts, stops : ndarray of int64, shape (K,)
        In rising order where it matters: pieces on the same page are asked for once.

    Returns
    -------
    int
        Bytes asked for.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> will_read(SequenceDataset([1, 2, 3]), np.array([0]), np.array([3]))
    0
    """
    mapping = getattr(dataset, "mapping", None)
    if mapping is None or not hasattr(mmap, "MADV_WILLNEED"):
        return 0
    first = _offset_in_file(mapping, dataset.tokens)
    if first is None:
        return 0
    itemsize = dataset.tokens.itemsize
    low = (first + starts * itemsize) // _PAGE * _PAGE
    high = first + stops * itemsize
    asked, begin, end = 0, 0, 0
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        if begin <= a <= end:
            end = max(end, b)
            continue
        asked += _ask(mapping.map, begin, end)
        begin, end = a, b
    return asked + _ask(mapping.map, begin, end)


def map_pages(dataset: Any, start: int, stop: int) -> None:
    """Enter the pages of ``dataset.tokens[start:stop]``, which are going to be read now, in one go.

    A fault for every sixteen pages is a twelfth of the time of the fastest pass. Only Linux from 5.14 on can be asked;
    elsewhere nothing happens.
    """
    global _populate
    mapping = getattr(dataset, "mapping", None)
    if mapping is None or _populate is None:
        return
    first = _offset_in_file(mapping, dataset.tokens)
    if first is None:
        return
    low = (first + start * dataset.tokens.itemsize) // _PAGE * _PAGE
    try:
        mapping.map.madvise(_populate, low, first + stop * dataset.tokens.itemsize - low)
    except OSError:
        _populate = None


def _ask(mapped: mmap.mmap, begin: int, end: int) -> int:
    for start in range(begin, end, _REQUEST):
        mapped.madvise(mmap.MADV_WILLNEED, start, min(_REQUEST, end - start))
    return end - begin


def _offset_in_file(mapping: Any, tokens: np.ndarray) -> int | None:
    """Where the tokens begin in the mapped file; None if they lie elsewhere (decoded, or of another file)."""
    base = np.frombuffer(mapping.map, np.uint8).__array_interface__["data"][0]
    offset = int(tokens.__array_interface__["data"][0]) - int(base)
    return offset if 0 <= offset <= mapping.size - tokens.nbytes else None
