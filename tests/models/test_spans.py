"""Rows of ragged data: every predicted token once, with the right number of predecessors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import DataError, ShapeError
from fastnll.models import Spans

RAGGED = st.lists(st.lists(st.integers(0, 9), max_size=7), min_size=0, max_size=8)


def rows_by_hand(sequences: list[list[int]], skip: int, start: int = 0) -> list[tuple[int, int]]:
    rows = []
    for sequence in sequences:
        rows += [(start + i, i) for i in range(skip, len(sequence))]
        start += len(sequence)
    return rows


@given(RAGGED, st.integers(0, 1), st.data())
def test_any_slice_of_rows_is_that_slice_of_all_rows(sequences: Any, skip: int, data: Any) -> None:
    spans = Spans.of(SequenceDataset.from_sequences(sequences, 10), skip)
    want = rows_by_hand(sequences, skip)
    assert spans.n_rows == len(want)
    low = data.draw(st.integers(0, len(want)))
    high = data.draw(st.integers(low, len(want)))
    positions, depth = spans.rows(low, high)
    assert list(zip(positions.tolist(), depth.tolist(), strict=True)) == want[low:high]
    a, b = spans.overlapping(low, high)
    for row in range(low, high):
        assert a <= np.searchsorted(spans.row_ends, row, side="right") - 1 < b


@given(RAGGED, st.integers(0, 1), st.data())
def test_taking_sequences_takes_their_rows(sequences: Any, skip: int, data: Any) -> None:
    if not sequences:
        return
    ids = data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=6))
    dataset = SequenceDataset.from_sequences(sequences, 10)
    spans = Spans.of(dataset, skip).take(ids)
    positions, depth = spans.rows(0, spans.n_rows)
    packed = dataset.take(ids)
    again = Spans.of(packed, skip)
    there, depth_there = again.rows(0, again.n_rows)
    assert dataset.tokens[positions].tolist() == packed.tokens[there].tolist()
    assert depth.tolist() == depth_there.tolist()


def test_offsets_that_do_not_start_at_zero() -> None:
    spans = Spans.of(SequenceDataset([9, 9, 1, 2, 3, 4, 9], [2, 4, 6], vocab_size=10), skip=1)
    positions, depth = spans.rows(0, spans.n_rows)
    assert positions.tolist() == [3, 5]
    assert depth.tolist() == [1, 1]


@pytest.mark.parametrize(("skip", "context"), [(0, 0), (0, 1), (1, 1), (1, 2)])
@pytest.mark.parametrize("max_tokens", [3, 4, 5, 100])
def test_pieces_predict_what_the_uncut_dataset_predicts(skip: int, context: int, max_tokens: int) -> None:
    dataset = SequenceDataset.from_sequences([list(range(13)), [], [5], [6, 7], list(range(8))])
    pieces = dataset.pieces(max_tokens, context)
    whole, cut = Spans.of(dataset, skip), Spans.of(pieces, skip)
    assert cut.n_rows == whole.n_rows
    assert cut.rows(0, cut.n_rows)[0].tolist() == whole.rows(0, whole.n_rows)[0].tolist()
    # What `take` copies has the same rows as the window it is a copy of.
    ids = np.arange(len(pieces))[::-1]
    packed = pieces.take(ids)
    copied = Spans.of(packed, skip)
    taken = cut.take(ids)
    here, there = copied.rows(0, copied.n_rows)[0], taken.rows(0, taken.n_rows)[0]
    assert packed.tokens[here].tolist() == dataset.tokens[there].tolist()


def test_rows_of_features_are_sequences_of_one() -> None:
    spans = Spans.of(FeatureDataset(np.eye(3), [0, 1, 2]), skip=0)
    assert spans.row_ends.tolist() == [0, 1, 2, 3]
    assert spans.take([2, 0]).rows(0, 2)[0].tolist() == [2, 0]


def test_ids_that_are_no_sequences_are_named() -> None:
    spans = Spans.of(SequenceDataset([1, 2, 3], [0, 1, 3]), skip=0)
    with pytest.raises(DataError, match=r"ids: expected sequence ids in \[0, 2\), got 2 at position 1; 1 of 3"):
        spans.take([0, 2, 1])
    with pytest.raises(ShapeError, match="ids: expected a 1-D array"):
        spans.take([[0, 1]])
