"""How often each target follows each context: all that a table of logits needs to know of a dataset.

Where the logits of a row depend on a context c out of few, the sum over rows is a sum over contexts,

    sum_i [lse(z_{c_i}) - z_{c_i, t_i}]  =  sum_c n_c lse(z_c) - sum_{c, t} n_{c, t} z_{c, t},

with n_{c, t} the number of rows with context c and target t, and n_c its sum over t. Its gradient in row c is
n_c softmax(z_c) - n_{c, .}. The rows are read once, to count; after that nothing depends on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PairCounts", "count_keys"]

Array = npt.NDArray[Any]

# Values of pairs are looked up in a dense table of up to this many float64 (32 MiB), above by bisection.
_DENSE_LOOKUP = 1 << 22

# Keys are counted in a table of all of them up to this many (256 MiB).
_DENSE_COUNTS = 1 << 26


class PairCounts:
    """The distinct (context, target) pairs of some rows, sorted, with how often each occurs.

    Parameters
    ----------
    keys : ndarray of int64, shape (P,)
        ``context * n_classes + target``, ascending.
    counts : ndarray of int64, shape (P,)
        At least 1 each.
    n_contexts, n_classes : int

    Attributes
    ----------
    contexts : ndarray of int64, shape (C,)
        The distinct contexts, ascending.
    first : ndarray of int64, shape (C + 1,)
        Context j has the pairs ``first[j]`` to ``first[j + 1]``.
    totals : ndarray of int64, shape (C,)
        Rows of each context.
    places : ndarray of int64, shape (P,)
        Where each pair lies in a flat (C, n_classes) table of the distinct contexts.

    Examples
    --------
    >>> pairs = PairCounts(*count_keys([np.array([5, 3, 5, 5])], 9, 4), n_contexts=3, n_classes=3)
    >>> pairs.contexts, pairs.targets, pairs.counts
    (array([1]), array([0, 2]), array([1, 3]))
    """

    def __init__(self, keys: Array, counts: Array, n_contexts: int, n_classes: int) -> None:
        self.keys, self.counts = keys, counts
        self.n_contexts, self.n_classes = n_contexts, n_classes
        context, self.targets = np.divmod(keys, n_classes)
        heads = np.flatnonzero(np.diff(context, prepend=-1))
        self.contexts: Array = context[heads]
        self.first: Array = np.append(heads, keys.size)
        # Every context has a pair, so no segment is empty, which reduceat would get wrong.
        self.totals: Array = np.add.reduceat(counts, heads) if heads.size else counts[:0]
        local = np.repeat(np.arange(heads.size), np.diff(self.first))
        self.places: Array = local * n_classes + self.targets

    @cached_property
    def n_rows(self) -> int:
        """How many rows were counted."""
        return int(self.counts.sum())

    def without(self, targets: Iterable[int]) -> PairCounts:
        """Return the counts with the rows of some targets left out."""
        live = ~np.isin(self.targets, np.fromiter(targets, np.int64))
        if live.all():
            return self
        return PairCounts(self.keys[live], self.counts[live], self.n_contexts, self.n_classes)

    def lookup(self, values: Array) -> Callable[[Array], Array]:
        """Return a function from keys to ``values[p]`` of their pair; 0 for a key that was not counted."""
        n_keys = self.n_contexts * self.n_classes
        if n_keys <= _DENSE_LOOKUP:
            table = np.zeros(n_keys, values.dtype)
            table[self.keys] = values
            return table.__getitem__

        def bisect(keys: Array) -> Array:
            place = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
            found: Array = np.where(self.keys[place] == keys, values[place], 0.0)
            return found

        return bisect


def count_keys(parts: Iterable[Array], n_keys: int, n_rows: int) -> tuple[Array, Array]:
    """Return the distinct keys of all parts, ascending, and how often each occurs.

    Parameters
    ----------
    parts : iterable of int64 arrays
        Keys in ``[0, n_keys)``.
    n_keys : int
    n_rows : int
        Keys in all parts together: says whether a table of all possible keys is worth its memory.

    Returns
    -------
    keys, counts : ndarray of int64, shape (P,)

    Notes
    -----
    A table of all keys has 32-bit entries (64 above 2**32 rows) and at most 256 MiB of them: the pairs of 8192 tokens.
    More are counted by sorting each part and merging, in memory that grows with the distinct keys alone.
    """
    if n_keys <= max(1 << 16, min(4 * n_rows, _DENSE_COUNTS)):
        table: Array = np.zeros(n_keys, np.uint32 if n_rows < 1 << 32 else np.uint64)
        one = table.dtype.type(1)
        for part in parts:
            # Clearing and adding a table for each part pays where the parts are larger.
            if 4 * n_keys <= part.size:
                table += np.bincount(part, minlength=n_keys).astype(table.dtype)
            else:
                np.add.at(table, part, one)
        keys = np.flatnonzero(table)
        return keys, table[keys].astype(np.int64)
    runs: list[tuple[Array, Array]] = []
    for part in parts:
        more, times = np.unique(part, return_counts=True)
        runs.append((more, times.astype(np.int64, copy=False)))
        # Only runs of like size are merged, so that a key is moved a logarithm of the number of parts times.
        while len(runs) > 1 and runs[-2][0].size < 2 * runs[-1][0].size:
            runs[-2:] = [_merged(*runs[-2:])]
    while len(runs) > 1:
        runs[-2:] = [_merged(*runs[-2:])]
    return runs[0] if runs else (np.empty(0, np.int64), np.empty(0, np.int64))


def _merged(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Add up two sorted runs of distinct keys."""
    keys = np.concatenate([one[0], other[0]])
    # NumPy's stable sort finds the two sorted runs and merges them in one pass.
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], np.concatenate([one[1], other[1]])[order]
    heads = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[heads], np.add.reduceat(counts, heads) if heads.size else counts
