"""Files of others, made here byte by byte as their formats say: read right, and refused when torn."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import sqlite3
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import (
    ByteTokenizer,
    CharTokenizer,
    SequenceDataset,
    iter_jsonl,
    open_dataset,
    write_dataset,
)
from fastnll.data.formats import recognise
from fastnll.data.formats.foreign import foreign_kind
from fastnll.errors import DataError, OptionError

RNG = np.random.default_rng(5)
IDS = RNG.integers(0, 50257, 1000)


def llmc(ids: np.ndarray, magic: int = 20240520, version: int = 1, count: int | None = None) -> bytes:
    header = [magic, version, len(ids) if count is None else count] + [0] * 253
    return struct.pack("<256i", *header) + ids.astype("<u2" if magic == 20240520 else "<u4").tobytes()


def megatron(folder: Path, lengths: list[int], ids: np.ndarray, code: int = 8, version: int = 1) -> Path:
    dtype = np.dtype({1: "u1", 4: "<i4", 5: "<i8", 6: "<f8", 8: "<u2"}[code])
    pointers = np.cumsum([0, *lengths])[:-1] * dtype.itemsize
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", version, code, len(lengths), len(lengths) + 1)
    index += np.array(lengths, "<i4").tobytes() + pointers.astype("<i8").tobytes()
    index += np.arange(len(lengths) + 1, dtype="<i8").tobytes()
    (folder / "m.idx").write_bytes(index)
    (folder / "m.bin").write_bytes(ids.astype(dtype).tobytes())
    return folder / "m.bin"


def test_nanogpt(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    IDS.astype("<u2").tofile(path)
    assert recognise(path) == "nanogpt"
    ds = open_dataset(path)
    assert (len(ds), ds.tokens.dtype, ds.vocab_size) == (1, np.uint16, IDS.max() + 1)
    assert np.array_equal(ds.tokens, IDS)
    assert open_dataset(path, vocab_size=50257).vocab_size == 50257
    assert open_dataset(path, dtype="uint32").n_tokens == 500
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"expected a multiple of 2 bytes, .* got 1999 bytes: the file is torn"):
        open_dataset(path)


def foreign(folder: Path, kind: str) -> bytes:
    """The first bytes of a file of that kind."""
    if kind == "SQLite":
        with contextlib.closing(sqlite3.connect(folder / "a.db")) as base:
            base.execute("create table a (b)")
            base.commit()
        return (folder / "a.db").read_bytes()
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return {
        "ELF": Path(sys.executable).read_bytes()[:4096] if sys.platform == "linux" else b"\x7fELF\x02\x01\x01\0",
        "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01",
        "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0",
        "PDF": b"%PDF-1.7\n%abc\n\n",
        "HDF5": b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0",
        "gzip": gzip.compress(b"some text" * 50)[:40],
        "bzip2": bz2.compress(b"some text" * 50)[:40],
        "xz": lzma.compress(b"some text" * 50)[:40],
        "safetensors": struct.pack("<Q", len(header)) + header + bytes(4),
    }[kind]


@pytest.mark.parametrize("kind", ["ELF", "PNG", "JPEG", "PDF", "HDF5", "SQLite", "gzip", "bzip2", "xz", "safetensors"])
def test_other_binary_files_are_no_streams_of_ids(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.bin"
    raw = foreign(tmp_path, kind)
    path.write_bytes(raw + bytes(len(raw) % 2))
    with pytest.raises(DataError, match=rf"a\.bin: expected token ids, got an? {kind} [a-z]+.*; pass format='nanogpt'"):
        open_dataset(path)
    assert len(open_dataset(path, format="nanogpt")) == 1
    # Beside an index it is whatever that says.
    ids = np.frombuffer(path.read_bytes(), "<u2")
    assert np.array_equal(open_dataset(megatron(tmp_path, [ids.size], ids)).tokens, ids)


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_the_beginning_of_ids_is_not_foreign(dtype: str) -> None:
    """Two bytes are never enough: every id is the first of some file."""
    heads = [np.array([first, 11, 0, 17, 0, 3], dtype).tobytes() for first in range(1 << 16)]
    assert [head for head in heads if foreign_kind(head)] == []


@pytest.mark.parametrize(("magic", "version", "dtype"), [(20240520, 1, "uint16"), (20240801, 7, "uint32")])
def test_llmc_both_headers(tmp_path: Path, magic: int, version: int, dtype: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(llmc(IDS, magic, version))
    ds = open_dataset(path)
    assert recognise(path) == "llmc"
    assert ds.tokens.dtype == dtype
    assert np.array_equal(ds.tokens, IDS)
    vocabulary = 50257 if dtype == "uint16" else 128256
    write_dataset(tmp_path / "b.bin", SequenceDataset(IDS, vocab_size=vocabulary), format="llmc")
    assert (tmp_path / "b.bin").read_bytes() == path.read_bytes()


def test_llmc_torn_newer_and_other_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    cases = [
        (llmc(IDS)[:-2], "expected 3024 bytes (1000 tokens of uint16), got 3022: the file is torn"),
        (llmc(IDS)[:500], "expected a header of 1024 bytes, got 500: the file is torn"),
        (llmc(IDS) + b"xx", "2 more than its header says"),
        (llmc(IDS, version=2), "expected version 1 of llm.c files with magic 20240520, got a newer one, 2"),
        (llmc(IDS, 20240801, 1), "expected version 7 of llm.c files with magic 20240801, got an unknown one, 1"),
        (llmc(IDS, count=-1), "expected a number of tokens of at least 0 in the header, got -1"),
    ]
    for content, words in cases:
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(words)):
            open_dataset(path)
    path.write_bytes(bytes(2000))
    with pytest.raises(DataError, match=r"expected an llm\.c token file of magic number .*, got 0"):
        open_dataset(path, format="llmc")


def test_streams_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="ids below 65536 for a nanoGPT file, got a vocabulary of 70001"):
        write_dataset(tmp_path / "a.bin", [[70000]], format="nanogpt")
    with pytest.raises(OptionError, match=r"ids below 2\*\*32 for an llm.c file"):
        write_dataset(tmp_path / "a.bin", [[2**33]], format="llmc")
    assert list(tmp_path.iterdir()) == []
    write_dataset(tmp_path / "a.bin", [[1, 2], [3]], format="nanogpt")
    assert (tmp_path / "a.bin").read_bytes() == b"\1\0\2\0\3\0"


@pytest.mark.parametrize(("code", "dtype"), [(1, "uint8"), (4, "int32"), (5, "int64"), (8, "uint16")])
def test_megatron(tmp_path: Path, code: int, dtype: str) -> None:
    lengths = [3, 0, 500, 1, 496]
    ids = IDS % 200
    path = megatron(tmp_path, lengths, ids, code)
    for name in ("m.bin", "m.idx", "m"):
        ds = open_dataset(tmp_path / name)
        assert ds.tokens.dtype == dtype
        assert ds.lengths.tolist() == lengths
        assert np.array_equal(np.concatenate(list(ds)), ids)
    assert recognise(path) == "megatron"


def test_megatron_torn_newer_and_strange(tmp_path: Path) -> None:
    def refused(words: str, name: str = "m.bin") -> None:
        with pytest.raises(DataError, match=re.escape(words)):
            open_dataset(tmp_path / name)

    megatron(tmp_path, [3, 7], IDS[:9])
    refused("expected at least 20 bytes, as its index says, got 18: the file is torn; 1 of 2 sequences from 1 on")
    megatron(tmp_path, [3, 7], IDS[:10], version=2)
    refused("expected version 1 of the Megatron index, got 2")
    megatron(tmp_path, [3, 7], IDS[:10], code=6)
    refused("expected a dtype code of integers (1 to 5, or 8), got 6")
    megatron(tmp_path, [3, 7], IDS[:10])
    whole = (tmp_path / "m.idx").read_bytes()
    (tmp_path / "m.idx").write_bytes(whole[:60])
    refused("expected at least 82 bytes for 2 sequences and 3 document ends, got 60: the file is torn")
    (tmp_path / "m.idx").write_bytes(whole[:20])
    refused("expected a header of 34 bytes, got 20")
    (tmp_path / "m.idx").write_bytes(whole[:42] + struct.pack("<q", 2) + whole[50:])
    refused("expected sequences that follow each other, got one that does not, sequence 1")
    (tmp_path / "m.idx").write_bytes(whole[:34] + struct.pack("<i", -3) + whole[38:])
    refused("expected lengths and positions of at least 0")
    (tmp_path / "m.idx").write_bytes(b"something else")
    refused("expected a megatron file, as its name says", "m.idx")
    (tmp_path / "m.idx").write_bytes(whole)
    (tmp_path / "m.bin").unlink()
    refused("got no such file", "m.idx")
    megatron(tmp_path, [0, 0], IDS[:0])
    assert open_dataset(tmp_path / "m.idx").lengths.tolist() == [0, 0]


def test_npy_streams_and_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (IDS, IDS.reshape(10, 100), np.asfortranarray(IDS.reshape(10, 100)), IDS.astype(">u2")):
        np.save(path, array)
        ds = open_dataset(path)
        assert np.array_equal(ds.tokens, IDS)
        assert len(ds) == (1 if array.ndim == 1 else 10)
        assert ds.tokens.dtype.isnative
    same_bytes = io.BytesIO()
    np.save(same_bytes, IDS.astype("<u2"))
    write_dataset(path, SequenceDataset(IDS))
    assert path.read_bytes() == same_bytes.getvalue()
    write_dataset(path, SequenceDataset.from_sequences(IDS.reshape(10, 100)))
    assert np.load(path).shape == (10, 100)
    with pytest.raises(DataError, match=r"sequences of one length for a \.npy file, got 1 to 2 tokens"):
        write_dataset(path, [[1], [1, 2]])


def test_npy_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, IDS)
    whole = path.read_bytes()
    for array, words in (
        (np.zeros(3), "tokens of an integer dtype, got float64"),
        (np.zeros((2, 2, 2), int), "tokens of shape (M,) or (B, T), got (2, 2, 2)"),
        (np.array([[1], {}], object), "an array of integers, got one of Python objects"),
    ):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(DataError, match=re.escape(words)):
            open_dataset(path)
    path.write_bytes(whole[:-5])
    with pytest.raises(
        DataError, match=r"expected 8000 bytes of data for shape \(1000,\) of int64, got 7995: the file is torn"
    ):
        open_dataset(path)
    path.write_bytes(whole[:20])
    with pytest.raises(DataError, match=r"expected a \.npy header of version 1 or 2, got a damaged one"):
        open_dataset(path)


def test_npz_of_numpy_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    offsets = np.array([0, 10, 10, 1000])
    for save in (np.savez, np.savez_compressed):
        for key in ("tokens", "values", "input_ids"):
            save(path, **{key: IDS.astype(np.uint16), "offsets": offsets})
            ds = open_dataset(path)
            assert np.array_equal(ds.tokens, IDS)
            assert ds.tokens.dtype == np.uint16
            assert ds.lengths.tolist() == [10, 0, 990]
            assert ds.tokens.flags.aligned
        save(path, whatever=IDS)
        assert len(open_dataset(path)) == 1
        save(path, a=IDS, b=IDS)
        with pytest.raises(
            DataError, match=r"expected an array 'tokens' \(and 'offsets'\) or a single array, got \['a', 'b'\]"
        ):
            open_dataset(path)
        save(path, tokens=np.array([{}], object))
        with pytest.raises(DataError, match="expected an array of integers, got one"):
            open_dataset(path)
    ours = write_dataset(path, SequenceDataset(IDS, [0, 10, 1000]))
    with np.load(ours) as arrays:
        assert np.array_equal(arrays["tokens"], IDS)
        assert arrays["offsets"].tolist() == [0, 10, 1000]
    assert zipfile.ZipFile(ours).testzip() is None


@given(data=st.data())
@pytest.mark.parametrize("name", ["a.npz", "a.npy", "l.bin", "m.idx", "a.txt.gz", "a.jsonl.gz", "a.arrow", "a.parquet"])
def test_no_cut_file_is_taken_for_whole(tmp_path: Path, name: str, data) -> None:
    if name in ("a.arrow", "a.parquet"):
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    path = tmp_path / name
    ds = SequenceDataset(IDS.astype(np.uint16), [0, 500, 1000] if name != "a.npy" else None)
    if name == "l.bin":
        path.write_bytes(llmc(IDS))
    elif name == "m.idx":
        megatron(tmp_path, [500, 500], IDS)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(b'"some text"\n"and more"\n' * 50))
    else:
        write_dataset(path, ds)
    whole = path.read_bytes()
    assert open_dataset(path).n_tokens in (1000, 1100, 850, 1150, 900)
    keep = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:keep])
    # Megatron's index may end in modes that nobody needs; everything else is needed.
    with pytest.raises(DataError):
        open_dataset(path)


def test_text_and_gzipped_text(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_text("né\nx", encoding="utf-8")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        assert recognise(path) == "text"
        ds = open_dataset(path)
        assert (len(ds), ds.n_tokens, ds.n_bytes, ds.source) == (1, 5, 5, str(path))
        chars = open_dataset(path, tokenizer="chars")
        assert (chars.vocab_size, chars.n_tokens, chars.n_bytes) == (4, 4, 5)
        known = CharTokenizer("xé\nn")
        assert open_dataset(path, tokenizer=known).tokens.tolist() == [3, 1, 2, 0]
    with pytest.raises(OptionError, match="tokenizer: expected 'bytes', 'chars', 'bpe' or 'bpe:V', got 'words'"):
        open_dataset(plain, tokenizer="words")
    with pytest.raises(OptionError, match="vocab_size: expected only with a format that takes it"):
        open_dataset(plain, vocab_size=3)
    packed.write_bytes(gzip.compress(b"ab\xff"))
    with pytest.raises(DataError, match="got byte 0xff at offset 2"):
        open_dataset(packed)
    packed.write_bytes(b"\x1f\x8b\x08" + b"junk" * 9)
    with pytest.raises(DataError, match="expected gzipped text, got a"):
        open_dataset(packed)


def test_json_lines_of_text_and_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "né"}\n\n{"text": ""}\n', encoding="utf-8")
    ds = open_dataset(path)
    assert (ds.lengths.tolist(), ds.vocab_size, ds.n_bytes) == ([3, 0], 256, 3)
    assert open_dataset(path, tokenizer="chars").vocab_size == 2
    packed = tmp_path / "b.ndjson.gz"
    packed.write_bytes(gzip.compress(b'{"body": [1, 300]}\n{"body": []}\n'))
    ids = open_dataset(packed, column="body")
    assert (ids.lengths.tolist(), ids.tokens.tolist(), ids.tokens.dtype) == ([2, 0], [1, 300], np.uint16)
    assert open_dataset(packed, column="body", vocab_size=70000).tokens.dtype == np.uint32
    path.write_text('[1, 2]\n[3]\n"x"\n')
    assert [one.tolist() for one in iter_jsonl(path, ByteTokenizer())] == [[1, 2], [3], [120]]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"text": "a"}\nnope\n', "a.jsonl, line 2: expected JSON, got 'nope"),
        ('{"text": "a"}\n{"body": "b"}\n', "line 2: expected an object with the key 'text', got keys ['body']"),
        (
            '{"body": "a"}\n',
            "line 1: expected an object with one of the keys text, tokens, input_ids, got keys ['body']",
        ),
        ('{"text": 3}\n', "line 1: expected text or a list of ids, got int"),
        ('{"tokens": [1.5]}\n', "line 1: expected an integer dtype, got float64"),
        ('{"tokens": [[1], [2]]}\n', "line 1: expected a 1-D array"),
        ('{"tokens": [1]}\n{"tokens": [-1]}\n', "sequences[1]: expected ids in [0, 256), got -1"),
        ("\n\n", "expected at least one line of JSON, got none"),
        ('{"tokens": [1]}\n{"tokens": "b"}\n', "line 2: expected a list of ids, got text; pass a tokenizer"),
    ],
)
def test_json_lines_that_are_wrong_are_named(tmp_path: Path, lines: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines)
    with pytest.raises(DataError, match=re.escape(words)):
        open_dataset(path)


def test_json_lines_name_the_unknown_character_and_the_byte_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"a"\n"b"\n')
    with pytest.raises(DataError, match=r"line 2: text: expected characters of the 1 .*, got 'b'"):
        open_dataset(path, tokenizer=CharTokenizer("a"))
    path.write_bytes(b'"a"\n"\xff"\n')
    with pytest.raises(DataError, match="line 2: expected UTF-8 text, got byte 0xff at offset 1"):
        open_dataset(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".arrow", ".parquet", ".fnll"])
def test_a_name_is_not_believed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("It was a dark and stormy night.")
    with pytest.raises(DataError, match="as its name says, got one that begins with b'It was a'"):
        open_dataset(path)
    assert open_dataset(path, format="text").n_tokens == 31
    renamed = tmp_path / "b.txt"
    renamed.write_bytes(write_dataset(tmp_path / "c.fnll", [[1, 2]]).read_bytes())
    assert open_dataset(renamed).n_tokens == 2


def test_without_pyarrow_it_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for suffix in (".arrow", ".parquet"):
        with pytest.raises(DataError, match=r"pip install 'fastnll\[arrow\]'"):
            write_dataset(tmp_path / f"a{suffix}", [[1]])
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="expected pyarrow for Arrow and Parquet data, got no such package"):
        open_dataset(tmp_path / "a.parquet")


def test_the_metadata_of_a_npz_is_plain_json(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "a.npz", SequenceDataset.from_text("abc", CharTokenizer("abc")))
    meta = json.loads(zipfile.ZipFile(path).read("fastnll.json"))
    assert meta == {"tokenizer": {"type": "chars", "characters": "abc"}, "source": None, "vocab_size": 3, "n_bytes": 3}
