"""Counts and entropies against plain Python, and against the closed-form minimum they stand for."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import (
    SequenceDataset,
    bigram_counts,
    bigram_entropy,
    bigram_pairs,
    n_pairs,
    opcodes,
    python_docs,
    statistics,
    unigram_counts,
    unigram_entropy,
)
from fastnll.errors import DataError, OptionError

from .strategies import datasets, real


def pairs_of(sequences: list[list[int]]) -> Counter[tuple[int, int]]:
    return Counter(pair for s in sequences for pair in pairwise(s))


@given(datasets(), st.sampled_from([1, 2, 3, 1 << 20]), st.sampled_from(["bincount", "add", "sort"]))
def test_counts_are_those_of_a_loop(case, chunk: int, way: str) -> None:
    ds, sequences = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastnll.data.checks.chunks.__defaults__", (chunk,))
        if way == "add":
            patch.setattr(statistics, "_BINCOUNT_CELLS", 0)
        if way == "sort":
            patch.setattr(statistics, "_SMALL_CELLS", 0)
            patch.setattr(statistics, "_LARGE_CELLS", 0)
        pairs = pairs_of(sequences)
        assert n_pairs(ds) == sum(pairs.values())
        table = bigram_counts(ds)
        assert table.shape == (7, 7)
        assert {(a, b): int(table[a, b]) for a, b in np.argwhere(table)} == dict(pairs)
        previous, following, counts = bigram_pairs(ds)
        assert dict(zip(zip(previous.tolist(), following.tolist(), strict=True), counts.tolist(), strict=True)) == pairs
        assert (np.diff(previous * 7 + following) > 0).all()
        singles = Counter(t for s in sequences for t in s)
        assert {i: int(n) for i, n in enumerate(unigram_counts(ds)) if n} == dict(singles)
        if singles:
            total = sum(singles.values())
            expected = -math.fsum(n / total * math.log(n / total) for n in singles.values())
            assert unigram_entropy(ds) == pytest.approx(expected, abs=1e-14)
        if pairs:
            rows = Counter(a for a, _ in pairs.elements())
            nll = -math.fsum(n * math.log(n / rows[a]) for (a, _), n in pairs.items())
            assert bigram_entropy(ds) == pytest.approx(nll / sum(pairs.values()), abs=1e-14)


@pytest.mark.parametrize("make", [python_docs, opcodes])
def test_the_entropy_is_the_minimum_of_the_bigram_objective_on_real_data(make) -> None:
    ds = real(make)
    table = bigram_counts(ds).astype(float)
    assert table.sum() == n_pairs(ds)

    def objective(probabilities: np.ndarray) -> float:
        seen = table > 0
        return -float((table[seen] * np.log(probabilities[seen])).sum())

    best = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    assert objective(best) == pytest.approx(n_pairs(ds) * bigram_entropy(ds), rel=1e-12)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):
        other = best * np.exp(size * rng.standard_normal(best.shape))
        other /= np.maximum(other.sum(axis=1, keepdims=True), 1e-300)
        assert objective(other) > objective(best)
    # Knowing the previous token must help on real data, and neither entropy is trivial.
    assert 0.1 < bigram_entropy(ds) < 0.9 * unigram_entropy(ds)
    assert unigram_entropy(ds) < math.log(ds.vocab_size)


def test_a_large_vocabulary_is_counted_by_the_pairs_that_occur(monkeypatch) -> None:
    monkeypatch.setattr("fastnll.data.checks.chunks.__defaults__", (1000,))
    rng = np.random.default_rng(1)
    tokens = (50_000 * rng.random(20_000) ** 4).astype(np.uint16)
    ds = SequenceDataset(tokens, [0, 7, 7, 9000, 20_000], vocab_size=50_257)
    pairs = pairs_of([s.tolist() for s in ds])
    previous, following, counts = bigram_pairs(ds)
    assert dict(zip(zip(previous.tolist(), following.tolist(), strict=True), counts.tolist(), strict=True)) == pairs
    assert 0 < bigram_entropy(ds) < unigram_entropy(ds)
    with pytest.raises(OptionError, match="vocabulary of at most 32768 ids for a table of all pairs, got 50257"):
        bigram_counts(ds)


def test_nothing_has_no_entropy() -> None:
    with pytest.raises(DataError, match="expected at least one token to take an entropy of, got none"):
        unigram_entropy(SequenceDataset([], vocab_size=3))
    with pytest.raises(DataError, match="expected a sequence of at least two tokens"):
        bigram_entropy(SequenceDataset([1, 2, 3], [0, 1, 2, 3]))
    assert unigram_entropy(SequenceDataset([4, 4])) == 0.0
    assert bigram_counts(SequenceDataset([], vocab_size=3)).sum() == 0
    assert unigram_counts(SequenceDataset.from_sequences([], 2)).tolist() == [0, 0]


def test_a_file_opened_without_a_check_is_checked_where_it_is_counted() -> None:
    ds = SequenceDataset([0, 9, 1], vocab_size=3, check=False)
    for count in (unigram_counts, bigram_counts, bigram_pairs, unigram_entropy):
        with pytest.raises(DataError, match=r"expected ids in \[0, 3\), got 9 at sequence 0, position 1"):
            count(ds)
