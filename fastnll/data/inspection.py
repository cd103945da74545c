"""Looking at a dataset: is it whole, and what is in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnll.data import scans
from fastnll.data.formats.native import MAGIC, check_sums
from fastnll.data.sequences import SequenceDataset
from fastnll.data.statistics import bigram_entropy, counts_entropy, n_pairs, unigram_counts

__all__ = ["inspect", "validate"]


def validate(dataset: SequenceDataset) -> None:
    """Read everything once and raise at the first thing that is wrong.

    Parameters
    ----------
    dataset : SequenceDataset
        Offsets were checked when it was opened; tokens of a mapped file were not.

    Raises
    ------
    DataError
        The first id outside the vocabulary, its sequence and position, and how many there are; or a fastnll file
        whose tokens or offsets do not have the checksum they were written with.

    Examples
    --------
    >>> validate(SequenceDataset([0, 5, 1], vocab_size=4, check=False))   # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fastnll.errors.DataError: tokens: expected ids in [0, 4), got 5 at sequence 0, position 1 (entry 1 of tokens); ...
    """
    dataset.check_tokens()
    mapped = dataset.mapping
    if mapped is not None and mapped.bytes(0, len(MAGIC)) == MAGIC:
        check_sums(mapped)


def inspect(dataset: SequenceDataset, *, bigrams: bool = True) -> dict[str, Any]:
    """What there is to know of a dataset, as a dict of plain values (JSON).

    Parameters
    ----------
    dataset : SequenceDataset
    bigrams : bool, default True
        Count pairs too: the slower half, and for large vocabularies up to 0.5 GB of memory.

    Returns
    -------
    dict
        source, tokenizer; n_sequences, n_tokens, vocab_size, n_used (ids that occur), n_pairs, n_bytes; dtype;
        lengths (min, median, mean, p99, max, n_empty); length_histogram, a list of (from, to, count) with bounds that
        double and are both included; first_bad_token, None or a dict of value, sequence, position, entry (in all
        tokens) and n_bad (how many there are); most_common, the ten most frequent ids as (id, count, text);
        unigram_entropy and bigram_entropy in nats (None where there is nothing to take one of); sha256. What counts ids
        is None beside a bad one.

    Examples
    --------
    >>> report = inspect(SequenceDataset([0, 1, 0, 0, 1], [0, 4, 5]))
    >>> report["n_sequences"], report["lengths"]["max"], report["length_histogram"]
    (2, 4, [(1, 1, 1), (2, 3, 0), (4, 7, 1)])
    """
    bad = scans.first_bad(dataset, dataset.vocab_limit)
    countable = bad is None and dataset.n_tokens > 0
    counts = unigram_counts(dataset) if countable else np.empty(0, np.int64)
    pairs = n_pairs(dataset)
    return {
        "source": dataset.source,
        "tokenizer": None if dataset.tokenizer is None else repr(dataset.tokenizer),
        "n_sequences": dataset.n_sequences,
        "n_tokens": dataset.n_tokens,
        "vocab_size": dataset.vocab_size if countable or dataset.vocab_known else None,
        "n_used": int(np.count_nonzero(counts)) if bad is None else None,
        "n_pairs": pairs,
        "n_bytes": dataset.n_bytes if bad is None else None,
        "dtype": dataset.tokens.dtype.name,
        "lengths": _lengths(dataset.lengths),
        "length_histogram": _histogram(dataset.lengths),
        "first_bad_token": None if bad is None else bad._asdict(),
        "most_common": _most_common(dataset, counts),
        "unigram_entropy": counts_entropy(counts) if countable else None,
        "bigram_entropy": bigram_entropy(dataset) if countable and pairs and bigrams else None,
        "sha256": dataset.sha256() if bad is None else None,
    }


def _lengths(lengths: np.ndarray) -> dict[str, Any] | None:
    if not lengths.size:
        return None
    return {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": float(lengths.mean()),
        "p99": float(np.percentile(lengths, 99)),
        "max": int(lengths.max()),
        "n_empty": int(np.count_nonzero(lengths == 0)),
    }


def _histogram(lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """Counts of lengths in [0, 0], [1, 1], [2, 3], [4, 7] ..., from the first bin in use to the last."""
    if not lengths.size:
        return []
    # frexp gives the number of binary digits: 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7.
    digits = np.frexp(lengths.astype(np.float64))[1]
    counts = np.bincount(digits)
    first = int(np.flatnonzero(counts)[0])
    return [(0 if d == 0 else 1 << (d - 1), (1 << d) - 1, int(counts[d])) for d in range(first, counts.size)]


def _most_common(dataset: SequenceDataset, counts: np.ndarray) -> list[tuple[int, int, str | None]]:
    order = np.argsort(-counts, kind="stable")[:10]
    tokenizer = dataset.tokenizer
    return [(int(i), int(counts[i]), tokenizer.decode([i]) if tokenizer else None) for i in order if counts[i]]
