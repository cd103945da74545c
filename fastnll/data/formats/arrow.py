"""Arrow IPC files and streams, Parquet, and Arrow tables in memory: a column of lists of ids, or of text.

One chunk of lists is taken as it is: its values are the tokens, its offsets the offsets, nothing is copied. Several
chunks (Hugging Face datasets write one for every thousand rows) are packed into one array of the same dtype.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from fastnll.data.formats.native import pack_meta
from fastnll.data.mapping import MappedFile
from fastnll.data.packing import SequencePacker
from fastnll.data.sequences import SequenceDataset
from fastnll.data.tokenizers import Tokenizer, make_tokenizer, tokenizer_from_dict
from fastnll.errors import DataError

__all__ = [
    "column_is_text",
    "from_arrow",
    "iter_column",
    "open_arrow",
    "open_parquet",
    "write_arrow",
    "write_parquet",
]

_KEY = b"fastnll"
_NAMES = ("tokens", "input_ids", "text")


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{name}: expected pyarrow for Arrow and Parquet data, got no such package; pip install 'fastnll[arrow]'"
        ) from None
    return pyarrow


def open_arrow(path: str | os.PathLike[str], **options: Any) -> SequenceDataset:
    """Map an Arrow IPC file or stream; see :func:`fastnll.data.open_dataset`."""
    table, mapped = _table(path)
    return from_arrow(table, name=str(path), mapping=mapped, **options)


def _table(path: str | os.PathLike[str]) -> tuple[Any, MappedFile]:
    pa = _pyarrow(str(path))
    mapped = MappedFile(path, "an Arrow file")
    source = pa.BufferReader(pa.py_buffer(mapped.map))
    try:
        opened = pa.ipc.open_file if mapped.bytes(0, 6) == b"ARROW1" else pa.ipc.open_stream
        return opened(source).read_all(), mapped
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise DataError(f"{path}: expected an Arrow file, got one that is torn or damaged: {error}") from None


def open_parquet(path: str | os.PathLike[str], *, column: str | None = None, **options: Any) -> SequenceDataset:
    """Decode one column of a Parquet file, row group by row group."""
    with _parquet(path, column) as (field, chunks, metadata):
        return _from_chunks(chunks, metadata, field.type, str(path), **options)


@contextmanager
def _parquet(path: str | os.PathLike[str], column: str | None) -> Iterator[tuple[Any, Iterator[Any], Any]]:
    """The field of a column of a Parquet file, its chunks, and the metadata of the file."""
    pa = _pyarrow(str(path))
    # pyarrow says of a missing file only that it failed; this says what is wrong with it.
    MappedFile(path, "a Parquet file")
    try:
        with pa.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            column = _choose(schema, column, str(path))
            chunks = (batch.column(0) for batch in file.iter_batches(columns=[column]))
            yield schema.field(column), chunks, schema.metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file, got one that is torn or damaged: {error}") from None


def column_is_text(path: str | os.PathLike[str], format: str, column: str | None) -> bool:
    """Whether the column of an Arrow or Parquet file holds text."""
    if format == "parquet":
        with _parquet(path, column) as (field, _, _):
            return _is_text(field.type)
    schema = _table(path)[0].schema
    return _is_text(schema.field(_choose(schema, column, str(path))).type)


def iter_column(path: str | os.PathLike[str], format: str, column: str | None) -> Iterator[str]:
    """The texts of a column of an Arrow or Parquet file, one a row."""
    if format == "parquet":
        with _parquet(path, column) as (_, chunks, _):
            yield from _texts(chunks, str(path))
        return
    table = _table(path)[0]
    yield from _texts(table.column(_choose(table.schema, column, str(path))).chunks, str(path))


def from_arrow(data: Any, *, column: str | None = None, name: str = "data", **options: Any) -> SequenceDataset:
    """A dataset over Arrow data in memory, without a copy where one chunk of lists allows it.

    Parameters
    ----------
    data : pyarrow.Table, RecordBatch, ChunkedArray or Array
        A column of list, large_list or fixed_size_list of integers, or of strings. Of a Hugging Face dataset:
        ``ds.data.table``.
    column : str, optional
        Default: the only column of such a type, or the one named "tokens", "input_ids" or "text".
    name : str
        What an error calls the data.
    **options
        `tokenizer` (needed for text: bytes by default), `vocab_size`, `check`, `mapping`.

    Raises
    ------
    DataError
        No such column, nulls, or no pyarrow.
    """
    pa = _pyarrow(name)
    metadata = None
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        metadata = data.schema.metadata
        data = data.column(_choose(data.schema, column, name))
    if not isinstance(data, (pa.ChunkedArray, pa.Array)):
        raise DataError(f"{name}: expected a pyarrow table or array, got {type(data).__name__}")
    chunks = data.chunks if isinstance(data, pa.ChunkedArray) else [data]
    return _from_chunks(chunks, metadata, data.type, name, **options)


def _choose(schema: Any, column: str | None, name: str) -> str:
    types = {field.name: str(field.type) for field in schema}
    if column is not None:
        if column not in types:
            raise DataError(f"{name}: expected a column {column!r}, got {types}")
        return column
    usable = [field.name for field in schema if _is_list(field.type) or _is_text(field.type)]
    named = [choice for choice in _NAMES if choice in usable] or usable
    if not named or (len(named) > 1 and named[0] not in _NAMES):
        raise DataError(f"{name}: expected one column of lists of integers or of text, got {types}; pass column=")
    return named[0]


def _is_list(kind: Any) -> bool:
    import pyarrow.types as t

    lists = t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)
    return bool(lists and t.is_integer(kind.value_type))


def _is_text(kind: Any) -> bool:
    import pyarrow.types as t

    return bool(t.is_string(kind) or t.is_large_string(kind))


def _from_chunks(
    chunks: Iterable[Any],
    metadata: Any,
    kind: Any,
    name: str,
    *,
    tokenizer: Tokenizer | str | None = None,
    vocab_size: int | None = None,
    check: bool = False,
    mapping: MappedFile | None = None,
) -> SequenceDataset:
    if _is_text(kind):
        texts = list(_texts(chunks, name))
        return SequenceDataset.from_text(texts, make_tokenizer(tokenizer, texts), source=name)
    if not _is_list(kind):
        raise DataError(f"{name}: expected a column of lists of integers or of text, got {kind}")
    meta = json.loads(metadata[_KEY]) if metadata and _KEY in metadata else {}
    known: dict[str, Any] = {
        "vocab_size": vocab_size or meta.get("vocab_size"),
        "n_bytes": meta.get("n_bytes"),
        "source": meta.get("source") or name,
    }
    if tokenizer is not None:
        known["tokenizer"] = make_tokenizer(tokenizer, [])
    elif meta.get("tokenizer") is not None:
        known["tokenizer"] = tokenizer_from_dict(meta["tokenizer"])
    pairs = (_lists(chunk, name) for chunk in chunks if len(chunk))
    first, second = next(pairs, None), next(pairs, None)
    if first is None:
        return SequenceDataset(np.empty(0, np.uint8), [0], **known)
    if second is None:
        return SequenceDataset(*first, check=check, mapping=mapping, **known)
    packer = SequencePacker(dtype=first[0].dtype)
    for tokens, offsets in (first, second, *pairs):
        packer.append_packed(tokens[offsets[0] : offsets[-1]], np.diff(offsets))
    return SequenceDataset(*packer.finish(), check=check, **known)


def _lists(chunk: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of one list array, which may be a slice of a longer one."""
    import pyarrow.types as t

    _refuse_nulls(chunk, name)
    values = chunk.values
    if t.is_fixed_size_list(chunk.type):
        # `values` is the whole child: a slice says by its own offset where it begins.
        width = chunk.type.list_size
        offsets = (np.arange(len(chunk) + 1, dtype=np.int64) + chunk.offset) * width
    else:
        # These offsets are those of the slice, and point into the whole child.
        offsets = chunk.offsets.to_numpy(zero_copy_only=True)
    if values.null_count:
        _refuse_nulls(values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])), f"{name}, ids")
        # Nulls that lie outside this slice keep Arrow from handing out the array as it is.
        low, high = int(offsets[0]), int(offsets[-1])
        return values.slice(low, high - low).to_numpy(zero_copy_only=False), offsets.astype(np.int64) - low
    return values.to_numpy(zero_copy_only=True), offsets


def _refuse_nulls(array: Any, name: str) -> None:
    if array.null_count:
        first = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(
            f"{name}: expected no nulls, got one at row {first}; {array.null_count} of {len(array)} are null; "
            "drop or fill them first"
        )


def _texts(chunks: Iterable[Any], name: str) -> Iterator[str]:
    for chunk in chunks:
        _refuse_nulls(chunk, name)
        yield from chunk.to_pylist()


def _arrow_lists(pa: Any, ds: SequenceDataset) -> Any:
    low, high = ds.span
    values = pa.array(ds.tokens[low:high])
    # Offsets of 32 bits are what most readers expect; above 2**31 tokens they do not reach.
    if ds.n_tokens < 1 << 31:
        return pa.ListArray.from_arrays(pa.array((ds.offsets - low).astype(np.int32)), values)
    return pa.LargeListArray.from_arrays(pa.array(ds.offsets - low), values)


def _schema(pa: Any, ds: SequenceDataset, kind: Any) -> Any:
    meta = json.loads(pack_meta(ds.tokenizer, ds.source)) | {"vocab_size": ds.vocab_size, "n_bytes": ds.n_bytes}
    return pa.schema([pa.field("tokens", kind, nullable=False)], metadata={_KEY: json.dumps(meta)})


def write_arrow(stream: BinaryIO, ds: SequenceDataset, path: str) -> None:
    """Write one record batch of one column "tokens": what reads it back without a copy."""
    pa = _pyarrow(path)
    lists = _arrow_lists(pa, ds)
    schema = _schema(pa, ds, lists.type)
    with pa.ipc.new_file(stream, schema) as writer:
        writer.write_batch(pa.record_batch([lists], schema=schema))


def write_parquet(stream: BinaryIO, ds: SequenceDataset, path: str) -> None:
    """Write row groups of about a million tokens each."""
    pa = _pyarrow(path)
    kind = pa.list_(pa.from_numpy_dtype(ds.tokens.dtype))
    schema = _schema(pa, ds, kind)
    with pa.parquet.ParquetWriter(stream, schema) as writer:
        low = 0
        while low < len(ds):
            limit = ds.offsets[low] + (1 << 20)
            high = max(low + 1, int(np.searchsorted(ds.offsets, limit, side="right")) - 1)
            part = ds[low:high]
            writer.write_batch(pa.record_batch([_arrow_lists(pa, part).cast(kind)], schema=schema))
            ds.note_read(part.n_tokens * ds.tokens.itemsize)
            low = high
