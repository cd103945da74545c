"""Writing a dataset to a file, from anything that yields integer sequences."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastnll.data.checks import CHUNK, chunks, integer, smallest_unsigned
from fastnll.data.formats import arrow, numpy_files, streams
from fastnll.data.formats.files import replacing, temporary_path
from fastnll.data.formats.native import open_native
from fastnll.data.formats.native_writer import NativeWriter
from fastnll.data.packing import SequencePacker
from fastnll.data.sequences import SequenceDataset
from fastnll.data.tokenizers import Tokenizer
from fastnll.errors import OptionError

__all__ = ["write_dataset"]

_WRITERS: dict[str, Any] = {
    "npy": numpy_files.write_npy,
    "npz": numpy_files.write_npz,
    "nanogpt": streams.write_nanogpt,
    "llmc": streams.write_llmc,
    "arrow": arrow.write_arrow,
    "parquet": arrow.write_parquet,
}
_SUFFIXES = {".fnll": "fastnll", ".npy": "npy", ".npz": "npz", ".arrow": "arrow", ".feather": "arrow"}
_SUFFIXES |= {".parquet": "parquet"}


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
    if name != "fastnll" and name not in _WRITERS:
        raise OptionError(f"format: expected one of fastnll, {', '.join(_WRITERS)}, got {name!r}")
    if isinstance(source, SequenceDataset):
        vocab_size = source.vocab_size if vocab_size is None and source.n_tokens else vocab_size or source._vocab_size
        tokenizer = source.tokenizer if tokenizer is None else tokenizer
        description = source.source if description is None else description
    if vocab_size is None and tokenizer is not None:
        vocab_size = tokenizer.vocab_size
    if vocab_size is not None:
        vocab_size = integer("vocab_size", vocab_size, 1)

    def write_native(stream: BinaryIO) -> None:
        writer = NativeWriter(stream, vocab_size, tokenizer, description)
        for tokens, lengths in _blocks(source, vocab_size):
            writer.append(tokens, lengths)
        writer.finish(source.n_bytes if isinstance(source, SequenceDataset) else None)

    if name == "fastnll":
        with replacing(path) as stream:
            write_native(stream)
        return path
    # The other formats need sizes before data. What is not a dataset of the final dtype becomes one on disk first.
    between = temporary_path(path)
    try:
        ds = source
        if not isinstance(ds, SequenceDataset) or ds.tokens.dtype != smallest_unsigned(vocab_size or 1):
            with replacing(between) as stream:
                write_native(stream)
            ds = open_native(between)
        elif ds.vocab_size != vocab_size or ds.tokenizer is not tokenizer or ds.source != description:
            ds = SequenceDataset(
                ds.tokens, ds.offsets, vocab_size=vocab_size, tokenizer=tokenizer, source=description,
                n_bytes=ds._n_bytes, mapping=ds.mapping,
            )  # fmt: skip
        ds.check_tokens()
        with replacing(path) as stream:
            _WRITERS[name](stream, ds, str(path))
    finally:
        between.unlink(missing_ok=True)
    return path


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".bin":
        raise OptionError(f"format: expected 'nanogpt' or 'llmc' for {path.name}, got none; both are called .bin")
    if suffix not in _SUFFIXES:
        raise OptionError(
            f"format: expected a name that ends in {', '.join(_SUFFIXES)}, got {path.name!r}; or pass format="
        )
    return _SUFFIXES[suffix]


def _blocks(source: Any, vocab_size: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and sequence lengths, about a million at a time, all ids checked."""
    if isinstance(source, SequenceDataset):
        source.check_tokens()
        none = np.empty(0, np.int64)
        for _, part in source.scan():
            yield part, none
        for low, high in chunks(0, len(source)):
            yield source.tokens[:0], np.diff(source.offsets[low : high + 1])
        return
    packer = SequencePacker(vocab_size=vocab_size)
    for sequence in packer.iterate(source):
        packer.append(sequence)
        if packer.n_tokens >= CHUNK or packer.n_sequences >= CHUNK:
            tokens, offsets = packer.finish()
            yield tokens, np.diff(offsets)
            packer = SequencePacker(vocab_size=vocab_size, first=packer.first + packer.n_sequences)
    tokens, offsets = packer.finish()
    yield tokens, np.diff(offsets)
