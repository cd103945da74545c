"""Writing a file beside its place and renaming it, so that a reader never sees half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fastnll.data.text import reason
from fastnll.errors import DataError

__all__ = ["check_size", "remove", "replacing", "temporary_path"]


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing(path: Path, name: Path | None = None) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    An error calls it `name`, by default `path`.

    Raises
    ------
    DataError
        What the operating system refuses (no such folder, no space left). What stood at `path` is untouched.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{name or path}: expected to write a dataset, got {_refusal(error)}") from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file that may not be there, or may not even have had a folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def _refusal(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such folder; make it first"
    if isinstance(error, NotADirectoryError):
        return "a name below a file; name another one"
    if isinstance(error, PermissionError):
        return "a folder that may not be written to; check its permissions"
    return f"{reason(error)}; nothing was changed"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_size(path: str, expected: int, size: int, what: str) -> None:
    """Refuse a file that is shorter or longer than its own header says."""
    if size < expected:
        raise DataError(
            f"{path}: expected {expected} bytes ({what}), got {size}: the file is torn, copy or write it again"
        )
    if size > expected:
        raise DataError(
            f"{path}: expected {expected} bytes ({what}), got {size}: {size - expected} more than its header says"
        )
