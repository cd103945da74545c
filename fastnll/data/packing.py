"""Copying sequences together: from an iterable of unknown length, or from positions in a packed array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fastnll.data.checks import CHUNK, smallest_unsigned, token_array
from fastnll.errors import DataError, DTypeError

__all__ = ["SequencePacker", "gather", "token_dtype"]

# Below this mean length one indexed read beats a copy per sequence (a slice assignment is about 0.2 us).
_SHORT = 48


def token_dtype(dtype: Any) -> np.dtype[Any]:
    """`dtype` as a NumPy integer dtype in native byte order, else :class:`DTypeError`."""
    try:
        result: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        raise DTypeError(f"dtype: expected an integer dtype, got {dtype!r}") from None
    if result.kind not in "iu":
        raise DTypeError(f"dtype: expected an integer dtype, got {result}")
    return result


class SequencePacker:
    """Append integer sequences one by one; the array widens only when an id asks for it.

    Parameters
    ----------
    vocab_size : int, optional
        Ids must be below it. Default: any id.
    dtype : dtype, optional
        Stored dtype. Default: the smallest unsigned one that holds `vocab_size`, or the ids seen.

    Examples
    --------
    >>> packer = SequencePacker()
    >>> packer.extend([[1, 2], [700]])
    >>> packer.finish()
    (array([  1,   2, 700], dtype=uint16), array([0, 2, 3]))
    """

    def __init__(self, *, vocab_size: int | None = None, dtype: Any = None, first: int = 0) -> None:
        self.first = first
        self._limit = vocab_size
        self._fixed = dtype is not None
        start = token_dtype(dtype) if dtype is not None else smallest_unsigned(vocab_size or 1)
        self._tokens = np.empty(1024, start)
        self.n_tokens = 0
        self._ends = np.zeros(1024, np.int64)
        self.n_sequences = 0
        self.largest = -1

    def extend(self, sequences: Iterable[Any]) -> None:
        """Append every sequence of an iterable."""
        for sequence in self.iterate(sequences):
            self.append(sequence)

    @staticmethod
    def iterate(sequences: Iterable[Any]) -> Iterator[Any]:
        """An iterator over `sequences`, or :class:`DTypeError` for text and for what is no iterable."""
        if isinstance(sequences, (str, bytes)):
            raise DTypeError(
                f"sequences: expected integer sequences, got {type(sequences).__name__}; "
                "use SequenceDataset.from_text for text"
            )
        try:
            iterator = iter(sequences)
        except TypeError:
            raise DTypeError(
                f"sequences: expected an iterable of integer sequences, got {type(sequences).__name__}"
            ) from None
        return iterator

    def append(self, sequence: Any) -> None:
        """Append one sequence (an array, a list, any buffer of integers)."""
        name = f"sequences[{self.first + self.n_sequences}]"
        array = token_array(sequence, name)
        if array.size:
            self._check(array, name)
            self._put(array)
        self.n_sequences += 1
        if self.n_sequences == self._ends.size:
            self._ends = np.concatenate([self._ends, np.zeros_like(self._ends)])
        self._ends[self.n_sequences] = self.n_tokens

    def append_packed(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Append many sequences at once, of the stored dtype and not checked: `lengths` cut `tokens`."""
        count = self.n_sequences + lengths.size
        if count >= self._ends.size:
            grown = np.zeros(max(count + 1, 2 * self._ends.size), np.int64)
            grown[: self.n_sequences + 1] = self._ends[: self.n_sequences + 1]
            self._ends = grown
        self._ends[self.n_sequences + 1 : count + 1] = self.n_tokens + np.cumsum(lengths)
        self.n_sequences = count
        self._put(tokens)

    def _put(self, array: np.ndarray) -> None:
        self._reserve(array.size)
        self._tokens[self.n_tokens : self.n_tokens + array.size] = array
        self.n_tokens += array.size

    def _check(self, array: np.ndarray, name: str) -> None:
        smallest, largest = int(array.min()), int(array.max())
        self.largest = max(self.largest, largest)
        room = np.iinfo(self._tokens.dtype).max
        if not self._fixed and largest > room and (self._limit is None or largest < self._limit):
            self._tokens = self._tokens.astype(smallest_unsigned(largest + 1))
            room = largest
        limit = min(room, room if self._limit is None else self._limit - 1)
        if smallest >= 0 and largest <= limit:
            return
        bad = np.flatnonzero((array < 0) | (array > limit))
        value = int(array[bad[0]])
        if value < 0:
            advice = "ids count from 0"
        elif self._limit is not None and value >= self._limit:
            advice = f"pass vocab_size={value + 1} or more if the id is right"
        else:
            advice = f"{self._tokens.dtype} holds no more, choose a wider dtype"
        raise DataError(
            f"{name}: expected ids in [0, {limit + 1}), got {value} at position {int(bad[0])}; "
            f"{bad.size} of {array.size} are outside; {advice}"
        )

    def _reserve(self, extra: int) -> None:
        if self.n_tokens + extra > self._tokens.size:
            # Growth by half keeps the sum of all copies below three times the final size.
            grown = np.empty(max(self.n_tokens + extra, self._tokens.size * 3 // 2), self._tokens.dtype)
            grown[: self.n_tokens] = self._tokens[: self.n_tokens]
            self._tokens = grown

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The packed tokens, shape (M,), and int64 offsets, shape (B + 1,), without the spare room."""
        # Shrinking in place: a trimmed copy would hold the corpus twice for a moment.
        self._tokens.resize(self.n_tokens, refcheck=False)
        self._ends.resize(self.n_sequences + 1, refcheck=False)
        return self._tokens, self._ends


def gather(tokens: np.ndarray, starts: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Copy the pieces that begin at `starts` to the places `offsets` names.

    Parameters
    ----------
    tokens : ndarray, shape (M,)
    starts : ndarray of int64, shape (K,)
        Where each piece begins in `tokens`.
    offsets : ndarray of int64, shape (K + 1,)
        Where each piece goes in the result, from 0; the differences are the lengths.

    Returns
    -------
    ndarray, shape (offsets[-1],), dtype of `tokens`

    Examples
    --------
    >>> gather(np.array([10, 11, 12, 13, 14]), np.array([3, 0]), np.array([0, 2, 3]))
    array([13, 14, 10])
    """
    total = int(offsets[-1])
    out = np.empty(total, tokens.dtype)
    if not total:
        return out
    # Neighbours in the source that stay neighbours in the result are copied as one piece.
    joined = starts[1:] == starts[:-1] + np.diff(offsets)[:-1]
    heads = np.concatenate([[0], 1 + np.flatnonzero(~joined)])
    begin, place = starts[heads], np.append(offsets[heads], total)
    if total >= _SHORT * heads.size:
        for source, low, high in zip(begin.tolist(), place[:-1].tolist(), place[1:].tolist(), strict=True):
            out[low:high] = tokens[source : source + high - low]
        return out
    shift = begin - place[:-1]
    low = 0
    while low < heads.size:
        # A positions array is eight bytes a token: made for about a million tokens at a time.
        high = max(low + 1, int(np.searchsorted(place, place[low] + CHUNK, side="right")) - 1)
        a, b = int(place[low]), int(place[high])
        positions = np.repeat(shift[low:high], np.diff(place[low : high + 1]))
        positions += np.arange(a, b)
        np.take(tokens, positions, out=out[a:b])
        low = high
    return out
