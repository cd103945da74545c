"""Arrow and Parquet: one chunk without a copy, several packed, nulls refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from fastnll.data import CharTokenizer, SequenceDataset, from_arrow, open_dataset, write_dataset
from fastnll.errors import DataError

from .strategies import datasets

pa = pytest.importorskip("pyarrow", reason="needs pyarrow, extra arrow")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, extra arrow")

IDS = np.random.default_rng(5).integers(0, 50257, 1000)


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
@given(case=datasets())
def test_any_dataset_comes_back(tmp_path: Path, suffix: str, case) -> None:
    ds, sequences = case
    path = write_dataset(tmp_path / f"a{suffix}", ds)
    again = open_dataset(path, check=True)
    assert again.sha256() == ds.sha256()
    assert [s.tolist() for s in again] == sequences
    assert again.tokens.dtype == np.uint8 or not len(ds)


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_metadata_and_row_groups(tmp_path: Path, suffix: str) -> None:
    tokenizer = CharTokenizer("abc")
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 3000, 2000)
    tokens = rng.integers(0, 3, lengths.sum()).astype(np.uint8)
    ds = SequenceDataset(tokens, np.append(0, np.cumsum(lengths)), tokenizer=tokenizer, source="made up")
    assert ds.n_tokens > 2 << 20
    again = open_dataset(write_dataset(tmp_path / f"a{suffix}", ds))
    assert again.sha256() == ds.sha256()
    assert (again.tokenizer, again.source, again.n_bytes) == (tokenizer, "made up", ds.n_tokens)
    assert open_dataset(tmp_path / f"a{suffix}", vocab_size=9).vocab_size == 9


def test_an_arrow_file_is_mapped(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "a.arrow", SequenceDataset(IDS.astype(np.uint16), [0, 10, 1000]))
    before = pa.total_allocated_bytes()
    ds = open_dataset(path)
    assert pa.total_allocated_bytes() == before
    assert ds.mapping is not None
    assert np.shares_memory(ds.tokens, np.frombuffer(ds.mapping.map, np.uint8))


def test_what_hugging_face_writes(tmp_path: Path) -> None:
    rows = [IDS[i : i + 10].tolist() for i in range(0, 100, 10)] + [[]]
    table = pa.table({"id": list(range(11)), "input_ids": pa.array(rows, pa.list_(pa.int32()))})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    ds = open_dataset(tmp_path / "a.arrow")
    assert [s.tolist() for s in ds] == rows
    assert ds.tokens.dtype == np.int32


def test_slices_kinds_of_lists_and_chunks() -> None:
    rows = [[1, 2], [], [3, 4, 5], [6]]
    for kind in (pa.list_(pa.uint16()), pa.large_list(pa.uint16())):
        array = pa.array(rows, kind)
        ds = from_arrow(array)
        assert np.shares_memory(ds.tokens, array.values.to_numpy())
        assert ds.tokens.dtype == np.uint16
        part = from_arrow(array[1:3])
        assert [s.tolist() for s in part] == rows[1:3]
        assert part.vocab_size == 6
        chunked = pa.chunked_array([array[3:], array[:0], array[:2]])
        assert [s.tolist() for s in from_arrow(chunked)] == [[6], [1, 2], []]
    fixed = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2))
    assert [s.tolist() for s in from_arrow(fixed[1:])] == [[3, 4], [5, 6]]
    assert len(from_arrow(pa.array([], pa.list_(pa.uint8())), vocab_size=3)) == 0
    batch = pa.record_batch({"tokens": pa.array(rows)})
    assert len(from_arrow(batch, column="tokens")) == 4


def test_text_columns(tmp_path: Path) -> None:
    table = pa.table({"text": ["né", "x"], "n": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    ds = open_dataset(tmp_path / "a.parquet")
    assert (ds.lengths.tolist(), ds.vocab_size, ds.n_bytes) == ([3, 1], 256, 4)
    assert open_dataset(tmp_path / "a.parquet", tokenizer="chars").vocab_size == 3


def test_nulls_and_columns_that_are_not_there(tmp_path: Path) -> None:
    cases = [
        (pa.array([[1], None]), "data: expected no nulls, got one at row 1; 1 of 2 are null"),
        (pa.array([[1, None], [2]]), "data, ids: expected no nulls, got one at row 1; 1 of 3 are null"),
        (pa.table({"text": ["a", None]}), "expected no nulls, got one at row 1"),
        (pa.table({"a": [1]}), "expected one column of lists of integers or of text, got {'a': 'int64'}; pass"),
        (pa.table({"a": [[1]], "b": [[1]]}), "expected one column of lists"),
        (pa.array([1, 2]), "expected a column of lists of integers or of text, got int64"),
        ([1, 2], "expected a pyarrow table or array, got list"),
    ]
    for data, words in cases:
        with pytest.raises(DataError, match=re.escape(words)):
            from_arrow(data)
    with pytest.raises(DataError, match=re.escape("expected a column 'c', got {'a'")):
        from_arrow(pa.table({"a": [[1]]}), column="c")
    # A null outside of a slice is none of its business.
    assert from_arrow(pa.array([[None], [1, 2], [3]])[1:])[0].tolist() == [1, 2]
