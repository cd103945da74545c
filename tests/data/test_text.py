"""Text files: what is read, and the first byte of what is not text."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fastnll.data import SequenceDataset, read_text
from fastnll.errors import DataError


def test_text_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("né\r\nx".encode())
    assert read_text(path) == "né\r\nx"
    assert SequenceDataset.from_text(read_text(str(path))).n_bytes == path.stat().st_size
    path.write_bytes(b"\xef\xbb\xbfab")
    assert read_text(path) == "ab"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected text, got an empty file"),
        (b"caf\xe9 au lait", "got byte 0xe9 at offset 3; save the file as UTF-8"),
        (b"abc\0def", "got byte 0x00 at offset 3; this is a binary file"),
        (b"ab\0\xff", "got byte 0x00 at offset 2"),
        (b"ab\xff\0", "got byte 0xff at offset 2"),
        ("hé".encode("utf-16"), "got byte 0xff at offset 0 (it begins like UTF-16 or UTF-32, little-endian)"),
        (b"\x1f\x8b\x08\0", "got byte 0x8b at offset 1 (it begins like gzip)"),
        (b"\xef\xbb\xbf", "a byte order mark alone"),
        (b"half \xc3", "got byte 0xc3 at offset 5"),
    ],
)
def test_what_is_not_text_is_refused_with_the_byte(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        read_text(path)
    assert str(caught.value).startswith(f"{path}: expected")


def test_missing_files_folders_and_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a text file, got no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(DataError, match="expected a text file, got a folder; name the files in it"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="null"):
        read_text("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(DataError, match="may not be read; check its permissions"):
        read_text(path)
