"""Files of fastnll's own: what is written comes back, mapped, and nothing damaged is taken for whole."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import (
    ByteTokenizer,
    CharTokenizer,
    SequenceDataset,
    inspect,
    opcodes,
    open_dataset,
    python_docs,
    validate,
    write_dataset,
)
from fastnll.data.formats import files, native
from fastnll.errors import DataError, DTypeError, OptionError

from .strategies import datasets, real

KEEPS_ALL = [".fnll", ".npz"]


def same(one: SequenceDataset, two: SequenceDataset) -> None:
    assert one.sha256() == two.sha256()
    assert np.array_equal(one.lengths, two.lengths)
    assert one.tokens[slice(*one.span)].tolist() == two.tokens[slice(*two.span)].tolist()


@pytest.mark.parametrize("suffix", KEEPS_ALL)
@given(case=datasets())
def test_any_dataset_comes_back(tmp_path: Path, suffix: str, case) -> None:
    ds, _ = case
    again = open_dataset(write_dataset(tmp_path / f"a{suffix}", ds))
    same(ds, again)
    assert again.tokens.dtype == np.uint8
    assert again.vocab_size == ds.vocab_size
    assert again.tokens.flags.aligned
    assert not again.tokens.flags.owndata or not again.n_tokens


@pytest.mark.parametrize("suffix", KEEPS_ALL)
@pytest.mark.parametrize("make", [python_docs, opcodes])
def test_real_data_comes_back_with_tokenizer_and_bytes(tmp_path: Path, suffix: str, make) -> None:
    ds = real(make)
    again = open_dataset(write_dataset(tmp_path / f"a{suffix}", ds))
    same(ds, again)
    assert again.tokenizer == ds.tokenizer
    assert (again.n_bytes, again.source) == (ds.n_bytes, ds.source)
    validate(again)
    before, after = inspect(ds), inspect(again)
    assert before == after
    part = again.take([3, 1])
    assert part.mapping is None
    assert part.tokenizer is not None
    assert part.tokenizer.decode(part[1]) == ds.tokenizer.decode(ds[1])


def test_tokens_start_where_a_kernel_wants_them(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "a.fnll", python_docs())
    header = native.Header.unpack(path.read_bytes()[:128], "a")
    assert header.tokens_start % 64 == header.offsets_start % 64 == 0
    ds = open_dataset(path)
    assert ds.mapping is not None
    assert ds.tokens.ctypes.data % 64 == ds.offsets.ctypes.data % 64 == 0


@pytest.mark.parametrize("suffix", [".fnll", ".npz", ".npy"])
def test_opening_maps_and_neither_reads_nor_widens(tmp_path: Path, suffix: str) -> None:
    tokens = np.arange(4_000_000, dtype=np.uint16) % 50_000
    path = write_dataset(tmp_path / f"a{suffix}", SequenceDataset(tokens, vocab_size=50_000))
    tracemalloc.start()
    ds = open_dataset(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ds.tokens.dtype == np.uint16
    assert np.array_equal(ds.tokens, tokens)
    assert peak < 1_000_000


def numbers(count: int, top: int):
    """Sequences of rising ids: every dtype is passed through on the way."""
    for i in range(count):
        yield np.arange(i % 7, dtype=np.int64) * (top // count // 7) * i


@pytest.mark.parametrize("top", [200, 60_000, 3_000_000_000, 2**40])
@pytest.mark.parametrize("suffix", [".fnll", ".npz"])
def test_an_iterable_is_written_in_the_smallest_dtype_without_knowing_its_size(
    tmp_path: Path, top: int, suffix: str, monkeypatch
) -> None:
    for module in ("packing", "formats.writing", "formats.native_writer"):
        monkeypatch.setattr(f"fastnll.data.{module}.CHUNK", 64)
    packed = SequenceDataset.from_sequences(numbers(2000, top))
    ds = open_dataset(write_dataset(tmp_path / f"a{suffix}", numbers(2000, top)))
    same(packed, ds)
    assert ds.tokens.dtype == packed.tokens.dtype
    assert ds.vocab_size == packed.vocab_size
    validate(ds)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


def test_writing_streams(tmp_path: Path) -> None:
    part = np.arange(100_000, dtype=np.uint16)
    tracemalloc.start()
    path = write_dataset(tmp_path / "a.fnll", (part % (40_000 + i) for i in range(300)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 60_000_000
    assert peak < 20_000_000
    assert open_dataset(path).n_tokens == 30_000_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_walking_over_a_mapped_file_keeps_it_out_of_memory(tmp_path: Path) -> None:
    part = np.arange(1 << 20, dtype=np.uint16)
    write_dataset(tmp_path / "a.fnll", (part for _ in range(64)), vocab_size=1 << 16)
    code = """
import sys, numpy as np
import fastnll.data.mapping as mapping
from fastnll.data import batches, open_dataset, unigram_counts, validate
mapping._RESIDENT = 1 << 23
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
ds = open_dataset(sys.argv[1])
ds[:1].check_tokens()
before, peak = resident(), 0
for _ in ds.scan():
    peak = max(peak, resident())
for ids in batches(ds.pieces(1 << 18), 1 << 18):
    ds.pieces(1 << 18).take(ids)
    peak = max(peak, resident())
validate(ds)
unigram_counts(ds)
print(peak - before, resident() - before)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.fnll")], capture_output=True, text=True, check=True, timeout=120
    )
    # 128 MiB of tokens were read four times.
    assert max(map(int, out.stdout.split())) < 48 << 20


def small(path: Path) -> Path:
    ds = SequenceDataset.from_text(["hello", "", "wörld"], CharTokenizer.train("helo wörld"), source="greeting")
    return write_dataset(path, ds)


@given(data=st.data())
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, data) -> None:
    path = tmp_path / "a.fnll"
    whole = small(path).read_bytes()
    keep = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"torn|empty file|begins with"):
        open_dataset(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match="1 more than its header says"):
        open_dataset(path)


@given(data=st.data())
def test_a_changed_byte_is_found_by_opening_or_by_validating(tmp_path: Path, data) -> None:
    path = tmp_path / "a.fnll"
    whole = bytearray(small(path).read_bytes())
    before = open_dataset(path)
    header = native.Header.unpack(bytes(whole[:128]), "a")
    padding = set(range(128 + header.meta_size, header.tokens_start))
    padding |= set(range(header.tokens_start + header.n_tokens, header.offsets_start))
    place = data.draw(st.integers(0, len(whole) - 1).filter(lambda i: i not in padding))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    # Written beside and renamed, as a program would: `before` still maps the file it opened.
    (tmp_path / "b").write_bytes(changed)
    os.replace(tmp_path / "b", path)
    with pytest.raises(DataError):
        validate(open_dataset(path))
    assert before[2].tolist() == CharTokenizer.train("helo wörld").encode("wörld").tolist()


def test_newer_foreign_and_damaged_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.fnll"
    whole = bytearray(small(path).read_bytes())
    newer = bytearray(whole)
    newer[8] = 2
    cases = [
        (newer, "expected version 1, got 2: written by a newer fastnll, upgrade to read it"),
        (b"something else entirely", "expected a fastnll file, as its name says, got one that begins with b'somethin'"),
        (whole[:100], "expected a header of 128 bytes, got 100: the file is torn"),
        (whole[:40] + b"\xff" + whole[41:], "expected a header with its checksum, got a damaged one"),
        (whole[:135] + b"\xff" + whole[136:], "expected metadata with its checksum, got damaged ones"),
        (whole[:-8], f"expected {len(whole)} bytes (what its header says), got {len(whole) - 8}: the file is torn"),
    ]
    for content, words in cases:
        path.write_bytes(bytes(content))
        with pytest.raises(DataError, match=re.escape(words)) as caught:
            open_dataset(path)
        assert str(caught.value).startswith(str(path))
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match="got a file that begins with b'junk'"):
        open_dataset(path, format="fastnll")


def test_validate_names_the_first_bad_token_of_a_file(tmp_path: Path) -> None:
    np.arange(10, dtype="<u2").tofile(tmp_path / "a.bin")
    ds = open_dataset(tmp_path / "a.bin", vocab_size=8)
    with pytest.raises(DataError, match=r"ids in \[0, 8\), got 8 at sequence 0, position 8 .*; 2 of 10"):
        validate(ds)
    with pytest.raises(DataError, match="got 8"):
        open_dataset(tmp_path / "a.bin", vocab_size=8, check=True)
    validate(open_dataset(tmp_path / "a.bin"))


@pytest.mark.parametrize("suffix", [".fnll", ".npz"])
def test_a_source_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_dataset(path, [[1, 2], [3]])
    before = path.read_bytes()

    def failing():
        yield [1]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_dataset(path, failing())
    with pytest.raises(DataError, match=re.escape("sequences[1]: expected ids in [0, 5), got 7 at position 0")):
        write_dataset(path, [[1], [7]], vocab_size=5)
    with pytest.raises(DataError, match=re.escape("ids in [0, 2), got 3")):
        write_dataset(path, SequenceDataset([1, 3]), vocab_size=2)
    with pytest.raises(DTypeError, match="got str"):
        write_dataset(path, "text")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_and_a_missing_folder_are_one_sentence(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match="got no such folder; make it first"):
        write_dataset(tmp_path / "none" / "a.fnll", [[1]])
    write_dataset(tmp_path / "a.fnll", [[1]])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    for suffix in (".fnll", ".npz"):
        with pytest.raises(
            DataError, match="expected to write a dataset, got No space left on device; nothing was changed"
        ):
            write_dataset(tmp_path / f"a{suffix}", [[1, 2]])
    assert [p.name for p in tmp_path.iterdir()] == ["a.fnll"]
    assert open_dataset(tmp_path / "a.fnll").n_tokens == 1


def test_a_file_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "a.fnll", [[5, 6], [7]])
    ds = open_dataset(path)
    write_dataset(path, ds[1:], vocab_size=300, description="the second half")
    assert ds[0].tolist() == [5, 6]
    again = open_dataset(path)
    assert (again.vocab_size, again.source, again.tokens.dtype, again[0].tolist()) == (
        300,
        "the second half",
        "uint16",
        [7],
    )


def test_empty_datasets_have_files_too(tmp_path: Path) -> None:
    for number, source in enumerate(
        ([], [[], []], SequenceDataset.from_sequences([]), SequenceDataset([], vocab_size=9))
    ):
        for suffix in (".fnll", ".npz", ".npy"):
            if suffix == ".npy" and number == 1:
                continue
            ds = open_dataset(write_dataset(tmp_path / f"{number}{suffix}", source))
            assert ds.n_tokens == 0
            assert len(ds) == (0 if suffix == ".npy" and number in (0, 2) else len(source))
    assert inspect(SequenceDataset([], [0]))["bigram_entropy"] is None


def test_names_formats_and_options_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"name that ends in \.fnll, .*, got 'a\.xyz'"):
        write_dataset(tmp_path / "a.xyz", [[1]])
    with pytest.raises(OptionError, match=r"expected 'nanogpt' or 'llmc' for a\.bin, got none"):
        write_dataset(tmp_path / "a.bin", [[1]])
    with pytest.raises(OptionError, match=r"format: expected one of fastnll, npy, .*, got 'csv'"):
        write_dataset(tmp_path / "a.csv", [[1]], format="csv")
    path = write_dataset(tmp_path / "a.fnll", [[1]])
    with pytest.raises(OptionError, match=r"format: expected one of fastnll, .*, got 'csv'"):
        open_dataset(path, format="csv")
    with pytest.raises(OptionError, match="column: expected only with a format that takes it"):
        open_dataset(path, column="x")
    with pytest.raises(DataError, match="got no such file"):
        open_dataset(tmp_path / "none.fnll")
    with pytest.raises(DataError, match="got a folder; name the files in it"):
        open_dataset(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="got an empty file"):
        open_dataset(tmp_path / "empty")


def test_a_tokenizer_travels_with_an_iterable(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    texts = (tokenizer.encode(text) for text in ("ab", "c"))
    ds = open_dataset(write_dataset(tmp_path / "a.fnll", texts, tokenizer=tokenizer))
    assert (ds.vocab_size, ds.tokenizer, ds.n_bytes) == (256, tokenizer, 3)
