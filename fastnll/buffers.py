"""Memory for large results: NumPy's (huge pages), lent to arrays, taken back when the last array over it is gone.

The pages of a fresh large array cost more than the kernel that fills it. A training step asks for the same sizes again
and again, so a few blocks are kept. The arrays over a block, the result and every view of it, tensors made from it
included, hold one owner between them; only when that object dies does the block become free again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.errors import OptionError

__all__ = ["LEAST_BYTES", "Pool", "empty_cache", "pool", "was_used"]

Array = npt.NDArray[Any]

# Below this size malloc gives back pages that it has kept itself.
LEAST_BYTES = 1 << 20
# A block is used for requests down to a quarter of it: batches differ in length, and pages not touched cost nothing.
_WASTE = 4
_LINE = 64


class _Owner:
    """What the arrays over a block have for their base: gives it back when it dies.

    Attributes
    ----------
    used : bool
        Whether the block has been another result before, so that its pages are there.
    """

    __slots__ = ("__array_interface__", "_block", "_pool", "used")

    def __init__(self, pool: Pool, block: Array, used: bool) -> None:
        self._pool, self._block, self.used = pool, block, used
        self.__array_interface__ = block.__array_interface__

    def __del__(self) -> None:
        self._pool._back(self._block)


class Pool:
    """A few blocks of memory that wait for their next use.

    Parameters
    ----------
    keep : int
        Free blocks kept; the smallest goes first. A step through log_softmax and nll_loss has three at a time.
    most_bytes : int
        Most that the free blocks take together; larger blocks are never kept.

    Examples
    --------
    >>> pool = Pool(keep=1)
    >>> a = pool.empty((1024, 1024), np.dtype(np.float32))
    >>> address, part = a.ctypes.data, a[5:]
    >>> del a
    >>> pool.free_bytes
    0
    >>> del part
    >>> pool.empty((512, 1024), np.dtype(np.float32)).ctypes.data == address
    True
    """

    def __init__(self, keep: int = 3, most_bytes: int = 2 << 30) -> None:
        self.keep, self.most_bytes = keep, most_bytes
        # A dictionary, because its single operations are atomic: arrays die in any thread, at any moment.
        self._free: dict[int, Array] = {}

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return an uninitialised C-contiguous array; a large one on a cache line, from a kept block where one fits."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < LEAST_BYTES:
            return np.empty(shape, dtype)
        kept = block = self._take(n_bytes)
        if block is None:
            raw = np.empty(n_bytes + _LINE, np.uint8)
            start = -raw.ctypes.data % _LINE
            block = raw[start : start + n_bytes]
        # NumPy never looks behind an owner that is no array: it stays the base of all views.
        return np.asarray(_Owner(self, block, kept is not None))[:n_bytes].view(dtype).reshape(shape)

    def _take(self, n_bytes: int) -> Array | None:
        for key, block in sorted(self._free.copy().items(), key=lambda item: item[1].nbytes):
            if n_bytes <= block.nbytes <= _WASTE * n_bytes and self._free.pop(key, None) is not None:
                return block
        return None

    def _back(self, block: Array) -> None:
        if block.nbytes > self.most_bytes:
            return
        self._free[id(block)] = block
        while len(self._free) > self.keep or self.free_bytes > self.most_bytes:
            by_size = sorted(self._free.copy().items(), key=lambda item: item[1].nbytes)
            self._free.pop(by_size[0][0] if by_size else 0, None)

    @property
    def free_bytes(self) -> int:
        """Bytes in blocks that wait."""
        return sum(block.nbytes for block in self._free.copy().values())

    def clear(self) -> None:
        """Give the waiting blocks back to the operating system; blocks in use are not touched."""
        self._free.clear()


def _bytes_to_keep() -> int:
    """Return what ``FASTNLL_KEEP_BYTES`` says, else an eighth of the machine's memory, at most 2 GiB."""
    text = os.environ.get("FASTNLL_KEEP_BYTES", "").strip()
    if text:
        if not text.isdecimal():
            raise OptionError(f"FASTNLL_KEEP_BYTES: expected a number of bytes, 0 to keep none, got {text!r}")
        return int(text)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 28
    return min(2 << 30, memory // 8)


pool = Pool(most_bytes=_bytes_to_keep())


def was_used(array: Array) -> bool:
    """Return whether the memory of an array of the pool has been another result before: its pages are there.

    Examples
    --------
    >>> small = Pool()
    >>> first = small.empty((1024, 1024), np.dtype(np.float32))
    >>> was_used(first)
    False
    >>> del first
    >>> was_used(small.empty((1024, 1024), np.dtype(np.float32))[3:])
    True
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, _Owner) and base.used


def empty_cache() -> None:
    """Give the memory that is kept for the next large results back to the operating system.

    A result of 1 MB or more (a gradient, log-probabilities) is computed into the memory of an earlier one that nobody
    holds any more: three such blocks are kept, of at most ``FASTNLL_KEEP_BYTES`` together (default: an eighth of the
    machine's memory, at most 2 GiB; 0 keeps none).

    Examples
    --------
    >>> import fastnll as fn
    >>> fn.empty_cache()
    >>> pool.free_bytes
    0
    """
    pool.clear()
