"""Pieces: the predictions of all pieces are the predictions of the uncut dataset."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import SequenceDataset, batches, bigram_counts, n_pairs
from fastnll.errors import DataError, OptionError

from .strategies import datasets


def predictions(tokens: list[int], context: int, skip: int = 0) -> list[tuple[tuple[int, ...], int]]:
    """(context, predicted token) of one sequence under a model that sees `context` tokens back."""
    first = max(1 if context else 0, skip)
    return [(tuple(tokens[max(0, i - context) : i]), tokens[i]) for i in range(first, len(tokens))]


@given(datasets(), st.integers(0, 4), st.integers(1, 6))
def test_no_prediction_is_lost_or_made_twice(case, context: int, extra: int) -> None:
    ds, sequences = case
    pieces = ds.pieces(context + extra, context=context)
    expected = [p for s in sequences for p in predictions(s, context)]
    got = [p for i, s in enumerate(pieces) for p in predictions(s.tolist(), context, int(pieces.n_context[i]))]
    assert got == expected
    assert all(1 <= n <= context + extra or n == 0 for n in pieces.lengths)
    assert [pieces.sequence[i] for i in range(len(pieces))] == sorted(pieces.sequence)
    # Empty sequences stay one (empty) piece: ids of sequences and pieces can be matched.
    assert set(pieces.sequence.tolist()) == set(range(len(sequences)))


@given(datasets(), st.integers(2, 6))
def test_with_one_token_of_context_a_packed_copy_has_the_same_pairs(case, size: int) -> None:
    ds, _ = case
    packed = ds.pieces(size).take(np.arange(len(ds.pieces(size))))
    assert n_pairs(packed) == n_pairs(ds)
    assert np.array_equal(bigram_counts(packed), bigram_counts(ds))


@given(datasets(), st.integers(1, 6), st.integers(1, 9))
def test_pieces_are_batched_like_sequences(case, size: int, budget: int) -> None:
    ds, _ = case
    pieces = ds.pieces(size, context=0)
    tokens = []
    for ids in batches(pieces, max(budget, size), shuffle=False):
        part = pieces.take(ids)
        assert part.n_tokens <= max(budget, size)
        assert part.n_context is not None
        assert part.n_context.tolist() == pieces.n_context[ids].tolist()
        tokens += part.tokens.tolist()
    assert tokens == [t for s in ds for t in s.tolist()]


def test_pieces_carry_what_the_dataset_knows() -> None:
    ds = SequenceDataset.from_text("hello world")
    pieces = ds.pieces(4)
    assert (pieces.n_tokens, pieces.vocab_size, pieces.n_bytes, pieces.tokenizer) == (
        11,
        256,
        11,
        ds.tokenizer,
    )
    assert np.shares_memory(pieces[1], ds.tokens)
    assert pieces.sha256() not in (ds.sha256(), ds.pieces(5).sha256(), ds.pieces(4, 0).sha256())
    assert "4 of at most 4 tokens" in repr(pieces)
    assert ds.n_context is None


def test_refusals() -> None:
    ds = SequenceDataset([1, 2, 3])
    with pytest.raises(OptionError, match=re.escape("max_tokens: expected more than the context of 2 tokens, got 2")):
        ds.pieces(2, context=2)
    with pytest.raises(OptionError, match="context: expected an integer of at least 0, got -1"):
        ds.pieces(2, context=-1)
    with pytest.raises(DataError, match="ids: expected sequence ids"):
        ds.pieces(2).take([9])
    with pytest.raises(IndexError, match="piece id below 2, got 2"):
        ds.pieces(2)[2]
