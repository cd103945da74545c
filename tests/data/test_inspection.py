"""What `inspect` reports, against NumPy on the same sequences."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given

from fastnll.data import SequenceDataset, bigram_entropy, inspect, opcodes, unigram_entropy, validate
from fastnll.errors import DataError

from .strategies import datasets, real


@given(datasets())
def test_the_report_describes_any_dataset(case) -> None:
    ds, sequences = case
    report = inspect(ds)
    json.dumps(report)
    lengths = [len(s) for s in sequences]
    assert (report["n_sequences"], report["n_tokens"]) == (len(lengths), sum(lengths))
    assert report["n_used"] == len({t for s in sequences for t in s})
    assert report["dtype"] == ds.tokens.dtype.name
    assert sum(n for _, _, n in report["length_histogram"]) == len(lengths)
    for low, high, count in report["length_histogram"]:
        assert count == sum(low <= n <= high for n in lengths)
    if lengths:
        assert (report["lengths"]["min"], report["lengths"]["max"]) == (min(lengths), max(lengths))
        assert report["lengths"]["n_empty"] == lengths.count(0)
        assert report["lengths"]["median"] == np.median(lengths)


def test_a_real_dataset() -> None:
    ds = real(opcodes)
    report = inspect(ds)
    assert report["unigram_entropy"] == unigram_entropy(ds)
    assert report["bigram_entropy"] == bigram_entropy(ds)
    assert report["n_pairs"] == ds.n_tokens - ds.n_sequences
    assert report["sha256"] == ds.sha256()
    assert inspect(ds, bigrams=False)["bigram_entropy"] is None
    ids, counts, names = zip(*report["most_common"], strict=True)
    assert len(ids) == 10
    assert list(counts) == sorted(counts, reverse=True)
    assert set(names) <= set(ds.tokenizer.names)


def test_validate_raises_or_says_nothing() -> None:
    assert validate(SequenceDataset([1, 2])) is None
    with pytest.raises(DataError, match="got 9 at sequence 1, position 0"):
        validate(SequenceDataset([1, 9], [0, 1, 2], vocab_size=5, check=False))
