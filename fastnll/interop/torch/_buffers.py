"""Memory for large results: NumPy's (huge pages), lent to tensors, taken back when the last tensor over it is gone.

The pages of a fresh large array cost more than the kernel that fills it. A training step asks for the same sizes again
and again, so a few blocks are kept. A block is lent as one NumPy array object, which `torch.from_numpy` holds for as
long as the tensor's storage lives, whoever keeps it: ``.grad``, a view, a NumPy array made from the tensor. Only when
that object dies does the block become free again.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_BYTES", "Pool", "empty_cache", "pool"]

Array = npt.NDArray[Any]

# Below this size malloc gives back pages that it has kept itself.
LEAST_BYTES = 1 << 20
# A block is used for requests down to a quarter of it: batches differ in length, and pages not touched cost nothing.
_WASTE = 4


class Pool:
    """A few blocks of memory that wait for their next use.

    Parameters
    ----------
    keep : int
        Free blocks kept; the smallest goes first. A step through log_softmax and nll_loss has three at a time.

    Examples
    --------
    >>> pool = Pool(keep=1)
    >>> a = pool.empty((1024, 1024), np.dtype(np.float32))
    >>> address = a.ctypes.data
    >>> del a
    >>> pool.empty((512, 1024), np.dtype(np.float32)).ctypes.data == address
    True
    """

    def __init__(self, keep: int = 3) -> None:
        self.keep = keep
        # Dictionaries, because their single operations are atomic: arrays die in any thread, at any moment.
        self._free: dict[int, Array] = {}
        self._lent: dict[int, tuple[weakref.ref[Array], Array]] = {}

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return an uninitialised C-contiguous array; from a kept block where one fits."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < LEAST_BYTES:
            return np.empty(shape, dtype)
        block = self._take(n_bytes)
        if block is None:
            raw = np.empty(n_bytes + 64, np.uint8)
            start = -raw.ctypes.data % 64
            block = raw[start : start + n_bytes]
        # NumPy makes the block the base of this array and of all views of it; only the array itself is watched, so it
        # must be what the tensor is made from.
        array = block[:n_bytes].view(dtype).reshape(shape)
        key = id(block)

        def ended(_: object, key: int = key) -> None:
            self._back(key)

        self._lent[key] = (weakref.ref(array, ended), block)
        return array

    def _take(self, n_bytes: int) -> Array | None:
        for key, block in sorted(self._free.copy().items(), key=lambda item: item[1].nbytes):
            if n_bytes <= block.nbytes <= _WASTE * n_bytes and self._free.pop(key, None) is not None:
                return block
        return None

    def _back(self, key: int) -> None:
        _, block = self._lent.pop(key)
        self._free[key] = block
        while len(self._free) > self.keep:
            by_size = sorted(self._free.copy().items(), key=lambda item: item[1].nbytes)
            self._free.pop(by_size[0][0] if by_size else 0, None)

    @property
    def free_bytes(self) -> int:
        """Bytes in blocks that wait."""
        return sum(block.nbytes for block in self._free.copy().values())

    def clear(self) -> None:
        """Give the waiting blocks back to the operating system; blocks in use are not touched."""
        self._free.clear()


pool = Pool()


def empty_cache() -> None:
    """Give the memory kept for the next large results back to the operating system.

    Examples
    --------
    >>> empty_cache()
    >>> pool.free_bytes
    0
    """
    pool.clear()
