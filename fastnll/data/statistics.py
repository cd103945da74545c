"""What can be known of a dataset by counting: the entropies that no model of that kind can go below.

For a model with one free probability per (context, next token), the minimum of the negative log-likelihood
is reached at the relative frequencies, where it is the number of predictions times the conditional entropy of
the counts (Cover and Thomas, Elements of Information Theory, section 2.5, and Gibbs' inequality).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastnll.data.sequences import SequenceDataset
from fastnll.errors import DataError, OptionError

__all__ = ["bigram_counts", "bigram_entropy", "bigram_pairs", "n_pairs", "unigram_counts", "unigram_entropy"]

# bincount takes 3 ns a key but makes a whole table for each chunk of keys; add.at takes 10 ns and makes none.
_BINCOUNT_CELLS = 1 << 17
# Tables of V*V counts up to 32 MiB are always used, up to 512 MiB where there are pairs enough to fill them; else
# pairs are sorted chunk by chunk, at 50 ns a pair.
_SMALL_CELLS, _LARGE_CELLS = 1 << 22, 1 << 26
# bigram_counts returns no larger table than this (8 GiB).
_MAX_CELLS = 1 << 30


def unigram_counts(dataset: SequenceDataset) -> np.ndarray:
    """How often each id occurs, int64, shape (V,).

    Raises
    ------
    DataError
        An id outside the vocabulary, in a dataset opened without a check.

    Examples
    --------
    >>> unigram_counts(SequenceDataset([0, 2, 2]))
    array([1, 0, 2])
    """
    counts = np.zeros(dataset.vocab_size, np.int64)
    for _, part in dataset.scan():
        _count(counts, _ids(dataset, part))
    return counts


def unigram_entropy(dataset: SequenceDataset) -> float:
    """Entropy of the relative frequencies of the ids, in nats a token.

    ``n_tokens`` times it is the minimum of the negative log-likelihood of a categorical model.

    Raises
    ------
    DataError
        A dataset without tokens.

    Examples
    --------
    >>> round(unigram_entropy(SequenceDataset([0, 1, 0, 0])), 6)     # -(3/4 log 3/4 + 1/4 log 1/4)
    0.562335
    """
    if not dataset.n_tokens:
        raise DataError("dataset: expected at least one token to take an entropy of, got none")
    return counts_entropy(unigram_counts(dataset))


def counts_entropy(counts: np.ndarray) -> float:
    """Entropy of the relative frequencies of some counts, of which one is above 0, in nats."""
    counts = counts[counts > 0]
    return _entropy(counts, np.full(counts.size, counts.sum()))


def n_pairs(dataset: SequenceDataset) -> int:
    """Neighbouring pairs inside sequences: what a model with context predicts.

    Examples
    --------
    >>> n_pairs(SequenceDataset([0, 1, 0, 0], [0, 3, 3, 4]))
    2
    """
    return dataset.n_tokens - int(np.count_nonzero(np.diff(dataset.offsets)))


def bigram_counts(dataset: SequenceDataset) -> np.ndarray:
    """How often id b follows id a inside a sequence, int64, shape (V, V), row a, column b.

    Raises
    ------
    OptionError
        A table above 8 GiB (V above 32768): use :func:`bigram_pairs`.

    Examples
    --------
    >>> bigram_counts(SequenceDataset([0, 1, 0, 0], [0, 3, 4]))
    array([[0, 1],
           [1, 0]])
    """
    size = dataset.vocab_size
    if size * size > _MAX_CELLS:
        raise OptionError(
            f"dataset: expected a vocabulary of at most {int(_MAX_CELLS**0.5)} ids for a table of all pairs, "
            f"got {size}; bigram_pairs counts only the pairs that occur"
        )
    counts = np.zeros(size * size, np.int64)
    for keys in _keys(dataset):
        _count(counts, keys)
    return counts.reshape(size, size)


def bigram_pairs(dataset: SequenceDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct neighbouring pairs and how often each occurs, sorted by previous, then next id.

    Returns
    -------
    previous, following, counts : ndarray of int64, each of shape (P,)

    Examples
    --------
    >>> bigram_pairs(SequenceDataset([7, 9, 7, 9]))
    (array([7, 9]), array([9, 7]), array([2, 1]))
    """
    if not n_pairs(dataset):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    if _dense(dataset):
        table = bigram_counts(dataset).ravel()
        keys = np.flatnonzero(table)
        counts = table[keys]
    else:
        keys, counts = _sparse(dataset)
    previous, following = np.divmod(keys, dataset.vocab_size)
    return previous, following, counts


def bigram_entropy(dataset: SequenceDataset) -> float:
    """Conditional entropy H(next | previous) over pairs inside sequences, in nats a pair.

    ``n_pairs(dataset)`` times it is the minimum of the negative log-likelihood of a bigram model.

    Raises
    ------
    DataError
        A dataset without a pair: every sequence has at most one token.

    Examples
    --------
    >>> bigram_entropy(SequenceDataset([0, 1, 0, 1, 0]))      # the previous id says the next one
    0.0
    """
    if not n_pairs(dataset):
        raise DataError("dataset: expected a sequence of at least two tokens to take a bigram entropy of, got none")
    previous, _, counts = bigram_pairs(dataset)
    first = np.flatnonzero(np.diff(previous, prepend=-1))
    totals = np.repeat(np.add.reduceat(counts, first), np.diff(np.append(first, counts.size)))
    return _entropy(counts, totals)


def _entropy(counts: np.ndarray, totals: np.ndarray) -> float:
    # Every term is at least 0, so nothing cancels: an entropy of 0 comes out as 0.
    terms = counts * np.log(totals / counts)
    return float(terms.sum() / counts.sum())


def _count(table: np.ndarray, keys: np.ndarray) -> None:
    """Add how often each key occurs to a table."""
    if table.size <= _BINCOUNT_CELLS:
        table += np.bincount(keys, minlength=table.size)
    else:
        np.add.at(table, keys, 1)


def _dense(dataset: SequenceDataset) -> bool:
    """Whether a table of all pairs is small, or at least mostly worth its memory."""
    cells = dataset.vocab_size**2
    return cells <= _SMALL_CELLS or (cells <= _LARGE_CELLS and n_pairs(dataset) >= cells // 8)


def _ids(dataset: SequenceDataset, part: np.ndarray) -> np.ndarray:
    """Some tokens of a dataset as int64, checked: a lazily opened file may leave the vocabulary."""
    if int(part.max()) >= dataset.vocab_size or int(part.min()) < 0:
        dataset.check_tokens()
    return part.astype(np.int64)


def _keys(dataset: SequenceDataset) -> Iterator[np.ndarray]:
    """``previous * V + next`` of every pair inside a sequence, chunk by chunk."""
    low, high = dataset.span
    size = dataset.vocab_size if low < high else 1
    if size > 3_000_000_000:
        raise OptionError(f"dataset: expected a vocabulary below 3 * 10**9 for pairs, got {size}")
    lasts = dataset.offsets[1:] - 1
    for a, part in dataset.scan(overlap=1):
        ids = _ids(dataset, part)
        keys = ids[:-1] * size
        keys += ids[1:]
        # A sequence's last token has no successor: the next entry begins another sequence.
        cut = lasts[np.searchsorted(lasts, a) : np.searchsorted(lasts, a + keys.size)] - a
        yield np.delete(keys, cut) if cut.size else keys


def _sparse(dataset: SequenceDataset) -> tuple[np.ndarray, np.ndarray]:
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    for part in _keys(dataset):
        pending.append(np.unique(part, return_counts=True))
        # Merging when the chunks outgrow the result keeps the total work near n log n.
        if sum(k.size for k, _ in pending) > max(keys.size, 1 << 22):
            keys, counts = _merge([(keys, counts), *pending])
            pending = []
    return _merge([(keys, counts), *pending])


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([k for k, _ in parts])
    counts = np.concatenate([c for _, c in parts])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    if not keys.size:
        return keys, counts
    first = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[first], np.add.reduceat(counts, first)
