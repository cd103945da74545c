"""Files that hold text, whatever their format: which they are, and the texts in them one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from fastnll.data.formats import arrow, texts
from fastnll.data.formats.opening import recognise
from fastnll.data.text import decode_text

__all__ = ["Texts", "holds_text", "iter_texts"]


def holds_text(path: str | os.PathLike[str], *, format: str | None = None, column: str | None = None) -> bool:
    """Whether a file holds text, which has to be tokenised, and not ids.

    Parameters
    ----------
    path : str or path
    format, column : str, optional
        As for :func:`fastnll.data.open_dataset`.

    Raises
    ------
    DataError
        A file that does not read that far.
    """
    name = recognise(path) if format is None else format
    if name == "jsonl":
        return texts.first_is_text(path, column)
    if name in ("arrow", "parquet"):
        return arrow.column_is_text(path, name, column)
    return name == "text"


def iter_texts(path: str | os.PathLike[str], *, format: str | None = None, column: str | None = None) -> Iterator[str]:
    """The texts of a file: one of a text file (gzipped or not), one for each line or row of the others.

    Raises
    ------
    DataError
        A file that is torn, or not text throughout.
    """
    name = recognise(path) if format is None else format
    if name == "jsonl":
        yield from texts.iter_lines(path, column)
    elif name in ("arrow", "parquet"):
        yield from arrow.iter_column(path, name, column)
    else:
        yield decode_text(texts.content(path), str(path))


class Texts(Iterable[str]):
    """The texts of some files, read again at every pass, so that they need not fit in memory together.

    Parameters
    ----------
    paths : iterable of path
    **options
        `format` and `column`, as for `iter_texts`.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], **options: Any) -> None:
        self._paths, self._options = tuple(paths), options

    def __iter__(self) -> Iterator[str]:
        for path in self._paths:
            yield from iter_texts(path, **self._options)
