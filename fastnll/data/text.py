"""Reading text files, with the first byte that is not text named."""

from __future__ import annotations

import os
from pathlib import Path

from fastnll.errors import DataError

__all__ = ["decode_text", "read_text"]

_OTHER_BOMS = {
    b"\xff\xfe": "UTF-16 or UTF-32, little-endian",
    b"\xfe\xff": "UTF-16, big-endian",
    b"\x1f\x8b": "gzip",
}


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, newlines as they are, a byte order mark dropped.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    DataError
        A file that is not there, is a folder, cannot be read, is empty, or is not text: the offset of the
        first byte that is not UTF-8, or is NUL, and its value.

    Examples
    --------
    >>> read_text("missing.txt")
    Traceback (most recent call last):
    ...
    fastnll.errors.DataError: missing.txt: expected a text file, got no such file
    """
    return decode_text(read_bytes(path, "a text file"), str(path))


def read_bytes(path: str | os.PathLike[str], expected: str) -> bytes:
    """The bytes of a file; what the operating system refuses becomes a :class:`DataError`."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected {expected}, got {reason(error)}") from None


def reason(error: Exception) -> str:
    """What the operating system said, as the end of a sentence."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder; name the files in it"
    if isinstance(error, PermissionError):
        return "a file that may not be read; check its permissions"
    return str(getattr(error, "strerror", None) or error)


def decode_text(raw: bytes, name: str) -> str:
    """`raw` as UTF-8 text; `name` is what an error calls it.

    Examples
    --------
    >>> decode_text("café".encode("latin-1"), "menu.txt")
    Traceback (most recent call last):
    ...
    fastnll.errors.DataError: menu.txt: expected UTF-8 text, got byte 0xe9 at offset 3; save the file as UTF-8
    """
    if not raw:
        raise DataError(f"{name}: expected text, got an empty file")
    bad = raw.find(b"\0")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = error.start if bad < 0 else min(bad, error.start)
    if bad >= 0:
        kind = next((f" (it begins like {what})" for mark, what in _OTHER_BOMS.items() if raw.startswith(mark)), "")
        advice = "this is a binary file" if raw[bad] == 0 and not kind else "save the file as UTF-8"
        raise DataError(f"{name}: expected UTF-8 text, got byte 0x{raw[bad]:02x} at offset {bad}{kind}; {advice}")
    text = text.removeprefix("\ufeff")
    if not text:
        raise DataError(f"{name}: expected text, got a file of a byte order mark alone")
    return text
