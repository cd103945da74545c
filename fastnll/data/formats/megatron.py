"""Megatron-LM's indexed datasets: ids in ``.bin``, and in ``.idx`` where each sequence is.

The index holds a magic number, a version (u64, 1), a dtype code (u8), the numbers of sequences and of document ends
(u64 each), then for each sequence its length (int32) and its byte position (int64), and the document ends (int64).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fastnll.data.mapping import MappedFile
from fastnll.data.sequences import SequenceDataset
from fastnll.errors import DataError

__all__ = ["MAGIC", "beside", "is_megatron", "open_megatron"]

MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}


def beside(path: str | os.PathLike[str], suffix: str) -> Path:
    """One file of the pair, from the name of either or from the prefix they share (which may hold dots)."""
    file = Path(path)
    return file.with_suffix(suffix) if file.suffix in (".bin", ".idx") else file.with_name(file.name + suffix)


def is_megatron(path: Path) -> bool:
    """Whether a ``.bin`` file has a Megatron index beside it."""
    try:
        with open(beside(path, ".idx"), "rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open_megatron(path: str | os.PathLike[str], **options: Any) -> SequenceDataset:
    """Map a pair of files by the name of either; sequences as the index lists them."""
    index = MappedFile(beside(path, ".idx"), "a Megatron index")
    dtype, lengths, pointers = _read_index(index)
    data = beside(path, ".bin")
    if not lengths.size or not lengths.any():
        offsets = np.zeros(lengths.size + 1, np.int64)
        return SequenceDataset(np.empty(0, dtype), offsets, **({"source": str(data)} | options))
    mapped = MappedFile(data, "the tokens of a Megatron dataset")
    ends = pointers + lengths.astype(np.int64) * dtype.itemsize
    torn = np.flatnonzero(ends > mapped.size)
    if torn.size:
        raise DataError(
            f"{data}: expected at least {int(ends.max())} bytes, as its index says, got {mapped.size}: the file is "
            f"torn; {torn.size} of {lengths.size} sequences from {int(torn[0])} on are cut off"
        )
    gaps = np.flatnonzero(pointers[1:] != ends[:-1])
    if gaps.size or pointers[0] % dtype.itemsize:
        where = int(gaps[0]) + 1 if gaps.size else 0
        raise DataError(
            f"{index.path}: expected sequences that follow each other, got one that does not, sequence {where}; "
            f"{gaps.size} of {lengths.size} do not; build the dataset again with Megatron's own tools"
        )
    offsets = np.append(pointers, ends[-1]) // dtype.itemsize
    tokens = mapped.array(dtype, 0, mapped.size // dtype.itemsize)
    return SequenceDataset(tokens, offsets, mapping=mapped, **({"source": str(data)} | options))


def _read_index(index: MappedFile) -> tuple[np.dtype[Any], np.ndarray, np.ndarray]:
    raw = index.bytes(0, _HEADER.size)
    if raw[: len(MAGIC)] != MAGIC:
        raise DataError(f"{index.path}: expected a Megatron index, got a file that begins with {raw[:9]!r}")
    if len(raw) < _HEADER.size:
        raise DataError(f"{index.path}: expected a header of {_HEADER.size} bytes, got {len(raw)}: the file is torn")
    _, version, code, n_sequences, n_documents = _HEADER.unpack(raw)
    if version != 1:
        raise DataError(f"{index.path}: expected version 1 of the Megatron index, got {version}: a newer one")
    dtype = np.dtype(_DTYPES.get(code, "V1"))
    if dtype.kind not in "iu":
        raise DataError(f"{index.path}: expected a dtype code of integers (1 to 5, or 8), got {code}")
    needed = _HEADER.size + 12 * n_sequences + 8 * n_documents
    if index.size < needed:
        raise DataError(
            f"{index.path}: expected at least {needed} bytes for {n_sequences} sequences and {n_documents} "
            f"document ends, got {index.size}: the file is torn"
        )
    lengths = index.array("<i4", _HEADER.size, n_sequences)
    # The header is 34 bytes long, so nothing behind it is aligned: copies are.
    pointers = index.array("<i8", _HEADER.size + 4 * n_sequences, n_sequences).astype(np.int64)
    if n_sequences and (int(lengths.min()) < 0 or int(pointers.min()) < 0):
        raise DataError(f"{index.path}: expected lengths and positions of at least 0, got a negative one")
    return dtype, lengths.astype(np.int64), pointers
