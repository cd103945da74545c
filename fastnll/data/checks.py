"""The checks of the data layer: every argument of a dataset is looked at here, once.

Tokens are scanned in chunks of :data:`CHUNK`, so that a memory-mapped file of any size is checked in a few
megabytes, and never in a wider dtype than the one it is stored in.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastnll.errors import DataError, DTypeError, OptionError, ShapeError

__all__ = [
    "CHUNK",
    "check_ids",
    "check_text",
    "chunks",
    "first_bad_token",
    "integer",
    "max_token",
    "offsets_array",
    "sequence_ids",
    "smallest_unsigned",
    "token_array",
]

# 2**20 tokens widened to int64 are 8 MiB: little memory, and NumPy's cost per call is lost in them.
CHUNK = 1 << 20

_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)


def chunks(start: int, stop: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Cut ``[start, stop)`` into consecutive pieces of at most `size`.

    >>> list(chunks(3, 10, 4))
    [(3, 7), (7, 10)]
    """
    for low in range(start, stop, size):
        yield low, min(low + size, stop)


def smallest_unsigned(vocab_size: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds every id below `vocab_size`.

    >>> [str(smallest_unsigned(v)) for v in (1, 256, 257, 65536, 65537)]
    ['uint8', 'uint8', 'uint16', 'uint16', 'uint32']
    """
    for candidate in _UNSIGNED:
        if vocab_size - 1 <= np.iinfo(candidate).max:
            return np.dtype(candidate)
    raise OptionError(f"vocab_size: expected at most 2**64, got {vocab_size}")


def integer(name: str, value: Any, low: int) -> int:
    """`value` as an int of at least `low`; a float, a bool or a string is an :class:`OptionError`."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name}: expected an integer of at least {low}, got {value!r}") from None
    if number < low:
        raise OptionError(f"{name}: expected an integer of at least {low}, got {number}")
    return number


def token_array(tokens: Any, name: str = "tokens") -> np.ndarray:
    """`tokens` as a 1-D integer array in native byte order, without a copy where that is possible.

    An array keeps its dtype. A list (of Python ints, which have no dtype of their own) gets the smallest
    unsigned dtype that holds it.
    """
    array = _as_array(tokens, name)
    if array.ndim != 1:
        raise ShapeError(
            f"{name}: expected a 1-D array, got shape {array.shape}; "
            "for a table of equally long sequences use SequenceDataset.from_sequences(table)"
        )
    if not isinstance(tokens, np.ndarray):
        # An empty list becomes float64 in NumPy although it holds nothing that is not an integer.
        if array.size == 0:
            return array.astype(np.uint8)
        if array.dtype == np.int64 and array.min() >= 0:
            return array.astype(smallest_unsigned(int(array.max()) + 1))
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{name}: expected an integer dtype, got {array.dtype}; convert the ids with .astype first")
    # The kernels read native words only; swapping is a copy, made once and in the same width.
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _as_array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, (str, bytes)):
        raise DTypeError(
            f"{name}: expected integers, got {type(values).__name__}; use SequenceDataset.from_text for text"
        )
    try:
        # asarray also strips subclasses such as memmap: slicing those is several times slower.
        return np.asarray(values)
    except ValueError:
        raise ShapeError(
            f"{name}: expected a 1-D array, got nested sequences of different lengths; "
            "use SequenceDataset.from_sequences"
        ) from None
    except OverflowError:
        raise DTypeError(f"{name}: expected integers of at most 64 bits, got a larger one") from None


def offsets_array(
    offsets: Any, n_available: int, note_read: Callable[[int], None] = lambda n_bytes: None
) -> np.ndarray:
    """`offsets` as a contiguous int64 array of B + 1 entries that rise within ``[0, n_available]``.

    `note_read` is told how many bytes have been looked at, part by part.
    """
    array = _as_array(offsets, "offsets")
    if array.ndim != 1 or array.size == 0:
        raise ShapeError(
            "offsets: expected a 1-D array of B + 1 entries (so at least one), "
            f"got shape {array.shape}; a dataset without sequences has offsets [0]"
        )
    if array.dtype.kind not in "iu":
        raise DTypeError(f"offsets: expected an integer dtype, got {array.dtype}")
    if array.dtype == np.uint64 and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"offsets: expected entries below 2**63, got {int(array.max())}")
    array = np.ascontiguousarray(array, dtype=np.int64)
    if array[0] < 0:
        raise DataError(f"offsets: expected a first entry of at least 0, got {int(array[0])}")
    _check_rising(array, note_read)
    if array[-1] > n_available:
        bad = int(np.searchsorted(array, n_available, side="right"))
        raise DataError(
            f"offsets: expected entries of at most {n_available} (the number of tokens), "
            f"got {int(array[bad])} at entry {bad}; "
            f"{array.size - bad} of {array.size} entries point beyond the end"
        )
    return array


def _check_rising(array: np.ndarray, note_read: Callable[[int], None]) -> None:
    first, count = -1, 0
    for low, high in chunks(0, array.size - 1):
        falls = np.flatnonzero(array[low + 1 : high + 1] < array[low:high])
        if falls.size and first < 0:
            first = low + int(falls[0])
        count += falls.size
        note_read((high - low) * array.itemsize)
    if count:
        raise DataError(
            f"offsets: expected entries that never fall, got {int(array[first])} then "
            f"{int(array[first + 1])} at entries {first} and {first + 1}; {count} of {array.size - 1} "
            "steps fall; offsets are the start of every sequence followed by the end of the last"
        )


def max_token(tokens: np.ndarray, start: int, stop: int) -> int:
    """The largest of ``tokens[start:stop]``, or -1 where that is empty."""
    return max((int(tokens[low:high].max()) for low, high in chunks(start, stop)), default=-1)


def first_bad_token(tokens: np.ndarray, start: int, stop: int, vocab_size: int) -> tuple[int, int, int] | None:
    """The first id of ``tokens[start:stop]`` that is outside ``[0, vocab_size)``, and how many there are.

    Returns
    -------
    tuple of (position, value, count), or None
        `position` counts from the start of `tokens`. None: every id is in range.
    """
    info = np.iinfo(tokens.dtype)
    if info.min >= 0 and info.max < vocab_size:
        return None
    position, value, count = -1, 0, 0
    for low, high in chunks(start, stop):
        part = tokens[low:high]
        if int(part.max()) < vocab_size and (info.min == 0 or int(part.min()) >= 0):
            continue
        bad = np.flatnonzero((part < 0) | (part > vocab_size - 1))
        if position < 0:
            position, value = low + int(bad[0]), int(part[bad[0]])
        count += bad.size
    return None if position < 0 else (position, value, count)


def sequence_ids(ids: Any, n_sequences: int) -> np.ndarray:
    """`ids` as an int64 array, each in ``[0, n_sequences)``."""
    array = _as_array(ids, "ids")
    if array.ndim != 1:
        raise ShapeError(f"ids: expected a 1-D array of sequence ids, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"ids: expected an integer dtype, got {array.dtype}")
    bad = np.flatnonzero((array < 0) | (array > n_sequences - 1))
    if bad.size:
        raise DataError(
            f"ids: expected sequence ids in [0, {n_sequences}), got {int(array[bad[0]])} "
            f"at position {int(bad[0])}; {bad.size} of {array.size} are outside"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def check_text(text: Any) -> None:
    """Raise :class:`DTypeError` unless `text` is a str."""
    if not isinstance(text, str):
        raise DTypeError(f"text: expected str, got {type(text).__name__}; decode bytes first")


def check_ids(ids: Any, vocab_size: int) -> np.ndarray:
    """`ids` as a 1-D array of integers in ``[0, vocab_size)``: what a tokenizer decodes."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DTypeError(f"ids: expected a 1-D array of integers, got {array.dtype} of shape {array.shape}")
    bad = np.flatnonzero((array < 0) | (array > vocab_size - 1))
    if bad.size:
        raise DataError(
            f"ids: expected ids in [0, {vocab_size}), got {int(array[bad[0]])} at position {int(bad[0])}; "
            f"{bad.size} of {array.size} are outside"
        )
    return array
