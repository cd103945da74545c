"""The objective: the sum over the sequences of a dataset of a model's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.data.checks import integer
from fastnll.errors import DataError, OptionError
from fastnll.losses import CrossEntropy
from fastnll.models.base import Grads, Model, Params
from fastnll.models.spans import Spans
from fastnll.models.sums import fsum
from fastnll.objective.checks import check_dataset, check_l2, check_loss, likelihood
from fastnll.objective.evaluate import RowSum, default_block_rows
from fastnll.objective.second_order import SecondOrder
from fastnll.objective.selection import Key, select
from fastnll.objective.vectors import ScipyProblem, scipy_problem

__all__ = ["Objective"]

Array = npt.NDArray[Any]

# Parameters whose squares are summed at a time (8 MiB of float64).
_PART = 1 << 20


class Objective(SecondOrder):
    r"""The training objective of a model on a dataset, as a function of the model's parameters.

    .. math:: J(\theta) = \sum_{x \in D} \mathrm{Loss}_\theta(x) + \tfrac12 \lambda \lVert\theta\rVert^2,
              \qquad \mathrm{Loss}_\theta(x) = -\sum_i \log p_\theta(x_{i+1} \mid x_0 \dots x_i)

    A sum over sequences, not a mean, in nats. Minimising it (without the penalty) is maximum likelihood estimation.

    Parameters
    ----------
    model : Model
        A model without context predicts every token; any other all but the first of each sequence.
    dataset : SequenceDataset, Pieces or FeatureDataset
        Must not change afterwards. The row of a FeatureDataset is a sequence of one prediction.
    loss : CrossEntropy, optional
        Options that mean the same for every row: ignore_index, weight, label_smoothing, z_loss, softcap, temperature,
        valid_classes, class_mask of shape (V,), threads, validate, nonfinite, verify. Its reduction is not used.
    l2 : float, default 0
        :math:`\lambda`, of *all* parameters, biases too, as weight decay has it: so the objective of a convex model
        becomes strongly convex, with exactly one argmin. It stands beside a sum over tokens: ``l2 / n_predicted`` is
        the ``weight_decay`` that does the same to a mean.
    counts : bool, default True
        Evaluate table models (Categorical, Bigram) from how often each target follows each context, counted once,
        instead of row by row: equal up to rounding, at a cost that does not grow with the dataset.
    block_rows : int, optional
        Rows per block of the grid that all other models are summed on. Default: 16 to 4096, from the sizes of the
        model. Results do not depend on threads, to the bit; on this number they do, in their last bits.

    Raises
    ------
    DataError
        A dataset in which nothing is predicted.
    LabelError
        Tokens beyond the model's vocabulary: the first position, its value, how many.
    OptionError, ShapeError
        A dataset of the wrong kind, or an option that makes no sense over a dataset.

    Examples
    --------
    A coin that fell H, T, H, H. For p(H) = 1/2 the loss is 4 log 2, and the gradient pulls p towards 3/4:

    >>> from fastnll.data import SequenceDataset
    >>> from fastnll.models import Categorical
    >>> objective = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]))
    >>> value, grads = objective.value_and_grad({"logits": np.zeros(2)})
    >>> round(value, 6), grads["logits"]
    (2.772589, array([ 1., -1.]))
    """

    def __init__(
        self,
        model: Model,
        dataset: Any,
        loss: CrossEntropy | None = None,
        *,
        l2: float = 0.0,
        counts: bool = True,
        block_rows: int | None = None,
    ) -> None:
        self.model, self.dataset = model, dataset
        self.loss = check_loss(CrossEntropy() if loss is None else loss)
        self.l2, self.counts = check_l2(l2), bool(counts)
        self.block_rows = default_block_rows(model) if block_rows is None else integer("block_rows", block_rows, 1)
        # Pieces are windows on a dataset, which has the tokens.
        data = getattr(dataset, "dataset", dataset)
        check_dataset(model, dataset, data)
        spans = Spans.of(dataset, model.skip)
        self._rows = RowSum(model, data, spans, self.loss, self.counts, self.block_rows)
        plain = likelihood(self.loss)
        self._plain = self._rows
        if plain is not self.loss:
            self._plain = RowSum(model, data, spans, plain, self.counts, self.block_rows)
        if not self._rows.n_live:
            ignored = f", with ignore_index {self.loss.options.ignore_index}" if spans.n_rows else ""
            first = " (the first token of a sequence is not predicted)" if model.skip else ""
            raise DataError(
                f"dataset: expected at least one predicted token for model {model.name!r}, got none in {len(dataset)} "
                f"sequences of {dataset.n_tokens} tokens{first}{ignored}"
            )

    @property
    def n_predicted(self) -> int:
        """Number of predicted tokens, ignored ones left out."""
        return self._rows.n_live

    def value(self, params: Params) -> float:
        """Return the objective: the sum of the losses, plus the penalty.

        Parameters
        ----------
        params : dict of ndarray
            The model's parameters, all of one float dtype.

        Raises
        ------
        OptionError, ShapeError, DTypeError
            Parameters of other names, shapes or dtypes than the model's.
        """
        arrays = self.model.check_params(params)
        return self._rows.value(arrays) + self._penalty(arrays)

    def value_and_grad(self, params: Params) -> tuple[float, Grads]:
        """Return the objective and its gradient, a dict of arrays of the parameters' shapes and dtype."""
        arrays = self.model.check_params(params)
        loss, grads = self._rows.value_and_grad(arrays)
        return loss + self._penalty(arrays), self._finished(grads, arrays)

    def batch_value_and_grad(self, params: Params, ids: Any) -> tuple[float, int, Grads]:
        """Return the part of the objective that some sequences contribute, and its gradient.

        Parameters
        ----------
        params : dict of ndarray
        ids : array of int, shape (K,)
            Sequence ids, as `fastnll.data.batches` yields them.

        Returns
        -------
        loss : float
            Sum over the predicted tokens of these sequences, plus the same share of the penalty as they have of all
            predicted tokens: over batches that hold every sequence once, losses and gradients add up to the objective.
        n_predicted : int
            What to divide by for a mean per token.
        grads : dict of ndarray
            Gradient of `loss`.

        Raises
        ------
        DataError
            An id that is no sequence of the dataset.
        """
        arrays = self.model.check_params(params)
        rows = self._rows.of(self._rows.spans.take(ids))
        loss, grads = rows.value_and_grad(arrays)
        share = rows.n_live / self.n_predicted
        return loss + share * self._penalty(arrays), rows.n_live, self._finished(grads, arrays, share)

    def per_sequence(self, params: Params) -> Array:
        """Return Loss(x) of every sequence, shape (B,) float64, in nats; 0 where nothing is predicted.

        Without the penalty, which belongs to no sequence: their sum is ``value(params)`` where l2 is 0.
        """
        return self._rows.per_sequence(self.model.check_params(params))

    def log_likelihood(self, params: Params) -> float:
        """Return the log of the probability that the model gives the dataset, in nats.

        Without penalties, class weights or label smoothing, whatever the loss has: a property of model and data.
        """
        return -self._plain.value(self.model.check_params(params))

    def perplexity(self, params: Params) -> float:
        """Return exp of the negative log-likelihood per predicted token: 1 for a sure model, V for a uniform one."""
        with np.errstate(over="ignore"):
            return float(np.exp(-self.log_likelihood(params) / self.n_predicted))

    def bits_per_token(self, params: Params) -> float:
        """Return the negative log-likelihood per predicted token, in bits."""
        return -self.log_likelihood(params) / (self.n_predicted * math.log(2.0))

    def bits_per_byte(self, params: Params) -> float:
        """Return the negative log-likelihood in bits per byte of the source text, which compares across tokenizers.

        All bytes are counted, those of tokens that are not predicted (the first of each sequence) too.

        Raises
        ------
        DataError
            If the dataset does not know how many bytes its tokens stand for.
        """
        n_bytes = getattr(self.dataset, "n_bytes", None)
        if not n_bytes:
            raise DataError(
                f"dataset: expected a known number of source bytes for bits per byte, got {n_bytes}; "
                "make it from text, or pass n_bytes= or a tokenizer"
            )
        return -self.log_likelihood(params) / (int(n_bytes) * math.log(2.0))

    def select(self, candidates: Mapping[Key, Any]) -> tuple[Key, float]:
        """Return the candidate with the least objective: the argmin over a list.

        Parameters
        ----------
        candidates : mapping
            From a name to parameters of this model, to ``(model, params)`` for another model on the same dataset, loss
            and penalty, or to a number that was computed before.

        Returns
        -------
        name, value
            Of equal values, the first.

        Raises
        ------
        OptionError
            No candidate, none with a value that is a number, or a model that predicts other tokens than this one.

        Notes
        -----
        A lower training loss proves that the candidate gives this dataset a higher probability. It does not prove that
        it predicts other data better: a larger model, or longer training, lowers it whatever the truth is. Choose on
        an Objective over sequences that no candidate was fitted to; see also `fastnll.objective.select`.

        Examples
        --------
        >>> from fastnll.data import SequenceDataset
        >>> from fastnll.models import Categorical
        >>> tosses = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]))
        >>> tosses.select({p: {"logits": np.log([1 - p, p])} for p in (0.25, 0.5, 0.75)})[0]
        0.75
        """
        if not isinstance(candidates, Mapping):
            raise OptionError(f"candidates: expected a mapping from names, got {type(candidates).__name__}")
        return select({key: self._candidate(key, value) for key, value in candidates.items()})

    def _candidate(self, key: object, candidate: Any) -> Any:
        if isinstance(candidate, Mapping):
            return self.value(candidate)
        if not isinstance(candidate, tuple):
            return candidate
        if len(candidate) != 2 or not isinstance(candidate[0], Model):
            raise OptionError(f"candidates[{key!r}]: expected params, (model, params) or a number, got {candidate!r}")
        model, params = candidate
        other = Objective(model, self.dataset, self.loss, l2=self.l2, counts=self.counts)
        if model.skip != self.model.skip:
            raise OptionError(
                f"candidates[{key!r}]: expected a model that predicts the same {self.n_predicted} tokens as "
                f"{self.model!r}, got {model!r} with {other.n_predicted}; Categorical(V, predict_first=False) "
                "leaves out the first token of each sequence, as models with context do"
            )
        return other.value(params)

    def scipy(self) -> ScipyProblem:
        """Return what `scipy.optimize.minimize` wants: ``(fun, x0, unpack)``, in float64.

        Examples
        --------
        >>> from scipy.optimize import minimize
        >>> from fastnll.data import SequenceDataset
        >>> from fastnll.models import Categorical
        >>> fun, x0, unpack = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1])).scipy()
        >>> best = unpack(minimize(fun, x0(), jac=True, method="L-BFGS-B").x)["logits"]
        >>> round(float(1 / (1 + np.exp(best[0] - best[1]))), 4)
        0.75
        """
        return scipy_problem(self.model, self.value_and_grad, self.hvp)

    def _penalty(self, params: Params) -> float:
        if not self.l2:
            return 0.0
        flat = (array.reshape(-1) for array in params.values())
        # A million numbers at a time: a copy of all parameters in float64 might not fit.
        parts = (array[i : i + _PART].astype(np.float64) for array in flat for i in range(0, array.size, _PART))
        return 0.5 * self.l2 * fsum(float(np.square(part).sum()) for part in parts)

    def _finished(self, grads: Grads, params: Params, share: float = 1.0, *, penalised: Params | None = None) -> Grads:
        """Add the penalty's own (its gradient, or l2 times `penalised`) and return the dtype of the parameters."""
        if self.l2:
            terms = params if penalised is None else penalised
            for name, grad in grads.items():
                grad += (self.l2 * share) * terms[name].astype(grad.dtype, copy=False)
        return {name: grad.astype(params[name].dtype, copy=False) for name, grad in grads.items()}

    def __repr__(self) -> str:
        penalty = f", l2={self.l2:g}" if self.l2 else ""
        return f"Objective({self.model!r}, {self.dataset!r}, {self.loss!r}{penalty})"
