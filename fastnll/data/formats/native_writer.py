"""Writing fastnll's own file in one pass, from sequences whose number and largest id are not known before."""

from __future__ import annotations

import zlib
from typing import Any, BinaryIO

import numpy as np

from fastnll.data.checks import CHUNK, chunks, smallest_unsigned
from fastnll.data.formats.native import HEADER, UNKNOWN, Header, pack_meta

__all__ = ["NativeWriter"]


class NativeWriter:
    """Append tokens and lengths to a new file; `finish` writes the header that makes it one.

    Parameters
    ----------
    stream : binary file, new, open for reading and writing
    vocab_size : int, optional
        Known before: the dtype is settled at once. Else tokens begin as bytes and what was written is widened in
        place when an id asks for it, which happens at most three times.
    tokenizer : Tokenizer, optional
    source : str, optional

    Notes
    -----
    Memory: one chunk of tokens, and the sequence lengths in the smallest dtype that holds them.
    """

    def __init__(self, stream: BinaryIO, vocab_size: int | None, tokenizer: Any, source: str | None) -> None:
        self._stream = stream
        self._vocab_size = vocab_size
        self._meta = pack_meta(tokenizer, source)
        self._dtype = smallest_unsigned(vocab_size or 1)
        self._start = _aligned(HEADER.size + len(self._meta))
        self._count = self._crc = 0
        self._largest = -1
        self._lengths: list[np.ndarray] = []
        # Zeros where the header will stand: a file that was cut off before `finish` has no magic.
        stream.write((bytes(HEADER.size) + self._meta).ljust(self._start, b"\0"))

    def append(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Add tokens that have been checked, and the lengths of sequences; their sums agree at the end."""
        for low, high in chunks(0, tokens.size):
            part = tokens[low:high]
            self._largest = max(self._largest, int(part.max()))
            if self._vocab_size is None and self._largest > np.iinfo(self._dtype).max:
                self._widen(smallest_unsigned(self._largest + 1))
            raw = part.astype(self._dtype.newbyteorder("<")).tobytes()
            self._stream.write(raw)
            self._crc = zlib.crc32(raw, self._crc)
            self._count += part.size
        if lengths.size:
            self._lengths.append(lengths.astype(smallest_unsigned(int(lengths.max()) + 1)))

    def _widen(self, dtype: np.dtype[Any]) -> None:
        """Rewrite what is there in a wider dtype, from its end: every chunk is read before its place is needed."""
        old, new = self._dtype.newbyteorder("<"), dtype.newbyteorder("<")
        for high in range(self._count, 0, -CHUNK):
            low = max(0, high - CHUNK)
            self._stream.seek(self._start + low * old.itemsize)
            part = np.frombuffer(self._stream.read((high - low) * old.itemsize), old)
            self._stream.seek(self._start + low * new.itemsize)
            self._stream.write(part.astype(new).tobytes())
        self._dtype, self._crc = dtype, 0
        self._stream.seek(self._start)
        for low, high in chunks(0, self._count):
            self._crc = zlib.crc32(self._stream.read((high - low) * new.itemsize), self._crc)
        self._stream.seek(self._start + self._count * new.itemsize)

    def finish(self, n_bytes: int | None) -> None:
        """Write the offsets behind the tokens, then the header before them."""
        tokens_end = self._start + self._count * self._dtype.itemsize
        offsets_start = _aligned(tokens_end)
        raw = np.zeros(1, "<i8").tobytes()
        self._stream.write(bytes(offsets_start - tokens_end) + raw)
        crc, end, n_sequences = zlib.crc32(raw), 0, 0
        for lengths in self._lengths:
            ends = end + np.cumsum(lengths, dtype=np.int64)
            end, n_sequences = int(ends[-1]), n_sequences + lengths.size
            raw = ends.astype("<i8", copy=False).tobytes()
            self._stream.write(raw)
            crc = zlib.crc32(raw, crc)
        header = Header(
            dtype=self._dtype.name,
            n_sequences=n_sequences,
            n_tokens=self._count,
            vocab_size=self._vocab_size or self._largest + 1 or 1,
            n_bytes=UNKNOWN if n_bytes is None else n_bytes,
            meta_start=HEADER.size,
            meta_size=len(self._meta),
            tokens_start=self._start,
            offsets_start=offsets_start,
            file_size=offsets_start + 8 * (n_sequences + 1),
            meta_crc=zlib.crc32(self._meta),
            tokens_crc=self._crc,
            offsets_crc=crc,
        )
        self._stream.seek(0)
        self._stream.write(header.pack())


def _aligned(position: int) -> int:
    return -(-position // 64) * 64
