"""Passes over all tokens of a dataset, a chunk at a time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastnll.data.checks import chunks, first_bad_token
from fastnll.errors import DataError

if TYPE_CHECKING:
    from fastnll.data.sequences import SequenceDataset

__all__ = ["BadToken", "check_tokens", "count_bytes", "fingerprint", "first_bad", "largest_token"]


def largest_token(dataset: SequenceDataset) -> int:
    """The largest id of a dataset, or -1 where it has no token."""
    return max((int(part.max()) for _, part in dataset.scan()), default=-1)


def count_bytes(dataset: SequenceDataset, widths: np.ndarray) -> int:
    """Sum of the `widths`, shape (V,), of all tokens."""
    return sum(int(widths[part].sum(dtype=np.int64)) for _, part in dataset.scan())


class BadToken(NamedTuple):
    """The first id outside the vocabulary.

    Attributes
    ----------
    value : int
    sequence, position : int
        Which sequence, and where in it.
    entry : int
        Where in the array of all tokens.
    n_bad : int
        How many ids are outside.
    """

    value: int
    sequence: int
    position: int
    entry: int
    n_bad: int


def first_bad(dataset: SequenceDataset, limit: int) -> BadToken | None:
    """The first id outside ``[0, limit)``, or None where all are inside."""
    entry, value, count = -1, 0, 0
    for low, part in dataset.scan():
        bad = first_bad_token(part, 0, part.size, limit)
        if bad is None:
            continue
        if entry < 0:
            entry, value = low + bad[0], bad[1]
        count += bad[2]
    if entry < 0:
        return None
    sequence = int(np.searchsorted(dataset.offsets, entry, side="right")) - 1
    return BadToken(value, sequence, entry - int(dataset.offsets[sequence]), entry, count)


def check_tokens(dataset: SequenceDataset, limit: int) -> None:
    """Raise :class:`DataError` for the first id outside ``[0, limit)``, with how many there are."""
    bad = first_bad(dataset, limit)
    if bad is None:
        return
    advice = "ids count from 0" if bad.value < 0 else f"pass vocab_size={bad.value + 1} or more if the id is right"
    raise DataError(
        f"tokens: expected ids in [0, {limit}), got {bad.value} at sequence {bad.sequence}, position {bad.position} "
        f"(entry {bad.entry} of tokens); {bad.n_bad} of {dataset.n_tokens} are outside; {advice}"
    )


def fingerprint(dataset: SequenceDataset, vocab_size: int) -> str:
    """SHA-256 over V, B and M, the sequence lengths, and the ids as little-endian words of 4 bytes (8 above 2**32)."""
    sizes = np.array([vocab_size, dataset.n_sequences, dataset.n_tokens], "<u8")
    digest = hashlib.sha256(sizes.tobytes())
    for low, high in chunks(0, dataset.n_sequences):
        digest.update(np.diff(dataset.offsets[low : high + 1]).astype("<i8", copy=False).tobytes())
    word = "<u4" if vocab_size <= 2**32 else "<u8"
    for _, part in dataset.scan():
        digest.update(part.astype(word).tobytes())
    return digest.hexdigest()
