"""Counts of (context, target) pairs, in a table or sorted."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import SequenceDataset
from fastnll.errors import LabelError
from fastnll.models import Bigram, Categorical, PairCounts, Spans
from fastnll.models.counts import count_keys
from fastnll.models.sums import fsum, ordered_sum

RAGGED = st.lists(st.lists(st.integers(0, 5), max_size=9), max_size=6)


@given(RAGGED)
def test_bigram_counts_are_the_neighbouring_pairs(sequences: list[list[int]]) -> None:
    dataset = SequenceDataset.from_sequences(sequences, 6)
    model = Bigram(6)
    pairs = model.count(dataset, Spans.of(dataset, 1))
    want = Counter(pair for s in sequences for pair in pairwise(s))
    contexts = np.repeat(pairs.contexts, np.diff(pairs.first))
    got = {(int(c), int(t)): int(n) for c, t, n in zip(contexts, pairs.targets, pairs.counts, strict=True)}
    assert got == want
    assert pairs.n_rows == sum(want.values())
    totals = dict(zip(pairs.contexts.tolist(), pairs.totals.tolist(), strict=True))
    assert totals == Counter(context for context, _ in want.elements())


@given(RAGGED, st.booleans())
def test_categorical_counts_are_the_tokens(sequences: list[list[int]], predict_first: bool) -> None:
    dataset = SequenceDataset.from_sequences(sequences, 6)
    model = Categorical(6, predict_first)
    pairs = model.count(dataset, Spans.of(dataset, model.skip))
    want = Counter(token for s in sequences for token in s[model.skip :])
    assert dict(zip(pairs.targets.tolist(), pairs.counts.tolist(), strict=True)) == want


@pytest.mark.parametrize("n_keys", [50, 10**9])
def test_a_table_and_sorting_count_alike(n_keys: int) -> None:
    rng = np.random.default_rng(3)
    parts = [rng.integers(0, 50, n) for n in (40, 0, 70, 1)]
    keys, counts = count_keys(parts, n_keys, 111)
    want = np.unique(np.concatenate(parts), return_counts=True)
    assert keys.tolist() == want[0].tolist()
    assert counts.tolist() == want[1].tolist()
    assert keys.dtype == counts.dtype == np.int64


@pytest.mark.parametrize("n_classes", [10, 10**5])
def test_values_are_found_by_key_and_zero_where_nothing_was_counted(n_classes: int) -> None:
    keys = np.array([1, 5, 7 * n_classes + 2])
    pairs = PairCounts(keys, np.array([1, 2, 3]), 100, n_classes)
    find = pairs.lookup(np.array([0.5, 1.5, 2.5]))
    assert find(np.array([7 * n_classes + 2, 1, 0, 5, 99 * n_classes])).tolist() == [2.5, 0.5, 0.0, 1.5, 0.0]


def test_targets_can_be_left_out() -> None:
    pairs = PairCounts(np.array([0, 1, 4]), np.array([5, 6, 7]), 2, 3)
    assert pairs.without([7]) is pairs
    rest = pairs.without([1])
    assert (rest.keys.tolist(), rest.counts.tolist(), rest.contexts.tolist()) == ([0], [5], [0])
    assert pairs.without([0, 1]).contexts.size == 0


def test_a_token_beyond_the_vocabulary_is_not_counted_as_another_pair() -> None:
    # 1 * 3 + 5 would be the key of (2, 2).
    dataset = SequenceDataset(np.array([1, 5, 0], np.uint8), vocab_size=3, check=False)
    with pytest.raises(LabelError, match=r"tokens: expected ids in \[0, 3\), got 5"):
        Bigram(3).count(dataset, Spans.of(dataset, 1))


@pytest.mark.parametrize(
    ("terms", "want"),
    [([], 0.0), ([0.1] * 10, 1.0), ([1e308] * 3, np.inf), ([1.0, np.inf], np.inf), ([np.nan, np.inf], np.nan)],
)
def test_sums_at_the_ends_of_float64(terms: list[float], want: float) -> None:
    np.testing.assert_equal(fsum(terms), want)
    assert ordered_sum(np.array(terms)) == pytest.approx(want, nan_ok=True)


def test_a_long_sum_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    terms: Any = rng.exponential(size=100_003) * 10.0 ** rng.integers(-9, 9, 100_003)
    assert ordered_sum(terms) == pytest.approx(fsum(terms.tolist()), rel=1e-15)
