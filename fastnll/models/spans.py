"""Which tokens are predicted, and from how much: the geometry of rows over a ragged dataset.

A row is one predicted token. `Spans` numbers the rows of a dataset, or of a batch of its sequences, from 0
to `n_rows`, and says for any slice of these numbers where the predicted tokens lie and how many
predecessors each one has in its own sequence. Nothing else in the package knows about sequence boundaries,
so no context ever reaches across one.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastnll.data.checks import sequence_ids

__all__ = ["Data", "Spans"]

Array = npt.NDArray[Any]


class Data(Protocol):
    """What a model reads of a dataset: the packed tokens. Features ride on the same object."""

    @property
    def tokens(self) -> Array:
        """Token ids of all sequences, shape (M,)."""
        ...


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
    row_ends : ndarray of int64, shape (S + 1,)
        Sequence s has the rows ``row_ends[s]`` to ``row_ends[s + 1]``.

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
        self._first, self._start, self._stop, self._skip = first, start, stop, skip
        self.row_ends = np.zeros(first.size + 1, np.int64)
        lengths = np.maximum(stop - np.maximum(start, first + skip), 0)
        np.cumsum(lengths, out=self.row_ends[1:])

    @classmethod
    def of(cls, dataset: Any, skip: int) -> Spans:
        """Return the rows of a whole dataset (SequenceDataset, Pieces, FeatureDataset).

        Offsets are only viewed, so that 10**7 sequences cost one new array. What a piece repeats of the piece
        before it (``n_context``) is context, and not predicted again.
        """
        n_context = getattr(dataset, "n_context", None)
        if hasattr(dataset, "starts"):
            return cls(dataset.starts, dataset.starts + n_context, dataset.stops, skip)
        offsets = np.asarray(dataset.offsets, np.int64)
        first, stop = offsets[:-1], offsets[1:]
        return cls(first, first if n_context is None else first + n_context, stop, skip)

    def take(self, ids: Any) -> Spans:
        """Return the rows of those sequences, in that order; repetitions are legal.

        Raises
        ------
        ShapeError, DTypeError, DataError
            Ids that are not a 1-D array of sequence ids: the first bad one, and how many.
        """
        which = sequence_ids(ids, self._first.size)
        return Spans(self._first[which], self._start[which], self._stop[which], self._skip)

    @property
    def n_rows(self) -> int:
        """Number of predicted tokens."""
        return int(self.row_ends[-1])

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
        ends = self.row_ends[a : b + 1]
        counts = np.minimum(ends[1:], high) - np.maximum(ends[:-1], low)
        first = self._first[a:b]
        start = np.maximum(self._start[a:b], first + self._skip)
        positions = np.repeat(start - ends[:-1], counts)
        positions += np.arange(low, high)
        return positions, positions - np.repeat(first, counts)

    def overlapping(self, low: int, high: int) -> tuple[int, int]:
        """Return the range of sequences that the rows ``low`` to ``high`` belong to, empty ones between included."""
        a = int(np.searchsorted(self.row_ends, low, side="right")) - 1
        return a, max(a, int(np.searchsorted(self.row_ends, high, side="left")))
