"""The next token given the one before it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnll.models.spans import Data
from fastnll.models.tables import TableModel, TableOptimum

__all__ = ["Bigram", "bigram_optimum"]

Array = npt.NDArray[Any]


class Bigram(TableModel):
    """p(next | previous) = softmax(logits[previous])[next]: a Markov chain with a free row per token.

    Parameters
    ----------
    vocab_size : int
        V; the table of logits is (V, V), row = previous token.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> Bigram(3).optimum(SequenceDataset([0, 1, 0, 2, 0, 1])).params["logits"].round(3)
    array([[  -inf, -0.405, -1.099],
           [ 0.   ,   -inf,   -inf],
           [ 0.   ,   -inf,   -inf]])
    """

    name: ClassVar[str] = "bigram"
    context = 1

    @property
    def n_contexts(self) -> int:
        """V, one for each previous token."""
        return self.vocab_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {"logits": (V, V)}."""
        return {"logits": (self.vocab_size, self.vocab_size)}

    def inputs(self, data: Data, positions: Array, depth: Array) -> Array:
        """Return the token before each position, in its stored dtype."""
        previous: Array = data.tokens[positions - 1]
        return previous

    def config(self) -> dict[str, Any]:
        """Return the name and the vocabulary size."""
        return {"name": self.name, "vocab_size": self.vocab_size}


def bigram_optimum(
    dataset: Any, *, vocab_size: int | None = None, unseen: float = -np.inf, dtype: npt.DTypeLike = np.float64
) -> TableOptimum:
    """Return the least negative log-likelihood that any bigram model has on a dataset, and where it is.

    Parameters
    ----------
    dataset : SequenceDataset or Pieces
    vocab_size : int, optional
        V of the model. Default: the dataset's.
    unseen : float, default -inf
        Logit of a pair that never occurs, see `TableModel.optimum`.
    dtype : dtype, default float64
        Of the parameters.

    Returns
    -------
    TableOptimum
        ``value``: n_predicted * H(next | previous), in nats. ``params``: the log-probabilities. ``n_predicted``: pairs.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> best = bigram_optimum(SequenceDataset([0, 1, 0, 2]))
    >>> best.n_predicted, round(best.value, 6)     # after 0 come 1 and 2, once each; after 1 comes 0
    (3, 1.386294)
    """
    model = Bigram(dataset.vocab_size if vocab_size is None else vocab_size)
    return model.optimum(dataset, unseen=unseen, dtype=dtype)
