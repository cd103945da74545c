"""SequenceDataset: what is kept, what is refused, and in which words."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import ByteTokenizer, CharTokenizer, SequenceDataset
from fastnll.errors import DataError, DTypeError, OptionError, ShapeError

from .strategies import DTYPES, datasets, sequence_lists


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_are_kept_in_their_dtype_without_a_copy(dtype: str) -> None:
    tokens = np.array([3, 0, 2, 1], dtype)
    ds = SequenceDataset(tokens, [0, 1, 4])
    assert ds.tokens.dtype == dtype
    assert np.shares_memory(ds.tokens, tokens)
    assert ds[1].dtype == dtype
    assert ds.take([1]).tokens.dtype == dtype
    assert ds.vocab_size == 4


def test_tokens_are_read_only_and_the_array_given_is_not() -> None:
    tokens = np.array([1, 2, 3], np.uint8)
    ds = SequenceDataset(tokens)
    with pytest.raises(ValueError, match="read-only"):
        ds.tokens[0] = 9
    tokens[0] = 2
    assert ds.tokens[0] == 2


def test_strided_foreign_order_and_memory_mapped_tokens(tmp_path) -> None:
    base = np.arange(20, dtype=np.uint16)
    assert SequenceDataset(base[::-3]).tokens.tolist() == base[::-3].tolist()
    swapped = SequenceDataset(base.astype(">u2"))
    assert swapped.tokens.dtype == np.uint16
    assert swapped.tokens.dtype.isnative
    assert swapped.tokens.tolist() == base.tolist()
    base.tofile(tmp_path / "t.bin")
    mapped = np.memmap(tmp_path / "t.bin", np.uint16, mode="r")
    ds = SequenceDataset(mapped, [2, 5, 20])
    assert type(ds.tokens) is np.ndarray
    assert np.shares_memory(ds.tokens, mapped)
    assert ds[0].tolist() == [2, 3, 4]


@given(datasets())
def test_the_sequences_come_back(case: tuple[SequenceDataset, list[list[int]]]) -> None:
    ds, sequences = case
    assert len(ds) == ds.n_sequences == len(sequences)
    assert [one.tolist() for one in ds] == sequences
    assert [ds[i - len(ds)].tolist() for i in range(len(ds))] == sequences
    assert ds.lengths.tolist() == [len(s) for s in sequences]
    assert ds.n_tokens == sum(len(s) for s in sequences)
    assert ds.vocab_size == 7


@given(datasets(), st.data())
def test_take_packs_any_ids_in_any_order(case: tuple[SequenceDataset, list[list[int]]], data) -> None:
    ds, sequences = case
    ids = data.draw(st.lists(st.integers(0, len(ds) - 1), max_size=20)) if len(ds) else []
    part = ds.take(ids)
    assert [one.tolist() for one in part] == [sequences[i] for i in ids]
    assert part.offsets[0] == 0
    assert part.offsets[-1] == part.tokens.size
    assert part.tokens.dtype == ds.tokens.dtype
    assert part.vocab_size == ds.vocab_size
    assert not np.shares_memory(part.tokens, ds.tokens) or not part.n_tokens


def test_take_of_long_and_short_pieces_agrees_with_concatenation() -> None:
    rng = np.random.default_rng(3)
    for longest, count in ((4, 5000), (4000, 60)):
        lengths = rng.integers(0, longest, count)
        tokens = rng.integers(0, 60000, lengths.sum()).astype(np.uint16)
        ds = SequenceDataset(tokens, np.append(0, np.cumsum(lengths)))
        for ids in (
            np.arange(count),
            np.arange(count)[::-1],
            rng.permutation(count),
            rng.integers(0, count, 3 * count),
        ):
            expected = np.concatenate([ds[i] for i in ids])
            assert np.array_equal(ds.take(ids).tokens, expected)


def test_take_by_index_works_across_its_chunks(monkeypatch) -> None:
    monkeypatch.setattr("fastnll.data.packing.CHUNK", 7)
    lengths = np.array([3, 0, 12, 1, 1, 2, 7, 0, 5])
    tokens = np.arange(lengths.sum(), dtype=np.uint8)
    ds = SequenceDataset(tokens, np.append(0, np.cumsum(lengths)))
    ids = [8, 2, 2, 0, 1, 6, 5, 3, 7]
    assert ds.take(ids).tokens.tolist() == np.concatenate([ds[i] for i in ids]).tolist()


@given(datasets(), st.data())
def test_a_slice_is_a_view_of_those_sequences(case: tuple[SequenceDataset, list[list[int]]], data) -> None:
    ds, sequences = case
    low = data.draw(st.integers(-len(ds) - 1, len(ds) + 1))
    high = data.draw(st.integers(-len(ds) - 1, len(ds) + 1))
    part = ds[low:high]
    assert [one.tolist() for one in part] == sequences[low:high]
    assert part.tokens is ds.tokens or np.shares_memory(part.tokens, ds.tokens) or not ds.tokens.size
    if part.n_tokens and len(part) > 1:
        assert part.take([1]).tokens.tolist() == sequences[low:high][1]


def test_index_errors_end_loops_and_steps_are_refused() -> None:
    ds = SequenceDataset([1, 2, 3], [0, 1, 3])
    with pytest.raises(IndexError, match=r"index: expected a sequence id below 2, got 2"):
        ds[2]
    with pytest.raises(OptionError, match=r"step 1, got step 2; use take"):
        ds[::2]


@given(sequence_lists)
def test_from_sequences_packs_lists_arrays_and_generators_alike(sequences: list[list[int]]) -> None:
    from_lists = SequenceDataset.from_sequences(sequences, 7)
    from_arrays = SequenceDataset.from_sequences((np.array(s, np.int64) for s in sequences), 7)
    assert [one.tolist() for one in from_lists] == sequences
    assert from_lists.tokens.dtype == from_arrays.tokens.dtype == np.uint8
    assert from_lists.sha256() == from_arrays.sha256()


@pytest.mark.parametrize(("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (65536, "uint32"), (2**32, "uint64")])
def test_from_sequences_takes_the_smallest_dtype(largest: int, dtype: str) -> None:
    by_token = SequenceDataset.from_sequences([[1, 2], [largest], [3]])
    assert by_token.tokens.dtype == dtype
    assert by_token.vocab_size == largest + 1
    assert by_token.tokens.tolist() == [1, 2, largest, 3]
    assert SequenceDataset.from_sequences([[1]], largest + 1).tokens.dtype == dtype
    assert SequenceDataset([1, largest]).tokens.dtype == dtype


def test_from_sequences_of_many_sequences_and_of_a_table() -> None:
    table = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert SequenceDataset.from_sequences(table).offsets.tolist() == [0, 4, 8, 12]
    many = SequenceDataset.from_sequences([i % 5] * (i % 3) for i in range(5000))
    assert many.n_sequences == 5000
    assert many.n_tokens == sum(i % 3 for i in range(5000))
    assert SequenceDataset.from_sequences([[1, 2]], dtype="int32").tokens.dtype == np.int32


def test_from_text() -> None:
    ds = SequenceDataset.from_text(["né", "", "x"])
    assert (ds.n_sequences, ds.n_tokens, ds.n_bytes, ds.vocab_size) == (3, 4, 4, 256)
    assert isinstance(ds.tokenizer, ByteTokenizer)
    one = SequenceDataset.from_text("né", CharTokenizer.train("né"), source="here")
    assert (one.n_sequences, one.n_tokens, one.n_bytes, one.source) == (1, 2, 3, "here")
    assert one.take([0, 0]).n_bytes == 6


def test_empty_datasets_and_sequences_are_legal() -> None:
    none = SequenceDataset.from_sequences([], 5)
    assert (len(none), none.n_tokens, none.lengths.size) == (0, 0, 0)
    assert len(none.take([])) == 0
    assert list(none) == []
    assert len(SequenceDataset([], vocab_size=2)) == 1
    hollow = SequenceDataset([4], [0, 0, 1, 1])
    assert [s.tolist() for s in hollow] == [[], [4], []]
    with pytest.raises(OptionError, match=r"vocab_size: expected to be given for a dataset without tokens, got None"):
        _ = SequenceDataset([]).vocab_size


def test_tokens_outside_the_offsets_do_not_count() -> None:
    ds = SequenceDataset([99, 1, 2, 99], [1, 3])
    assert (ds.n_tokens, ds.vocab_size) == (2, 3)
    assert ds.sha256() == SequenceDataset([1, 2]).sha256()
    assert SequenceDataset(np.array([-1, 1, 2]), [1, 3], vocab_size=3).n_tokens == 2


BAD = [
    (([1.5, 2.0],), DTypeError, "tokens: expected an integer dtype, got float64"),
    ((np.array([True, False]),), DTypeError, "tokens: expected an integer dtype, got bool"),
    (("abc",), DTypeError, "tokens: expected integers, got str; use SequenceDataset.from_text"),
    (([[1, 2], [3, 4]],), ShapeError, "tokens: expected a 1-D array, got shape (2, 2); for a table"),
    (([[1, 2], [3]],), ShapeError, "tokens: expected a 1-D array, got nested sequences of different lengths"),
    ((3,), ShapeError, "tokens: expected a 1-D array, got shape ()"),
    (([1, 2**70],), DTypeError, "tokens: expected an integer dtype, got object"),
    (([1, 2, 3], [0, 2, 1, 3]), DataError, "got 2 then 1 at entries 1 and 2; 1 of 3 steps fall; offsets are"),
    (
        ([1, 2, 3], [0, 2, 4, 5]),
        DataError,
        "at most 3 (the number of tokens), got 4 at entry 2; 2 of 4 entries",
    ),
    (([1, 2, 3], [-1, 3]), DataError, "offsets: expected a first entry of at least 0, got -1"),
    (
        ([1, 2, 3], []),
        ShapeError,
        "offsets: expected a 1-D array of B + 1 entries (so at least one), got shape (0,)",
    ),
    (([1, 2, 3], [0.0, 3.0]), DTypeError, "offsets: expected an integer dtype, got float64"),
    (([1, 2, 3], [[0, 3]]), ShapeError, "got shape (1, 2)"),
    (([1], np.array([0, 2**63], np.uint64)), DataError, "offsets: expected entries below 2**63"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD)
def test_refusals_say_what_was_expected(arguments: tuple, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        SequenceDataset(*arguments)


def test_a_token_outside_the_vocabulary_is_named_with_its_place_and_the_count() -> None:
    words = (
        "tokens: expected ids in [0, 5), got 7 at sequence 2, position 1 (entry 4 of tokens); "
        "2 of 6 are outside; pass vocab_size=8 or more if the id is right"
    )
    with pytest.raises(DataError, match=re.escape(words)):
        SequenceDataset([0, 1, 2, 3, 7, 9], [0, 3, 3, 6], vocab_size=5)
    with pytest.raises(DataError, match=re.escape("got -3 at sequence 0, position 1 (entry 1 of tokens); 1 of 3")):
        SequenceDataset(np.array([0, -3, 2]))
    unchecked = SequenceDataset([0, 1, 9], vocab_size=5, check=False)
    with pytest.raises(DataError, match="got 9"):
        unchecked.check_tokens()


def test_the_scan_finds_a_bad_token_in_every_chunk(monkeypatch) -> None:
    monkeypatch.setattr("fastnll.data.checks.chunks.__defaults__", (4,))
    for position in range(11):
        tokens = np.zeros(11, np.int16)
        tokens[position:] = 30
        with pytest.raises(DataError, match=rf"entry {position} of tokens\); {11 - position} of 11"):
            SequenceDataset(tokens, vocab_size=30)
        assert SequenceDataset(tokens).vocab_size == 31


@pytest.mark.parametrize("size", [0, -1, 2.0, "3", True])
def test_vocab_size_is_a_positive_integer(size: object) -> None:
    with pytest.raises(OptionError, match=r"vocab_size: expected an integer of at least 1, got"):
        SequenceDataset([0], vocab_size=size)  # type: ignore[arg-type]


def test_from_sequences_names_the_sequence_it_refuses() -> None:
    with pytest.raises(DataError, match=re.escape("sequences[1]: expected ids in [0, 3), got 3 at position 1; 1 of 2")):
        SequenceDataset.from_sequences([[1], [2, 3]], 3)
    with pytest.raises(DataError, match=re.escape("sequences[0]: expected ids in [0, 256), got 300 at position 0")):
        SequenceDataset.from_sequences([[300]], dtype=np.uint8)
    with pytest.raises(DataError, match=re.escape("sequences[0]: expected ids in [0, 256), got -1 at position 0")):
        SequenceDataset.from_sequences([[-1]])
    with pytest.raises(ShapeError, match=re.escape("sequences[1]: expected a 1-D array, got shape ()")):
        SequenceDataset.from_sequences([[1], 2])
    with pytest.raises(DTypeError, match=re.escape("sequences[0]: expected an integer dtype, got float64")):
        SequenceDataset.from_sequences([[0.5]])
    with pytest.raises(DTypeError, match=r"got str; use SequenceDataset\.from_text"):
        SequenceDataset.from_sequences("abc")
    with pytest.raises(DTypeError, match="expected an iterable of integer sequences, got int"):
        SequenceDataset.from_sequences(3)
    with pytest.raises(DTypeError, match="dtype: expected an integer dtype, got float32"):
        SequenceDataset.from_sequences([[1]], dtype="f4")


def test_take_refuses_ids_that_are_not_there() -> None:
    ds = SequenceDataset([1, 2, 3], [0, 1, 3])
    with pytest.raises(DataError, match=re.escape("ids: expected sequence ids in [0, 2), got 5 at position 1; 2 of 3")):
        ds.take([0, 5, -1])
    with pytest.raises(DTypeError, match="ids: expected an integer dtype, got bool"):
        ds.take(np.array([True, False]))
    with pytest.raises(ShapeError, match="ids: expected a 1-D array"):
        ds.take(np.zeros((1, 1), int))


@given(datasets(), st.sampled_from(DTYPES))
def test_the_fingerprint_depends_on_the_sequences_alone(case, dtype: str) -> None:
    ds, sequences = case
    packed = SequenceDataset.from_sequences(sequences, 7, dtype=dtype)
    assert packed.sha256() == ds.sha256()
    assert SequenceDataset.from_sequences([*sequences, []], 7).sha256() != ds.sha256()
    assert SequenceDataset.from_sequences(sequences, 8).sha256() != ds.sha256()
    if ds.n_tokens:
        moved = [list(s) for s in sequences]
        first = next(s for s in moved if s)
        first[0] = (first[0] + 1) % 7
        assert SequenceDataset.from_sequences(moved, 7).sha256() != ds.sha256()


def test_repr_says_the_sizes() -> None:
    text = repr(SequenceDataset([3, 1], [0, 1, 2]))
    assert text == "SequenceDataset(2 sequences, 2 tokens of uint8, vocabulary of 4)"
    assert repr(SequenceDataset([3, 1], check=False)) == "SequenceDataset(1 sequences, 2 tokens of uint8)"
