"""Writing a dataset to a file, from anything that yields integer sequences."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastnll.data import scans
from fastnll.data.checks import CHUNK, chunks, integer, smallest_unsigned
from fastnll.data.formats import arrow, numpy_files, streams
from fastnll.data.formats.files import remove, replacing, temporary_path
from fastnll.data.formats.native import open_native
from fastnll.data.formats.native_writer import NativeWriter
from fastnll.data.formats.opening import SUFFIXES
from fastnll.data.packing import SequencePacker
from fastnll.data.sequences import SequenceDataset
from fastnll.data.tokenizers import Tokenizer
from fastnll.errors import OptionError

__all__ = ["WRITERS", "write_dataset"]

WRITERS: dict[str, Any] = {
    "npy": numpy_files.write_npy,
    "npz": numpy_files.write_npz,
    "nanogpt": streams.write_nanogpt,
    "llmc": streams.write_llmc,
    "arrow": arrow.write_arrow,
    "parquet": arrow.write_parquet,
}


def write_dataset(
    path: str | os.PathLike[str],
    source: SequenceDataset | Iterable[Any],
    *,
    format: str | None = None,
    vocab_size: int | None = None,
    tokenizer: Tokenizer | None = None,
    description: str | None = None,
) -> Path:
    """Write sequences to a file, in one pass and in little memory, in the smallest unsigned dtype that holds them.

    Parameters
    ----------
    path : str or path
        The file is written beside it and renamed: what was there before stays whole until then, and if anything fails.
    source : SequenceDataset, or iterable of 1-D integer arrays or lists
        An iterable is read once, sequence by sequence; it may be larger than memory.
    format : str, optional
        "fastnll" (``.fnll``), "npy", "npz", "nanogpt", "llmc", "arrow" or "parquet". Default: by the name of the
        file; ``.bin`` could be two of them and has to be told. Only fastnll, npz, arrow and parquet keep vocabulary
        and tokenizer; nanogpt and llmc do not keep where sequences end.
    vocab_size : int, optional
        Default: that of the dataset or tokenizer, else the largest id plus one.
    tokenizer : Tokenizer, optional
        Stored with the ids. Default: that of the dataset.
    description : str, optional
        Stored as the dataset's ``source``. Default: that of the dataset.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    DataError
        An id outside the vocabulary, a disk that is full, a folder that is not there, a format that cannot hold
        these sequences.
    OptionError
        A format that is unknown, or not clear from the name.

    Examples
    --------
    >>> import tempfile
    >>> from fastnll.data import open_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_dataset(f"{folder}/a.fnll", ([i, i + 1] for i in range(300)))
    ...     open_dataset(file)
    SequenceDataset(300 sequences, 600 tokens of uint16, vocabulary of 301)
    """
    path = Path(path)
    name = _format(path) if format is None else format
    if name != "fastnll" and name not in WRITERS:
        raise OptionError(f"format: expected one of fastnll, {', '.join(WRITERS)}, got {name!r}")
    if vocab_size is not None:
        vocab_size = integer("vocab_size", vocab_size, 1)
    if isinstance(source, SequenceDataset):
        source = _described(source, vocab_size, tokenizer, description)
        scans.check_tokens(source, source.vocab_size)
    elif vocab_size is None and tokenizer is not None:
        vocab_size = tokenizer.vocab_size
    if name == "fastnll":
        with replacing(path) as stream:
            _write_native(stream, source, vocab_size, tokenizer, description)
        return path
    # The other formats need sizes before data: what is not a dataset of the final dtype becomes one on disk first.
    between = temporary_path(path)
    try:
        ds = source
        if not isinstance(ds, SequenceDataset) or ds.tokens.dtype != smallest_unsigned(ds.vocab_size):
            with replacing(between, path) as stream:
                _write_native(stream, source, vocab_size, tokenizer, description)
            ds = open_native(between)
        with replacing(path) as stream:
            WRITERS[name](stream, ds, str(path))
    finally:
        remove(between)
    return path


def _described(
    ds: SequenceDataset, vocab_size: int | None, tokenizer: Tokenizer | None, description: str | None
) -> SequenceDataset:
    """The same sequences with what the caller says of them."""
    tokenizer = ds.tokenizer if tokenizer is None else tokenizer
    if vocab_size is None and not ds.n_tokens and ds._vocab_size is None and tokenizer is None:
        vocab_size = 1
    return SequenceDataset(
        ds.tokens,
        ds.offsets,
        vocab_size=ds.vocab_size if vocab_size is None else vocab_size,
        tokenizer=tokenizer,
        n_bytes=ds.n_bytes,
        source=ds.source if description is None else description,
        check=False,
        mapping=ds.mapping,
    )


def _write_native(
    stream: BinaryIO, source: Any, vocab_size: int | None, tokenizer: Tokenizer | None, description: str | None
) -> None:
    if isinstance(source, SequenceDataset):
        writer = NativeWriter(stream, source.vocab_size, source.tokenizer, source.source)
        for _, part in source.scan():
            writer.append(part, source.offsets[:0])
        for low, high in chunks(0, len(source)):
            writer.append(source.tokens[:0], np.diff(source.offsets[low : high + 1]))
        writer.finish(source.n_bytes)
        return
    writer = NativeWriter(stream, vocab_size, tokenizer, description)
    packer = SequencePacker(vocab_size=vocab_size)
    for sequence in packer.iterate(source):
        packer.append(sequence)
        if packer.n_tokens >= CHUNK or packer.n_sequences >= CHUNK:
            tokens, offsets = packer.finish()
            writer.append(tokens, np.diff(offsets))
            packer = SequencePacker(vocab_size=vocab_size, first=packer.first + packer.n_sequences)
    tokens, offsets = packer.finish()
    writer.append(tokens, np.diff(offsets))
    writer.finish(None)


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".bin":
        raise OptionError(f"format: expected 'nanogpt' or 'llmc' for {path.name}, got none; both are called .bin")
    known = [ending for ending, name in SUFFIXES.items() if name == "fastnll" or name in WRITERS]
    if suffix not in known:
        raise OptionError(
            f"format: expected a name that ends in {', '.join(known)}, got {path.name!r}; or pass format="
        )
    return SUFFIXES[suffix]
