"""Opening a file as a dataset: which format it is, by what it begins with, then by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastnll.data.formats import arrow, megatron, native, numpy_files, streams, texts
from fastnll.data.formats.foreign import foreign_kind
from fastnll.data.sequences import SequenceDataset
from fastnll.data.text import reason
from fastnll.data.tokenizers import Tokenizer, make_tokenizer
from fastnll.errors import DataError, OptionError

__all__ = ["FORMATS", "SUFFIXES", "open_dataset", "recognise"]

# Name -> (opener, the options of open_dataset it takes).
_IDS = ("vocab_size", "check", "tokenizer")
FORMATS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "fastnll": (native.open_native, ()),
    "npy": (numpy_files.open_npy, _IDS),
    "npz": (numpy_files.open_npz, _IDS),
    "nanogpt": (streams.open_nanogpt, (*_IDS, "dtype")),
    "llmc": (streams.open_llmc, _IDS),
    "megatron": (megatron.open_megatron, _IDS),
    "arrow": (arrow.open_arrow, (*_IDS, "column")),
    "parquet": (arrow.open_parquet, (*_IDS, "column")),
    "jsonl": (texts.open_jsonl, ("tokenizer", "column", "vocab_size")),
    "text": (texts.open_text, ("tokenizer",)),
}
_MAGIC = (
    (native.MAGIC, "fastnll"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "npz"),
    (b"PK\x05\x06", "npz"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
    (b"PAR1", "parquet"),
    (megatron.MAGIC, "megatron"),
)
# What a file with such a name must begin with.
SUFFIXES = {".fnll": "fastnll", ".npy": "npy", ".npz": "npz", ".arrow": "arrow", ".feather": "arrow"}
SUFFIXES |= {".parquet": "parquet", ".idx": "megatron"}
_LINES = (".jsonl", ".ndjson")


def open_dataset(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    tokenizer: Tokenizer | str | None = None,
    vocab_size: int | None = None,
    dtype: Any = None,
    column: str | None = None,
    check: bool | None = None,
) -> SequenceDataset:
    """Open a file of sequences; files of token ids are memory-mapped as they are, never widened.

    ==========  ===========================  ====================================================================
    format      recognised by                read as
    ==========  ===========================  ====================================================================
    fastnll     its first bytes              mapped: sequences, vocabulary, tokenizer
    npy         its first bytes              mapped: (M,) is one sequence, (B, T) is B of length T
    npz         its first bytes              mapped: arrays `tokens` and `offsets`, or a single array
    llmc        its first bytes              mapped: one sequence (both headers, uint16 and uint32)
    megatron    ``.bin`` beside ``.idx``     mapped: the sequences of the index
    nanogpt     ``.bin``, assumed            mapped: one sequence of uint16 (or `dtype`)
    arrow       its first bytes              mapped where one chunk of lists allows it (extra ``arrow``)
    parquet     its first bytes              decoded (extra ``arrow``)
    jsonl       ``.jsonl``, ``.ndjson``      one line, one sequence of text or ids; also with ``.gz``
    text        anything else                one sequence; also gzipped
    ==========  ===========================  ====================================================================

    Parameters
    ----------
    path : str or path
    format : str, optional
        A name of the table, where the file should not be asked.
    tokenizer : Tokenizer or str, optional
        For text: what encodes it. "bytes" (the default), "chars" or "bpe" / "bpe:V" trained on this text.
        For ids: what made them, for decoding and bits per byte.
    vocab_size : int, optional
        For ids: V. Default: what the file says, else the largest id plus one, scanned for when asked.
    dtype : dtype, optional
        For nanoGPT files of another dtype than uint16.
    column : str, optional
        For Arrow, Parquet and JSON Lines. Default: "tokens", "input_ids" or "text", or the only usable one.
    check : bool, optional
        Scan all ids for one outside the vocabulary now. Default: leave it to :func:`validate`, which also compares
        checksums; text and lists in JSON Lines are checked as they are read.

    Raises
    ------
    DataError
        A file that is not there, empty, torn, foreign, damaged or of a newer version, and which of these it is.
    OptionError
        A format of that name does not exist, or has no such option.

    Notes
    -----
    A stream (.bin, 1-D .npy) is one sequence: cut it with :meth:`SequenceDataset.pieces` for training. A mapped file
    must not be made shorter while it is open: the operating system ends a process that reads what is gone.
    """
    name = recognise(path) if format is None else format
    if name not in FORMATS:
        raise OptionError(f"format: expected one of {', '.join(FORMATS)}, got {name!r}")
    opener, takes = FORMATS[name]
    if isinstance(tokenizer, str) and "vocab_size" in takes and name not in ("arrow", "parquet", "jsonl"):
        tokenizer = make_tokenizer(tokenizer, [])
    given = {"tokenizer": tokenizer, "vocab_size": vocab_size, "dtype": dtype, "column": column, "check": check}
    options = {key: value for key, value in given.items() if value is not None}
    # Asking for a check is never wrong: readers without that option are followed by one.
    wrong = [key for key in options if key not in takes and key != "check"]
    if wrong:
        raise OptionError(f"{wrong[0]}: expected only with a format that takes it, got it for {path}, a {name} file")
    if "check" in takes:
        options.setdefault("check", False)
    else:
        options.pop("check", None)
    ds: SequenceDataset = opener(path, **options)
    if check and "check" not in takes:
        ds.check_tokens()
    return ds


def recognise(path: str | os.PathLike[str]) -> str:
    """The format of a file, a key of the table in :func:`open_dataset`.

    Raises
    ------
    DataError
        A file that is not there or empty, that does not begin as its name promises, or that is called ``.bin`` and
        begins like a program, a picture, an archive or another file that holds no ids.
    """
    file = Path(path)
    try:
        with open(file, "rb") as stream:
            head = stream.read(64)
    except (OSError, ValueError) as error:
        if not file.exists() and megatron.is_megatron(file):
            return "megatron"
        raise DataError(f"{path}: expected {_promised(file)}, got {reason(error)}") from None
    if not head:
        raise DataError(f"{path}: expected {_promised(file)}, got an empty file")
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if streams.is_llmc(head):
        return "llmc"
    suffixes = [suffix.lower() for suffix in file.suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in SUFFIXES:
        raise DataError(
            f"{path}: expected a {SUFFIXES[last]} file, as its name says, got one that begins with {head[:8]!r}: "
            "it is torn or something else; pass format= if the name is wrong"
        )
    if last == ".bin":
        return "megatron" if megatron.is_megatron(file) else _headless(path, head)
    if last == ".gz":
        last = suffixes[-2] if len(suffixes) > 1 else ""
    return "jsonl" if last in _LINES else "text"


def _headless(path: str | os.PathLike[str], head: bytes) -> str:
    kind = foreign_kind(head)
    if kind is not None:
        raise DataError(f"{path}: expected token ids, got {kind}; pass format='nanogpt' if it is ids all the same")
    return "nanogpt"


def _promised(file: Path) -> str:
    return "a text file" if file.suffix.lower() == ".txt" else "a dataset"
