"""Which tokens are predicted, and from how much: the geometry of rows over a ragged dataset.

A row is one predicted token. `Spans` numbers the rows of a dataset, or of a batch of its sequences, from 0
to `n_rows`, and says for any slice of these numbers where the predicted tokens lie and how many
predecessors each one has in its own sequence. Nothing else in the package knows about sequence boundaries,
so no context ever reaches across one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fastnll.data.checks import sequence_ids
from fastnll.data.running import RunningTotal

__all__ = ["Data", "Spans"]

Array = npt.NDArray[Any]


class Data(Protocol):
    """What a model reads of a dataset: the packed tokens. Features ride on the same object."""

    @property
    def tokens(self) -> Array:
        """Token ids of all sequences, shape (M,)."""
        ...


class _Places(Protocol):
    """Where the sequences of a dataset are: first token, first token that may be predicted, one past the last."""

    def part(self, low: int, high: int) -> tuple[Array, Array, Array]:
        """Return the three of the sequences ``low`` to ``high``."""
        ...

    def of(self, ids: Array) -> tuple[Array, Array, Array]:
        """Return the three of some sequences."""
        ...


class _Given(NamedTuple):
    """Three arrays."""

    first: Array
    start: Array
    stop: Array

    def part(self, low: int, high: int) -> tuple[Array, Array, Array]:
        return self.first[low:high], self.start[low:high], self.stop[low:high]

    def of(self, ids: Array) -> tuple[Array, Array, Array]:
        return self.first[ids], self.start[ids], self.stop[ids]


class _Packed(NamedTuple):
    """One array of offsets, and of what each sequence repeats of another (or None)."""

    offsets: Array
    n_context: Array | None
    note_read: Callable[[int], None]

    def part(self, low: int, high: int) -> tuple[Array, Array, Array]:
        first, stop = self.offsets[low:high], self.offsets[low + 1 : high + 1]
        self.note_read(8 * first.size)
        return first, first if self.n_context is None else first + self.n_context[low:high], stop

    def of(self, ids: Array) -> tuple[Array, Array, Array]:
        first, stop = self.offsets[ids], self.offsets[ids + 1]
        # A page fault maps the pages around it too: 64 KiB on Linux.
        self.note_read(min(self.offsets.nbytes, ids.size << 16))
        return first, first if self.n_context is None else first + self.n_context[ids], stop


class _Windows(NamedTuple):
    """Pieces, which compute where they are."""

    pieces: Any

    def part(self, low: int, high: int) -> tuple[Array, Array, Array]:
        return self.of(np.arange(low, high, dtype=np.int64))

    def of(self, ids: Array) -> tuple[Array, Array, Array]:
        starts, stops, n_context = self.pieces.bounds(ids)
        return starts, starts + n_context, stops


class Spans:
    """The predicted tokens of some sequences, numbered in order.

    Parameters
    ----------
    first : array of int64, shape (S,)
        Where each sequence starts in the tokens; a context may reach back to it.
    start, stop : arrays of int64, shape (S,)
        The part of it that may be predicted, ``tokens[start:stop]``.
    skip : int
        How many tokens from `first` on are not predicted in any case.

    Attributes
    ----------
    n_rows : int
        Number of predicted tokens.
    n_sequences : int
        S.
    scattered : bool
        Whether these are sequences that were picked out, not all of a dataset in order.

    Examples
    --------
    Three sequences of 3, 0 and 2 tokens; the first of each has no predecessor and is not predicted:

    >>> from fastnll.data import SequenceDataset
    >>> spans = Spans.of(SequenceDataset([3, 1, 4, 1, 5], [0, 3, 3, 5]), skip=1)
    >>> spans.n_rows, spans.row_ends
    (3, array([0, 2, 2, 3]))
    >>> spans.rows(0, 3)
    (array([1, 2, 4]), array([1, 2, 1]))
    """

    def __init__(self, first: Array, start: Array, stop: Array, skip: int) -> None:
        self._setup(_Given(first, start, stop), first.size, skip)

    def _setup(self, places: _Places, n_sequences: int, skip: int) -> None:
        self._places, self.n_sequences, self._skip = places, n_sequences, skip
        self._totals = RunningTotal(n_sequences, self._sizes)
        self.n_rows = self._totals.total
        self.scattered = False

    def _sizes(self, low: int, high: int) -> Array:
        """Rows of the sequences ``low`` to ``high``."""
        first, start, stop = self._places.part(low, high)
        sizes: Array = np.maximum(stop - np.maximum(start, first + self._skip), 0)
        return sizes

    @classmethod
    def of(cls, dataset: Any, skip: int) -> Spans:
        """Return the rows of a whole dataset (SequenceDataset, Pieces, FeatureDataset).

        Where sequences are is only looked up, so that 10**8 of them cost a few MB. What a piece repeats of the piece
        before it (``n_context``) is context, and not predicted again.
        """
        spans = cls.__new__(cls)
        places: _Places
        if hasattr(dataset, "bounds"):
            places = _Windows(dataset)
        else:
            note_read = getattr(dataset, "note_read", lambda n_bytes: None)
            offsets = np.asarray(dataset.offsets, np.int64)
            places = _Packed(offsets, getattr(dataset, "n_context", None), note_read)
        spans._setup(places, len(dataset), skip)
        return spans

    def take(self, ids: Any) -> Spans:
        """Return the rows of those sequences, in that order; repetitions are legal.

        Raises
        ------
        ShapeError, DTypeError, DataError
            Ids that are not a 1-D array of sequence ids: the first bad one, and how many.
        """
        taken = Spans(*self._places.of(sequence_ids(ids, self.n_sequences)), self._skip)
        taken.scattered = True
        return taken

    @property
    def row_ends(self) -> Array:
        """int64, shape (S + 1,): sequence s has the rows ``row_ends[s]`` to ``row_ends[s + 1]``.

        Of all sequences: eight bytes each, which `ends` asks for of some.
        """
        return self.ends(0, self.n_sequences)

    def ends(self, low: int, high: int) -> Array:
        """Return ``row_ends[low : high + 1]``."""
        return self._totals.ends(low, high)

    def rows(self, low: int, high: int) -> tuple[Array, Array]:
        """Return where the rows ``low`` to ``high`` are, and what they can look back on.

        Returns
        -------
        positions : ndarray of int64, shape (high - low,)
            Index of each predicted token in the tokens.
        depth : ndarray of int64, shape (high - low,)
            Number of tokens before it in its own sequence.
        """
        a, b = self.overlapping(low, high)
        ends = self.ends(a, b)
        counts = np.minimum(ends[1:], high) - np.maximum(ends[:-1], low)
        first, start, _ = self._places.part(a, b)
        start = np.maximum(start, first + self._skip)
        positions = np.repeat(start - ends[:-1], counts)
        positions += np.arange(low, high)
        return positions, positions - np.repeat(first, counts)

    def overlapping(self, low: int, high: int) -> tuple[int, int]:
        """Return the range of sequences that the rows ``low`` to ``high`` belong to, empty ones between included."""
        a = self._totals.find(low, "right") - 1
        return a, max(a, self._totals.find(high, "left"))
