"""Models whose logits are a row of a table: one row for each context they tell apart."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll import ops
from fastnll.models.base import Grads, Model, Params, Pull, Vjp, compute_dtype
from fastnll.models.counts import PairCounts, count_keys
from fastnll.models.curvature import Curvature
from fastnll.models.ids import add_rows, check_ids
from fastnll.models.spans import Data, Spans
from fastnll.models.sums import divergence, fsum, ordered_sum
from fastnll.models.walking import Walk

__all__ = ["TableModel", "TableOptimum"]

Array = npt.NDArray[Any]

# Rows of the dataset read at a time while counting (512 KiB of keys, which stay in the cache: a third of the time that
# 8 MiB take), and floats of the table at a time (8 MiB).
_ROWS = 1 << 16
_FLOATS = 1 << 20


class TableOptimum(NamedTuple):
    """The minimum of the objective, known without a search.

    Attributes
    ----------
    value : float
        The least negative log-likelihood, in nats, summed over all predicted tokens: n_predicted times the
        conditional entropy H(target | context) of the data.
    params : dict of ndarray
        Parameters that reach it.
    n_predicted : int
    """

    value: float
    params: Grads
    n_predicted: int


class TableModel(Model):
    """Logits ``table[context]``: convex in the table, and solved by counting.

    The whole negative log-likelihood depends on the data through the counts of (context, target) pairs alone
    (`PairCounts`), so that it costs a table, however many rows there are.
    """

    convex: ClassVar[bool] = True

    @property
    @abstractmethod
    def n_contexts(self) -> int:
        """Number of contexts the model tells apart: rows of the table."""

    def init(self, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Grads:
        """Return logits of zero, the uniform distribution: a loss of log V per token whatever the seed.

        The objective is convex, so where the search starts decides nothing.
        """
        kind = self.check_dtype("dtype", dtype)
        return {name: np.zeros(shape, kind) for name, shape in self.shapes().items()}

    def _table(self, arrays: Params) -> Array:
        return arrays["logits"].reshape(self.n_contexts, self.vocab_size)

    def logits_and_vjp(self, params: Params, inputs: Array, *, out: Array | None = None) -> tuple[Array, Vjp]:
        """Return the table rows of the contexts; the gradient is added to the rows they came from."""
        check_ids("inputs", inputs, self.n_contexts)
        table = self._table(params)
        # Rows of 16 bits are widened here, so that no gradient is rounded before it is summed.
        table = table.astype(compute_dtype(table.dtype), copy=False)
        # With the ids checked, "clip" only says that nothing is left to check: NumPy then writes straight to `out`.
        fits = out is not None and out.dtype == table.dtype
        logits = np.take(table, inputs, axis=0, out=out if fits else None, mode="clip")

        def vjp(grad: Array, into: Grads | None = None) -> Grads:
            grads = self.zeros(params) if into is None else into
            add_rows(self._table(grads), inputs, grad)
            return grads

        return logits, vjp

    def logits_and_tangent(
        self, params: Params, tangent: Params, inputs: Array, *, out: Array | None = None
    ) -> tuple[Array, Array, Pull]:
        """Return the table rows of the contexts, those of the direction, and `pull`: logits are linear in the table."""
        logits, vjp = self.logits_and_vjp(params, inputs, out=out)
        directions = self._table(tangent)[inputs].astype(logits.dtype, copy=False)

        def pull(grad: Array, grad_tangent: Array, into: Grads) -> None:
            vjp(grad_tangent, into)

        return logits, directions, pull

    def add_diagonal(self, params: Params, inputs: Array, grad: Array, curvature: Curvature, into: Grads) -> None:
        """Add the second derivatives by the logits to the rows of the table they came from."""
        add_rows(self._table(into), inputs, curvature.entries())

    def count(self, data: Data, spans: Spans) -> PairCounts:
        """Return how often each target follows each context in some rows of a dataset, in one pass.

        Raises
        ------
        LabelError
            A token beyond the vocabulary.
        """
        return PairCounts(*self.count_part(data, spans, 0, spans.n_rows), self.n_contexts, self.vocab_size)

    def count_part(self, data: Data, spans: Spans, start: int, stop: int) -> tuple[Array, Array]:
        """Return the distinct keys of the rows ``start`` to ``stop``, ascending, and how often each occurs."""
        steps = Walk(data, spans, start, stop).steps(_ROWS)
        parts = (self.keys(data, *spans.rows(low, high)) for low, high in steps)
        return count_keys(parts, self.n_contexts * self.vocab_size, stop - start)

    def keys(self, data: Data, positions: Array, depth: Array) -> Array:
        """Return ``context * V + target`` of some rows, int64."""
        targets = data.tokens[positions]
        check_ids("tokens", targets, self.vocab_size)
        keys = self.inputs(data, positions, depth).astype(np.int64)
        check_ids("inputs", keys, self.n_contexts)
        keys *= self.vocab_size
        # Unsigned 64-bit ids and int64 have no common integer dtype; checked ids fit in both.
        np.add(keys, targets, out=keys, casting="unsafe")
        return keys

    def counted_nll(self, params: Params, pairs: PairCounts) -> Array:
        """Return the negative log-likelihood of one row of each pair: (P,) float64, in nats."""
        nll = np.empty(pairs.keys.size)
        for _, span, log_probs, places in self._log_probs(params, pairs):
            nll[span] = _losses(log_probs, places)[0]
        return nll

    def counted_value(self, params: Params, pairs: PairCounts) -> float:
        """Return the negative log-likelihood of all counted rows."""
        return ordered_sum(self.counted_nll(params, pairs) * pairs.counts)

    def counted_value_and_grad(self, params: Params, pairs: PairCounts, into: Grads) -> float:
        """Return the negative log-likelihood of all counted rows, and add its gradient to `into`.

        Computed in float64 whatever the dtype of the table, since n_c p - n_{c, t} cancels near the optimum.
        """
        nll = np.empty(pairs.keys.size)
        grads = self._table(into)
        for rows, span, log_probs, places in self._log_probs(params, pairs):
            counts, totals = pairs.counts[span], pairs.totals[rows, None]
            nll[span], sure, rest = _losses(log_probs, places)
            expected = np.exp(log_probs, out=log_probs)
            expected *= totals
            expected.reshape(-1)[places] -= counts
            # n_c p - n_ct with p = 1 - rest: the two large numbers are integers and cancel without an error.
            total = totals[places[sure] // self.vocab_size, 0]
            expected.reshape(-1)[places[sure]] = (total - counts[sure]) - total * rest
            grads[pairs.contexts[rows]] += expected
        return ordered_sum(nll * pairs.counts)

    def counted_times(self, params: Params, tangent: Params, pairs: PairCounts, into: Grads) -> None:
        """Add the product of the Hessian over all counted rows and a direction: n_c p (u - <p, u>) in row c."""
        grads, directions = self._table(into), self._table(tangent)
        for rows, curvature in self.curvatures(params, pairs):
            contexts = pairs.contexts[rows]
            product = curvature.times(directions[contexts].astype(np.float64))
            product *= pairs.totals[rows, None]
            grads[contexts] += product

    def counted_diagonal(self, params: Params, pairs: PairCounts, into: Grads) -> None:
        """Add the diagonal of the Hessian over all counted rows: n_c p (1 - p) in row c."""
        for rows, curvature in self.curvatures(params, pairs):
            self._table(into)[pairs.contexts[rows]] += curvature.entries() * pairs.totals[rows, None]

    def curvatures(self, params: Params, pairs: PairCounts) -> Iterator[tuple[slice, Curvature]]:
        """Yield some of the distinct contexts at a time, and the curvature of one row of each, float64."""
        for rows, _, log_probs, _ in self._log_probs(params, pairs):
            probs = np.exp(log_probs, out=log_probs)
            yield rows, Curvature(probs, probs, None)

    def counted_gap(self, params: Params, pairs: PairCounts) -> tuple[float, float]:
        """Return how far the counted rows' loss is above its least value, and how far the table is from where that is.

        Returns
        -------
        gap : float
            sum_c n_c KL(p_c || q_c), with p_c the relative frequencies: a sum of terms of at least 0.
        distance : float
            To the nearest table of least loss (a constant added to a row changes nothing); infinite where a context
            was seen, but not with all targets, since then the least loss is only approached.
        """
        gaps, squares, table = [], 0.0, self._table(params)
        for rows, span, log_probs, places in self._log_probs(params, pairs):
            totals = pairs.totals[rows, None]
            expected = np.exp(log_probs) * totals
            delta = np.full(expected.shape, -1.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                counts, theirs = pairs.counts[span], expected.reshape(-1)[places]
                delta.reshape(-1)[places] = (counts - theirs) / theirs
            terms = expected * divergence(delta)
            # A pair that was seen and has probability 0: the loss is infinite.
            gaps.append(math.inf if (theirs == 0.0).any() else float(terms.sum()))
            if counts.size < delta.size:
                squares = math.inf
                continue
            off = table[pairs.contexts[rows]] - np.log(counts.reshape(delta.shape))
            squares += float(np.square(off - off.mean(axis=1, keepdims=True)).sum())
        return fsum(gaps), math.sqrt(squares)

    def _log_probs(self, params: Params, pairs: PairCounts) -> Iterator[tuple[slice, slice, Array, Array]]:
        """For some contexts at a time: which; their pairs; float64 log-probabilities; the pairs' flat places there."""
        table, v = self._table(params), self.vocab_size
        step = max(1, _FLOATS // v)
        for low in range(0, pairs.contexts.size, step):
            rows = slice(low, min(low + step, pairs.contexts.size))
            logits = table[pairs.contexts[rows]].astype(np.float64, copy=False)
            log_probs = ops.log_softmax(logits, out=logits)
            span = slice(int(pairs.first[rows.start]), int(pairs.first[rows.stop]))
            yield rows, span, log_probs, pairs.places[span] - low * v

    def optimum(self, dataset: Any, *, unseen: float = -np.inf, dtype: npt.DTypeLike = np.float64) -> TableOptimum:
        """Return the exact minimum of the negative log-likelihood on a dataset: the logarithms of the counts.

        Parameters
        ----------
        dataset : SequenceDataset or Pieces
        unseen : float, default -inf
            Logit of a pair that does not occur, beside a context that does. -inf reaches the minimum; a finite
            number comes near it, with a finite loss on other data.
        dtype : dtype, default float64

        Returns
        -------
        TableOptimum
            `params` are log-probabilities, log(n_ct / n_c); a context that never occurs is uniform. `value` does not
            depend on `unseen`.

        Notes
        -----
        The objective is sum_c n_c (H(p_c) + KL(p_c || q_c)) with p_c the relative frequencies after context c and q_c
        the model's; by Gibbs' inequality the divergences are least, and 0, where q_c = p_c.
        """
        pairs = self.count(getattr(dataset, "dataset", dataset), Spans.of(dataset, self.skip))
        log_probs = np.log(pairs.counts) - np.log(np.repeat(pairs.totals, np.diff(pairs.first)))
        params = self.init(dtype=dtype)
        table = self._table(params)
        table[...] = -np.log(self.vocab_size)
        table[pairs.contexts] = unseen
        table.reshape(-1)[pairs.keys] = log_probs
        # Summed as logarithms of ratios: each term is at least 0 and nothing cancels.
        ratios = np.repeat(pairs.totals, np.diff(pairs.first)) / pairs.counts
        return TableOptimum(ordered_sum(pairs.counts * np.log(ratios)), params, pairs.n_rows)


def _losses(log_probs: Array, places: Array) -> tuple[Array, Array, Array]:
    """Return -log p of the entries at some flat places of a table of log-probabilities.

    Where p is above 1/2, log p as it stands in the table has lost what p lacks to 1, as a difference of logits does.
    There -log p = -log1p(-rest), with rest the sum of all other probabilities: a loss of 1e-12 has all its digits.

    Returns
    -------
    nll : ndarray, as many as places
    sure : ndarray of int64
        Which of them have p above 1/2.
    rest : ndarray, as many as sure
        1 - p, to full relative accuracy.
    """
    chosen = log_probs.reshape(-1)[places]
    nll = 0.0 - chosen
    sure = np.flatnonzero(chosen > -math.log(2.0))
    rows, columns = np.divmod(places[sure], log_probs.shape[1])
    others = np.exp(log_probs[rows])
    others[np.arange(sure.size), columns] = 0.0
    rest = others.sum(axis=1)
    nll[sure] = 0.0 - np.log1p(-rest)
    return nll, sure, rest
