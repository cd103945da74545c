"""Text, gzipped text and JSON Lines, through a tokenizer."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastnll.data.checks import token_array
from fastnll.data.sequences import SequenceDataset
from fastnll.data.text import decode_text, read_bytes
from fastnll.data.tokenizers import Tokenizer, make_tokenizer
from fastnll.errors import DataError, DTypeError, ShapeError

__all__ = ["content", "first_is_text", "iter_jsonl", "iter_lines", "open_jsonl", "open_text"]

_COLUMNS = ("text", "tokens", "input_ids")


def open_text(path: str | os.PathLike[str], *, tokenizer: Tokenizer | str | None = None) -> SequenceDataset:
    """One UTF-8 file, gzipped or not, as one sequence."""
    text = decode_text(content(path), str(path))
    return SequenceDataset.from_text(text, make_tokenizer(tokenizer, [text]), source=str(path))


def open_jsonl(
    path: str | os.PathLike[str], *, tokenizer: Tokenizer | str | None = None, column: str | None = None, **options: Any
) -> SequenceDataset:
    """JSON Lines, gzipped or not: one line, one sequence of text or of ids."""
    if isinstance(tokenizer, str):
        texts = [entry for entry, _ in _entries(path, column) if isinstance(entry, str)]
        tokenizer = make_tokenizer(tokenizer, texts) if texts else None
    first = next(_entries(path, column), None)
    if first is None:
        raise DataError(f"{path}: expected at least one line of JSON, got none")
    if isinstance(first[0], str) and tokenizer is None:
        tokenizer = make_tokenizer(None, [])
    known: dict[str, Any] = {"source": str(path)} | options
    size = known.pop("vocab_size", None)
    if tokenizer is not None:
        size, known["tokenizer"] = max(size or 0, tokenizer.vocab_size), tokenizer
    return SequenceDataset.from_sequences(iter_jsonl(path, tokenizer, column), size, **known)


def iter_jsonl(
    path: str | os.PathLike[str], tokenizer: Tokenizer | None = None, column: str | None = None
) -> Iterator[np.ndarray]:
    """The sequences of a JSON Lines file one by one, for a file that is larger than memory.

    Parameters
    ----------
    path : str or path
        Each line an object, a string or a list of ids. Empty lines are skipped. Names that end in ``.gz`` are unpacked.
    tokenizer : Tokenizer, optional
        Encodes lines of text.
    column : str, optional
        The key to read. Default: the first of "text", "tokens", "input_ids" that the first object has.

    Raises
    ------
    DataError
        A line that is not JSON, or has not what was asked for, by its number.

    Examples
    --------
    Convert without holding more than a chunk of it::

        write_dataset("corpus.fnll", iter_jsonl("corpus.jsonl.gz", ByteTokenizer()), tokenizer=ByteTokenizer())
    """
    for entry, number in _entries(path, column):
        name = f"{path}, line {number}"
        if isinstance(entry, list):
            try:
                yield token_array(entry, name)
            except (DTypeError, ShapeError) as error:
                raise DataError(str(error)) from None
        elif tokenizer is None:
            raise DataError(f"{name}: expected a list of ids, got text; pass a tokenizer")
        else:
            try:
                yield tokenizer.encode(entry)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None


def first_is_text(path: str | os.PathLike[str], column: str | None = None) -> bool:
    """Whether the first line of a JSON Lines file is text, and not a list of ids."""
    entry, _ = next(_entries(path, column), (None, 0))
    return isinstance(entry, str)


def iter_lines(path: str | os.PathLike[str], column: str | None = None) -> Iterator[str]:
    """The texts of a JSON Lines file, one a line."""
    for entry, number in _entries(path, column):
        if not isinstance(entry, str):
            raise DataError(f"{path}, line {number}: expected text as in the lines before, got a list")
        yield entry


def _entries(path: str | os.PathLike[str], column: str | None) -> Iterator[tuple[str | list[Any], int]]:
    for number, line in _lines(path):
        name = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}: expected JSON, got {line[:40]!r}: {error}") from None
        if isinstance(entry, dict):
            column = column or next((key for key in _COLUMNS if key in entry), None)
            if column is None or column not in entry:
                wanted = f"the key {column!r}" if column else f"one of the keys {', '.join(_COLUMNS)}"
                raise DataError(f"{name}: expected an object with {wanted}, got keys {sorted(entry)}; pass column=")
            entry = entry[column]
        if not isinstance(entry, (str, list)):
            raise DataError(f"{name}: expected text or a list of ids, got {type(entry).__name__}")
        yield entry, number


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    try:
        with _opener(path)(path, "rb") as stream:
            for number, raw in enumerate(stream, 1):
                if raw.strip():
                    yield number, decode_text(raw, f"{path}, line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected JSON Lines, got {_gzip_reason(error)}") from None


def content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, unpacked where it is gzipped."""
    raw = read_bytes(path, "a text file")
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected gzipped text, got {_gzip_reason(error)}") from None


def _opener(path: str | os.PathLike[str]) -> Any:
    return gzip.open if Path(path).suffix == ".gz" else open


def _gzip_reason(error: Exception) -> str:
    from fastnll.data.text import reason

    if isinstance(error, EOFError):
        return "a gzip file that ends too early: it is torn, copy it again"
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return f"a damaged gzip file: {error}"
    return reason(error)
