"""Reading ahead in a memory-mapped file, so that the disk works while the processor does.

Asking for pages (``madvise``) returns at once: the system reads them in the background, and a page that is there
already costs nothing. What a computation then touches is in memory, and it never waits for one page at a time.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

__all__ = ["will_read"]

# Linux cuts one request down to the largest read of the device, which is 128 KiB where nothing larger is set.
_REQUEST = 1 << 17
_PAGE = mmap.PAGESIZE


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


def _ask(mapped: mmap.mmap, begin: int, end: int) -> int:
    for start in range(begin, end, _REQUEST):
        mapped.madvise(mmap.MADV_WILLNEED, start, min(_REQUEST, end - start))
    return end - begin


def _offset_in_file(mapping: Any, tokens: np.ndarray) -> int | None:
    """Where the tokens begin in the mapped file; None if they lie elsewhere (decoded, or of another file)."""
    base = np.frombuffer(mapping.map, np.uint8).__array_interface__["data"][0]
    offset = int(tokens.__array_interface__["data"][0]) - int(base)
    return offset if 0 <= offset <= mapping.size - tokens.nbytes else None
