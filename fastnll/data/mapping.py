"""A memory-mapped file whose pages do not pile up in the resident set."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from fastnll.data.text import reason
from fastnll.errors import DataError

__all__ = ["MappedFile"]

# Pages that have been read stay resident until the system needs them, which a memory limit counts as use. Once this
# much was read they are handed back to the page cache; reading them again costs a minor fault, no disk access.
_RESIDENT = 1 << 28
# A page fault maps more than was touched: 64 KiB on older Linux, the whole of a large folio (up to 2 MiB) on newer. So
# a count of what was read is only a guess, and the system is asked now and then: three microseconds every 4 MiB.
_LOOKS = 64


class MappedFile:
    """A file as one read-only buffer, mapped and not read.

    Parameters
    ----------
    path : str or path
    expected : str
        What an error says was expected here.

    Attributes
    ----------
    path : str
    size : int
        Bytes of the file when it was opened.

    Raises
    ------
    DataError
        A file that is not there, is a folder, may not be read or is empty.
    """

    def __init__(self, path: str | os.PathLike[str], expected: str = "a dataset") -> None:
        self.path = os.fspath(path)
        try:
            with open(path, "rb") as stream:
                self.size = os.fstat(stream.fileno()).st_size
                if not self.size:
                    raise DataError(f"{path}: expected {expected}, got an empty file")
                self.map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: expected {expected}, got {reason(error)}") from None
        self._read = self._unseen = 0
        self._before = _file_pages()

    def array(self, dtype: Any, start: int, count: int) -> np.ndarray:
        """`count` numbers from byte `start` on, as a read-only view."""
        return np.frombuffer(self.map, dtype, count, start)

    def bytes(self, start: int, count: int) -> bytes:
        """A copy of `count` bytes from `start` on; fewer where the file ends."""
        return self.map[start : start + count]

    def note_read(self, n_bytes: int) -> None:
        """Say that about this many bytes have been read; releases the pages from time to time."""
        self._read += n_bytes
        self._unseen += n_bytes
        if self._read >= _RESIDENT:
            self.release()
        elif self._unseen >= _RESIDENT // _LOOKS:
            self._unseen = 0
            if _file_pages() - self._before >= _RESIDENT:
                self.release()

    def release(self) -> None:
        """Hand all pages back to the page cache. Arrays stay valid: what is read again is mapped again."""
        self._read = self._unseen = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)
        self._before = _file_pages()


def _file_pages() -> int:
    """Bytes of files in the resident set of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as stream:
            return int(stream.read().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0
