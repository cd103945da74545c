"""Passes over all tokens of a dataset, a chunk at a time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from fastnll.data.checks import chunks, first_bad_token
from fastnll.errors import DataError

if TYPE_CHECKING:
    from fastnll.data.sequences import SequenceDataset

__all__ = ["check_tokens", "count_bytes", "fingerprint", "largest_token"]


def largest_token(dataset: SequenceDataset) -> int:
    """The largest id of a dataset, or -1 where it has no token."""
    return max((int(part.max()) for _, part in dataset.scan()), default=-1)


def count_bytes(dataset: SequenceDataset, widths: np.ndarray) -> int:
    """Sum of the `widths`, shape (V,), of all tokens."""
    return sum(int(widths[part].sum(dtype=np.int64)) for _, part in dataset.scan())


def check_tokens(dataset: SequenceDataset, limit: int) -> None:
    """Raise :class:`DataError` for the first id outside ``[0, limit)``, with how many there are."""
    position, value, count = -1, 0, 0
    for low, part in dataset.scan():
        bad = first_bad_token(part, 0, part.size, limit)
        if bad is None:
            continue
        if position < 0:
            position, value = low + bad[0], bad[1]
        count += bad[2]
    if position < 0:
        return
    sequence = int(np.searchsorted(dataset.offsets, position, side="right")) - 1
    where = f"sequence {sequence}, position {position - int(dataset.offsets[sequence])}"
    advice = "ids count from 0" if value < 0 else f"pass vocab_size={value + 1} or more if the id is right"
    raise DataError(
        f"tokens: expected ids in [0, {limit}), got {value} at {where} (entry {position} of tokens); "
        f"{count} of {dataset.n_tokens} are outside; {advice}"
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
