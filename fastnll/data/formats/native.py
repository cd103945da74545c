"""fastnll's own file: a header that can be checked, then tokens and offsets to be mapped as they are.

All numbers are little-endian. The header takes 128 bytes:

=======  ======  =====================================================================
byte     type    meaning
=======  ======  =====================================================================
0        8 B     magic, ``89 46 4E 4C 4C 0D 0A 1A``: broken by any newline translation
8        u32     version, 1
12       u32     size of this header, 128
16       8 B     dtype of the tokens in ASCII, padded with zeros: ``uint8`` .. ``uint64``
24       u64     B, sequences
32       u64     M, tokens
40       u64     V, vocabulary size
48       u64     bytes of the source text, 2**64 - 1 where unknown
56, 64   u64     start and size of the metadata, JSON: tokenizer, source
72       u64     start of the tokens, a multiple of 64
80       u64     start of the B + 1 offsets (int64, the first is 0), a multiple of 64
88       u64     size of the file
96       u32     CRC-32 of the metadata
100      u32     CRC-32 of the tokens
104      u32     CRC-32 of the offsets
108      16 B    zeros
124      u32     CRC-32 of the 124 bytes before
=======  ======  =====================================================================

Opening reads the header, the metadata and the offsets. The checksum of the tokens costs a pass over them and
is compared by :func:`fastnll.data.validate`.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from fastnll.data.formats.files import check_size
from fastnll.data.mapping import MappedFile
from fastnll.data.sequences import SequenceDataset
from fastnll.data.tokenizers import tokenizer_from_dict
from fastnll.errors import DataError

__all__ = ["HEADER", "MAGIC", "UNKNOWN", "Header", "check_sums", "open_native"]

MAGIC = b"\x89FNLL\r\n\x1a"
VERSION = 1
HEADER = struct.Struct("<8sII8s9Q3I16xI")
UNKNOWN = 2**64 - 1
_DTYPES = ("uint8", "uint16", "uint32", "uint64")


class Header(NamedTuple):
    """The fields of the header between its version and its own checksum."""

    dtype: str
    n_sequences: int
    n_tokens: int
    vocab_size: int
    n_bytes: int
    meta_start: int
    meta_size: int
    tokens_start: int
    offsets_start: int
    file_size: int
    meta_crc: int
    tokens_crc: int
    offsets_crc: int

    def pack(self) -> bytes:
        """The 128 bytes of the header."""
        fields = (MAGIC, VERSION, HEADER.size, self.dtype.encode(), *self[1:])
        body = HEADER.pack(*fields, 0)[:-4]
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def unpack(cls, raw: bytes, path: str) -> Header:
        """The header in the first bytes of a file, or a :class:`DataError` that says what they are instead."""
        if raw[: len(MAGIC)] != MAGIC:
            raise DataError(f"{path}: expected a fastnll dataset, got a file that begins with {raw[:8]!r}")
        if len(raw) < HEADER.size:
            raise DataError(f"{path}: expected a header of {HEADER.size} bytes, got {len(raw)}: the file is torn")
        # The version comes first: what a newer header means by its other bytes is not known here.
        version = struct.unpack_from("<I", raw, 8)[0]
        if version > VERSION:
            raise DataError(
                f"{path}: expected version {VERSION}, got {version}: written by a newer fastnll, upgrade to read it"
            )
        *fields, crc = HEADER.unpack(raw[: HEADER.size])
        if zlib.crc32(raw[: HEADER.size - 4]) != crc or version != VERSION or fields[2] != HEADER.size:
            raise DataError(f"{path}: expected a header with its checksum, got a damaged one: write the file again")
        return cls(fields[3].rstrip(b"\0").decode("ascii", "replace"), *fields[4:])


def open_native(path: str | os.PathLike[str]) -> SequenceDataset:
    """Map a fastnll file; see :func:`fastnll.data.open_dataset`."""
    mapped = MappedFile(path, "a fastnll dataset")
    header = Header.unpack(mapped.bytes(0, HEADER.size), mapped.path)
    if header.dtype not in _DTYPES:
        raise DataError(f"{mapped.path}: expected tokens of {', '.join(_DTYPES)}, got {header.dtype!r}")
    check_size(mapped.path, header.file_size, mapped.size, "what its header says")
    raw = mapped.bytes(header.meta_start, header.meta_size)
    if zlib.crc32(raw) != header.meta_crc:
        raise DataError(f"{mapped.path}: expected metadata with its checksum, got damaged ones: write the file again")
    meta = json.loads(raw)
    dtype = np.dtype(header.dtype).newbyteorder("<")
    return SequenceDataset(
        mapped.array(dtype, header.tokens_start, header.n_tokens),
        mapped.array("<i8", header.offsets_start, header.n_sequences + 1),
        vocab_size=header.vocab_size,
        tokenizer=None if meta["tokenizer"] is None else tokenizer_from_dict(meta["tokenizer"]),
        n_bytes=None if header.n_bytes == UNKNOWN else header.n_bytes,
        source=meta["source"],
        check=False,
        mapping=mapped,
    )


def check_sums(mapped: MappedFile) -> None:
    """Compare tokens and offsets of a mapped fastnll file with the checksums in its header."""
    header = Header.unpack(mapped.bytes(0, HEADER.size), mapped.path)
    itemsize = np.dtype(header.dtype).itemsize
    for what, start, count, crc in (
        ("tokens", header.tokens_start, header.n_tokens * itemsize, header.tokens_crc),
        ("offsets", header.offsets_start, (header.n_sequences + 1) * 8, header.offsets_crc),
    ):
        if crc_of(mapped, start, count) != crc:
            raise DataError(
                f"{mapped.path}: expected {what} with the checksum {crc:08x} of the header, got others: "
                "the file was damaged after it was written, write it again"
            )


def crc_of(mapped: MappedFile, start: int, count: int) -> int:
    """CRC-32 of a part of a mapped file, read in pieces of 8 MiB."""
    crc, step = 0, 1 << 23
    for low in range(start, start + count, step):
        size = min(step, start + count - low)
        crc = zlib.crc32(mapped.bytes(low, size), crc)
        mapped.note_read(size)
    return crc


def pack_meta(tokenizer: Any, source: str | None) -> bytes:
    """The metadata of a file as JSON bytes."""
    described = None if tokenizer is None else tokenizer.to_dict()
    return json.dumps({"tokenizer": described, "source": source}).encode()
