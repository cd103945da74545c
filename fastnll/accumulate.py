"""Sums over batches, and over slices of the vocabulary, that come out the same however the work was cut.

`Accumulator` adds batches; `shard_state` and `merge_shards` add slices of V. Both merge in any order.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.arrays import as_float_array, as_targets
from fastnll.errors import OptionError, ShapeError
from fastnll.ops import CrossEntropyDetails, cross_entropy_details, logsumexp

__all__ = ["Accumulator", "Summary", "VocabularyShard", "merge_shards", "shard_state"]

Array = npt.NDArray[Any]


class Summary(NamedTuple):
    """What an `Accumulator` has seen.

    Attributes
    ----------
    nll : float
        Mean negative log-likelihood per token, in nats; NaN where no token was seen.
    total : float
        Its sum.
    perplexity : float
        ``exp(nll)``.
    bits : float
        Mean per token, in bits.
    accuracy : float
        Share of tokens whose target is the most probable class.
    n_tokens : int
        Tokens seen.
    """

    nll: float
    total: float
    perplexity: float
    bits: float
    accuracy: float
    n_tokens: int


def _grow(partials: list[float], values: Iterable[float]) -> None:
    """Add numbers to an exact sum: partials that do not overlap (J. R. Shewchuk, 1997)."""
    for value in values:
        x, kept = value, 0
        for y in partials:
            if abs(x) < abs(y):
                x, y = y, x
            high = x + y
            low = y - (high - x)
            if low:
                partials[kept] = low
                kept += 1
            x = high
        partials[kept:] = [x]


class _Sums:
    """Exact sum of finite losses, the sum of the others, and counts."""

    __slots__ = ("correct", "count", "other", "partials")

    def __init__(self) -> None:
        self.partials: list[float] = []
        self.other = 0.0
        self.count = 0
        self.correct = 0

    def add(self, losses: Array, correct: int) -> None:
        finite = np.isfinite(losses)
        _grow(self.partials, losses[finite].tolist())
        for value in losses[~finite].tolist():
            self.other += value
        self.count += losses.size
        self.correct += correct

    def merge(self, more: _Sums) -> None:
        _grow(self.partials, more.partials)
        self.other += more.other
        self.count += more.count
        self.correct += more.correct

    def summary(self) -> Summary:
        total = math.fsum(self.partials) + self.other
        if not self.count:
            return Summary(math.nan, 0.0, math.nan, math.nan, math.nan, 0)
        mean = total / self.count
        perplexity = math.exp(mean) if mean < 709.0 else (math.inf if mean == mean else math.nan)
        return Summary(mean, total, perplexity, mean / math.log(2.0), self.correct / self.count, self.count)


class Accumulator:
    """NLL, perplexity, accuracy and bits over batches, the same whatever their size, order and merge tree.

    Sums are kept exactly, so no rounding depends on how the tokens were cut. Accumulators can be pickled.

    Parameters
    ----------
    **options
        As for `fastnll.cross_entropy_details`, used by `add`.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = Accumulator(), Accumulator()
    >>> _ = a.add(np.log([[0.5, 0.5]]), [0])
    >>> _ = b.add(np.log([[0.25, 0.75]]), [0])
    >>> a.merge(b).result().n_tokens, round(a.result().bits, 6), round(a.result().perplexity, 6)
    (2, 1.5, 2.828427)
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._all = _Sums()
        self._groups: dict[Hashable, _Sums] = {}

    def add(self, logits: npt.ArrayLike, targets: Any, *, groups: Any = None, **options: Any) -> Accumulator:
        """Add a batch; return self.

        Parameters
        ----------
        logits, targets, **options
            As for `fastnll.cross_entropy_details`.
        groups : array, optional
            One id per token (a document, a source, ...), of a shape that broadcasts to the targets'.

        Raises
        ------
        ShapeError, DTypeError, LabelError, OptionError
            As `fastnll.cross_entropy_details`.
        """
        return self.add_details(cross_entropy_details(logits, targets, **{**self._options, **options}), groups=groups)

    def add_details(self, details: CrossEntropyDetails, *, groups: Any = None) -> Accumulator:
        """Add what `fastnll.cross_entropy_details` returned; its absent rows (argmax -1) do not count.

        Raises
        ------
        ShapeError
            If `groups` does not fit.
        """
        live = (details.argmax >= 0).reshape(-1)
        losses = details.nll.reshape(-1).astype(np.float64)
        correct = details.correct.reshape(-1)
        if groups is not None:
            try:
                ids = np.broadcast_to(np.asarray(groups), details.nll.shape).reshape(-1)
            except ValueError:
                raise ShapeError(
                    f"groups: expected a shape that broadcasts to {details.nll.shape}, got {np.shape(groups)}"
                ) from None
            for key in np.unique(ids[live]).tolist():
                mine = live & (ids == key)
                self._groups.setdefault(key, _Sums()).add(losses[mine], int(correct[mine].sum()))
        self._all.add(losses[live], int(correct[live].sum()))
        return self

    def merge(self, other: Accumulator) -> Accumulator:
        """Add all that another accumulator has seen; return self."""
        self._all.merge(other._all)
        for key, sums in other._groups.items():
            self._groups.setdefault(key, _Sums()).merge(sums)
        return self

    def result(self) -> Summary:
        """Return the summary of all tokens."""
        return self._all.summary()

    def by_group(self) -> dict[Any, Summary]:
        """Return a summary for each group id, sorted where the ids can be.

        Examples
        --------
        >>> import numpy as np
        >>> a = Accumulator().add(np.zeros((3, 2)), [0, 1, 1], groups=[7, 3, 7])
        >>> {key: s.n_tokens for key, s in a.by_group().items()}
        {3: 1, 7: 2}
        """
        keys = list(self._groups)
        if len({type(key) for key in keys}) <= 1:
            keys.sort(key=lambda key: key)  # type: ignore[arg-type,return-value]
        return {key: self._groups[key].summary() for key in keys}


class VocabularyShard(NamedTuple):
    """What a slice of the vocabulary knows of each row: mergeable, and small.

    Attributes
    ----------
    reference : (...) float64 array
        The row's largest logit in the slice.
    sum : (...) float64 array
        Sum of ``exp(logit - reference)`` over the slice.
    target : (...) float64 array
        The target's logit, or -inf where the target lies in another slice.

    Examples
    --------
    >>> shard_state([[0.0, 0.0]], [5], 0).target.tolist()
    [-inf]
    """

    reference: Array
    sum: Array
    target: Array


def shard_state(logits: npt.ArrayLike, targets: Any, first_class: int) -> VocabularyShard:
    """Return the state of classes ``first_class, first_class + 1, ...``.

    Parameters
    ----------
    logits : array_like (..., V')
        A slice of the logits' classes.
    targets : integer array (...)
        Class ids of the whole vocabulary.
    first_class : int
        Id of the slice's first class.

    Returns
    -------
    VocabularyShard

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.

    References
    ----------
    M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax" (2018).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.log([[0.5, 0.25, 0.25]])
    >>> merge_shards([shard_state(x[:, :2], [1], 0), shard_state(x[:, 2:], [1], 2)]).round(6).tolist()
    [1.386294]
    """
    x = as_float_array(logits, "logits")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ShapeError(f"logits: expected a last axis of at least one class, got shape {x.shape}")
    t = as_targets(targets, x.shape[:-1])
    top = x.max(axis=-1).astype(np.float64)
    # A slice without a class has nothing to add; its reference must not make NaN of the others.
    shift = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.exp(np.asarray(logsumexp(x.astype(np.float64)), np.float64) - shift)
    local = t.astype(object) - int(first_class) if t.dtype == np.uint64 else t.astype(np.int64) - int(first_class)
    inside = np.asarray((local >= 0) & (local < x.shape[-1]), bool)
    column = np.where(inside, local, 0).astype(np.int64)
    picked = np.take_along_axis(x, column[..., None], axis=-1)[..., 0].astype(np.float64)
    return VocabularyShard(top, total, np.where(inside, picked, -np.inf))


def merge_shards(states: Sequence[VocabularyShard]) -> Array:
    """Return the loss of each row, -log p(target), from the states of all slices of the vocabulary.

    Parameters
    ----------
    states : sequence of VocabularyShard
        One for each slice, in any order.

    Returns
    -------
    (...) float64 array
        In nats; inf where no slice has the target (or its logit is -inf).

    Raises
    ------
    OptionError
        If there are no states.
    ShapeError
        If they are not of the same rows.

    Examples
    --------
    >>> import numpy as np
    >>> merge_shards([shard_state(np.zeros((2, 4)), [0, 3], 0)]).round(6).tolist()
    [1.386294, 1.386294]
    """
    if not states:
        raise OptionError("states: expected at least one slice of the vocabulary, got none")
    shapes = {s.reference.shape for s in states}
    if len(shapes) > 1:
        raise ShapeError(f"states: expected slices of the same rows, got shapes {sorted(shapes)}")
    tops = np.stack([s.reference for s in states])
    top = tops.max(axis=0)
    with np.errstate(invalid="ignore"):
        parts = np.stack([s.sum for s in states]) * np.where(np.isneginf(tops), 0.0, np.exp(tops - top))
        # Sorted, so that the order of the slices leaves no trace in the bits.
        total = np.sort(parts, axis=0).sum(axis=0)
        target = np.stack([s.target for s in states]).max(axis=0)
        return np.asarray((top - target) + np.log(total))
