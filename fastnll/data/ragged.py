"""Tokens and offsets, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnll.data.checks import chunks, offsets_array, token_array
from fastnll.data.mapping import MappedFile
from fastnll.data.watching import report

__all__ = ["Ragged", "read_only"]


class Ragged:
    """Sequences of any lengths, packed one after the other: the geometry of a :class:`SequenceDataset`.

    Parameters
    ----------
    tokens : array of int, shape (M,)
    offsets : array of int, shape (B + 1,), or None for one sequence
    mapping : MappedFile, optional
        The memory-mapped file that `tokens` is a view of.
    """

    def __init__(self, tokens: Any, offsets: Any, mapping: MappedFile | None) -> None:
        array = token_array(tokens)
        self.mapping = mapping
        bounds = np.array([0, array.size]) if offsets is None else offsets_array(offsets, array.size, self.note_read)
        self.tokens, self.offsets = read_only(array), read_only(bounds)

    @property
    def n_sequences(self) -> int:
        """B, the number of sequences."""
        return self.offsets.size - 1

    @property
    def n_tokens(self) -> int:
        """Tokens in all sequences together (not those of `tokens` that lie outside the offsets)."""
        return int(self.offsets[-1] - self.offsets[0])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64, shape (B,)."""
        return np.diff(self.offsets)

    def lengths_of(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of some sequences, int64, without looking at the others."""
        lengths = np.empty(ids.size, np.int64)
        for low, high in chunks(0, ids.size, 1 << 12):
            which = ids[low:high]
            np.subtract(self.offsets[which + 1], self.offsets[which], out=lengths[low:high])
            # A page fault maps the pages around it too: 64 KiB on Linux.
            self.note_read(min(self.offsets.nbytes, which.size << 16))
        return lengths

    @property
    def span(self) -> tuple[int, int]:
        """First and one past the last position of `tokens` that belongs to a sequence."""
        return int(self.offsets[0]), int(self.offsets[-1])

    def __len__(self) -> int:
        return self.n_sequences

    def scan(self, overlap: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """All tokens in order, about a million at a time, as views.

        Parameters
        ----------
        overlap : int, default 0
            How many tokens of the following part each part also holds: 1 for pairs.

        Yields
        ------
        start : int
            Position in `tokens` of the first one.
        part : ndarray
        """
        low, high = self.span
        for start, stop in chunks(low, high - overlap):
            part = self.tokens[start : stop + overlap]
            yield start, part
            self.note_read(part.nbytes)
            report(stop + overlap - low, high - low)

    def note_read(self, n_bytes: int) -> None:
        """Say that about this many bytes of `tokens` have been read: keeps a memory-mapped file out of memory.

        Whoever walks over `tokens` directly calls it now and then; :meth:`take` and :meth:`scan` do.
        """
        if self.mapping is not None:
            self.mapping.note_read(n_bytes)


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written through: sizes are kept from the first look at the tokens."""
    view = array.view()
    view.flags.writeable = False
    return view
