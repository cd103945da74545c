"""Files of other kinds: what they begin with, so that none is taken for a stream of ids, which begins with anything."""

from __future__ import annotations

__all__ = ["foreign_kind"]

# As ids of 16 bits, each beginning is one that a stream of tokens has once in millions of files or less: nothing
# shorter than three bytes is listed (MZ and BM are the tokens 23117 and 19778).
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x7fELF", "an ELF object or program"),
    (b"MZ\x90\x00", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O object or program"),
    (b"\xca\xfe\xba\xbe", "a Java class or a Mach-O program"),
    (b"\x00asm", "a WebAssembly module"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF87a", "a GIF picture"),
    (b"GIF89a", "a GIF picture"),
    (b"RIFF", "a RIFF file (WAV, AVI, WebP)"),
    (b"OggS", "an Ogg file"),
    (b"fLaC", "a FLAC file"),
    (b"\x1f\x8b\x08", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x04\x22\x4d\x18", "an LZ4 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"BZh91AY&SY", "a bzip2 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file"),
    (b"Rar!\x1a\x07", "a RAR file"),
    (b"%PDF-", "a PDF document"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"Obj\x01", "an Avro file"),
    (b"GGUF", "a GGUF model"),
    # The magic number of torch.save before its files became zip archives.
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch checkpoint"),
)


def foreign_kind(head: bytes) -> str | None:
    r"""What a file that begins with `head` is, if that is something else than a dataset of ours or of others.

    Examples
    --------
    >>> foreign_kind(b"\x7fELF\x02\x01"), foreign_kind(bytes([1, 0, 2, 0]))
    ('an ELF object or program', None)
    """
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    # Eight bytes of length, of which a header below 4 GB leaves four empty, and JSON.
    return "a safetensors file" if head[4:10] == b'\x00\x00\x00\x00{"' else None
