"""Streams of token ids in ``.bin`` files: nanoGPT's (ids alone) and llm.c's (a header of 256 int32, then ids).

nanoGPT writes uint16 and nothing else. llm.c's header holds a magic number, a version and the number of tokens:
20240520, version 1, uint16 for GPT-2 ids; 20240801, version 7, uint32 for Llama 3 ids. A stream is one sequence.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import numpy as np

from fastnll.data.formats.files import check_size
from fastnll.data.mapping import MappedFile
from fastnll.data.packing import token_dtype
from fastnll.data.sequences import SequenceDataset
from fastnll.errors import DataError, OptionError

__all__ = ["is_llmc", "open_llmc", "open_nanogpt", "write_llmc", "write_nanogpt"]

_HEADER_BYTES = 1024
_LLMC: dict[int, tuple[int, np.dtype[Any]]] = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}


def is_llmc(head: bytes) -> bool:
    """Whether a file that begins with `head` is a token file of llm.c."""
    return len(head) >= 4 and int.from_bytes(head[:4], "little") in _LLMC


def open_nanogpt(path: str | os.PathLike[str], *, dtype: Any = None, **options: Any) -> SequenceDataset:
    """Map a file of ids and nothing else, uint16 unless `dtype` says otherwise."""
    mapped = MappedFile(path, "a file of token ids")
    ids = token_dtype("uint16" if dtype is None else dtype).newbyteorder("<")
    if mapped.size % ids.itemsize:
        raise DataError(
            f"{path}: expected a multiple of {ids.itemsize} bytes, ids of {ids.name} and nothing else, got "
            f"{mapped.size} bytes: the file is torn or has another dtype, pass dtype="
        )
    tokens = mapped.array(ids, 0, mapped.size // ids.itemsize)
    return SequenceDataset(tokens, mapping=mapped, **({"source": str(path)} | options))


def open_llmc(path: str | os.PathLike[str], **options: Any) -> SequenceDataset:
    """Map a token file of llm.c."""
    mapped = MappedFile(path, "an llm.c token file")
    if mapped.size < _HEADER_BYTES:
        raise DataError(f"{path}: expected a header of {_HEADER_BYTES} bytes, got {mapped.size}: the file is torn")
    magic, version, count = (int(number) for number in mapped.array("<i4", 0, 3))
    if magic not in _LLMC:
        raise DataError(f"{path}: expected an llm.c token file of magic number {sorted(_LLMC)}, got {magic}")
    known, dtype = _LLMC[magic]
    if version != known:
        age = "a newer" if version > known else "an unknown"
        raise DataError(f"{path}: expected version {known} of llm.c files with magic {magic}, got {age} one, {version}")
    if count < 0:
        raise DataError(f"{path}: expected a number of tokens of at least 0 in the header, got {count}")
    check_size(mapped.path, _HEADER_BYTES + count * dtype.itemsize, mapped.size, f"{count} tokens of {dtype.name}")
    tokens = mapped.array(dtype, _HEADER_BYTES, count)
    return SequenceDataset(tokens, mapping=mapped, **({"source": str(path)} | options))


def write_nanogpt(stream: BinaryIO, ds: SequenceDataset, path: str) -> None:
    """Write the ids of all sequences one after the other as uint16; where sequences end is lost."""
    if ds.vocab_size > 1 << 16:
        raise OptionError(f"{path}: expected ids below 65536 for a nanoGPT file, got a vocabulary of {ds.vocab_size}")
    _write_ids(stream, ds, np.dtype("<u2"))


def write_llmc(stream: BinaryIO, ds: SequenceDataset, path: str) -> None:
    """Write an llm.c file: with the GPT-2 header where ids fit in uint16, else the Llama 3 header."""
    if ds.n_tokens >= 1 << 31:
        raise DataError(f"{path}: expected fewer than 2**31 tokens for an llm.c file, got {ds.n_tokens}; write shards")
    magic = 20240520 if ds.vocab_size <= 1 << 16 else 20240801
    version, dtype = _LLMC[magic]
    if ds.vocab_size > 1 << 32:
        raise OptionError(f"{path}: expected ids below 2**32 for an llm.c file, got a vocabulary of {ds.vocab_size}")
    header = np.zeros(_HEADER_BYTES // 4, "<i4")
    header[:3] = magic, version, ds.n_tokens
    stream.write(header.tobytes())
    _write_ids(stream, ds, dtype)


def _write_ids(stream: BinaryIO, ds: SequenceDataset, dtype: np.dtype[Any]) -> None:
    for _, part in ds.scan():
        stream.write(part.astype(dtype, copy=False).tobytes())
