"""NumPy's files: ``.npy`` (one stream, or a table of equally long sequences) and ``.npz`` (tokens and offsets)."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from typing import Any, BinaryIO

import numpy as np

from fastnll.data.formats.native import pack_meta
from fastnll.data.mapping import MappedFile
from fastnll.data.sequences import SequenceDataset
from fastnll.data.tokenizers import tokenizer_from_dict
from fastnll.errors import DataError

__all__ = ["open_npy", "open_npz", "write_npy", "write_npz"]

_TOKENS, _OFFSETS, _META = ("tokens", "values", "input_ids"), "offsets", "fastnll.json"


def open_npy(path: str | os.PathLike[str], **options: Any) -> SequenceDataset:
    """Map a ``.npy`` file: shape (M,) is one sequence, shape (B, T) is B of length T."""
    mapped = MappedFile(path, "a .npy file")
    tokens = _array(mapped, 0, mapped.size, mapped.path)
    return _dataset(mapped.path, tokens, None, mapping=mapped, **options)


def _dataset(path: str, tokens: np.ndarray, offsets: np.ndarray | None, **options: Any) -> SequenceDataset:
    if tokens.dtype.kind not in "iu":
        raise DataError(f"{path}: expected tokens of an integer dtype, got {tokens.dtype}")
    if tokens.ndim == 2 and offsets is None:
        offsets = np.arange(tokens.shape[0] + 1, dtype=np.int64) * tokens.shape[1]
        # A view of a C-ordered file; one in Fortran order has to be copied.
        tokens = tokens.reshape(-1)
    if tokens.ndim != 1:
        raise DataError(f"{path}: expected tokens of shape (M,) or (B, T), got {tokens.shape}")
    options.setdefault("source", path)
    return SequenceDataset(tokens, offsets, **options)


def _array(mapped: MappedFile, start: int, size: int, name: str) -> np.ndarray:
    """The array of a ``.npy`` file in bytes ``start`` to ``start + size`` of a mapped file."""
    head = io.BytesIO(mapped.bytes(start, min(size, 1 << 16)))
    try:
        version = np.lib.format.read_magic(head)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, fortran, dtype = read(head)
    except (ValueError, KeyError) as error:
        raise DataError(f"{name}: expected a .npy header of version 1 or 2, got a damaged one: {error}") from None
    if dtype.hasobject:
        raise DataError(f"{name}: expected an array of integers, got one of Python objects, which is not read")
    count = int(np.prod(shape, dtype=np.int64))
    found = size - head.tell()
    if found < count * dtype.itemsize:
        raise DataError(
            f"{name}: expected {count * dtype.itemsize} bytes of data for shape {shape} of {dtype}, got {found}: "
            "the file is torn, copy or write it again"
        )
    flat = mapped.array(dtype, start + head.tell(), count)
    return flat.reshape(shape, order="F" if fortran else "C")


def open_npz(path: str | os.PathLike[str], **options: Any) -> SequenceDataset:
    """Map the arrays `tokens` and `offsets` of a ``.npz`` file; compressed or unaligned ones are read."""
    mapped = MappedFile(path, "a .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = [name for name in _TOKENS if name in members] or _only_array(members)
            if len(names) != 1:
                raise DataError(
                    f"{path}: expected an array 'tokens' (and 'offsets') or a single array, got {sorted(members)}"
                )
            tokens = _member(mapped, archive, members[names[0]])
            offsets = _member(mapped, archive, members[_OFFSETS]) if _OFFSETS in members else None
            meta = json.loads(archive.read(_META)) if _META in members else {}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise DataError(f"{path}: expected a .npz file, got one that is torn or damaged: {error}") from None
    known = {key: meta.get(key) for key in ("vocab_size", "n_bytes", "source")}
    known["source"] = known["source"] or str(path)
    if meta.get("tokenizer") is not None:
        known["tokenizer"] = tokenizer_from_dict(meta["tokenizer"])
    known.update({name: value for name, value in options.items() if value is not None})
    return _dataset(str(path), tokens, offsets, mapping=mapped, **known)


def _only_array(members: dict[str, zipfile.ZipInfo]) -> list[str]:
    return [name for name in members if name not in (_OFFSETS, _META)]


def _member(mapped: MappedFile, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = f"{mapped.path} ({info.filename})"
    if info.compress_type == zipfile.ZIP_STORED:
        # The local header repeats name and extra field, with lengths of its own.
        local = mapped.bytes(info.header_offset, 30)
        start = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
        array = _array(mapped, start, min(info.file_size, mapped.size - start), name)
        # Kernels want aligned numbers; NumPy's own archives start them anywhere.
        return array if array.flags.aligned else array.copy()
    with archive.open(info) as stream:
        try:
            return np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{name}: expected an array of integers, got one that does not read: {error}") from None


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], start: int) -> bytes:
    """A version 1.0 header for data in C order, as long as it takes for the data to start at a multiple of 64."""
    fields = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    pad = -(start + 10 + len(fields) + 1) % 64
    text = fields + " " * pad + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


def write_npy(stream: BinaryIO, ds: SequenceDataset, path: str) -> None:
    """Write a dataset whose sequences are equally long (one stream always is)."""
    lengths = np.unique(ds.lengths)
    if lengths.size > 1:
        raise DataError(
            f"{path}: expected sequences of one length for a .npy file, got {lengths[0]} to {lengths[-1]} tokens; "
            "write .npz or .fnll, which keep the offsets"
        )
    width = int(lengths[0]) if lengths.size else 0
    shape = (width,) if len(ds) == 1 else (len(ds), width)
    dtype = ds.tokens.dtype.newbyteorder("<")
    stream.write(_npy_header(dtype, shape, 0))
    for _, part in ds.scan():
        stream.write(part.astype(dtype, copy=False).tobytes())


def write_npz(stream: BinaryIO, ds: SequenceDataset, path: str) -> None:
    """Write tokens, offsets (from 0) and the metadata, uncompressed and aligned: such an archive can be mapped."""
    meta = json.loads(pack_meta(ds.tokenizer, ds.source)) | {"vocab_size": ds.vocab_size, "n_bytes": ds.n_bytes}
    low = ds.span[0]
    token_parts = (part for _, part in ds.scan())
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_META, json.dumps(meta))
        for name, dtype, count, parts in (
            ("tokens", ds.tokens.dtype.newbyteorder("<"), ds.n_tokens, token_parts),
            (_OFFSETS, np.dtype("<i8"), len(ds) + 1, iter([ds.offsets - low])),
        ):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(_npy_header(dtype, (count,), stream.tell()))
                for part in parts:
                    member.write(part.astype(dtype, copy=False).tobytes())
