"""One distribution for every token: the coin, the die, the unigram model."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnll.models.spans import Data
from fastnll.models.tables import TableModel

__all__ = ["Categorical"]

Array = npt.NDArray[Any]


class Categorical(TableModel):
    """Every token is drawn from softmax(logits), whatever came before it.

    Its negative log-likelihood is N (H(p) + KL(p || softmax(logits))) with p the relative frequencies of the N
    predicted tokens, so the argmin is logits = log p, up to a constant.

    Parameters
    ----------
    vocab_size : int
        V.
    predict_first : bool, default True
        Whether the first token of a sequence is predicted, as all others are. False leaves it out, which makes the
        loss comparable with that of a model that needs a predecessor.

    Examples
    --------
    A coin that fell H, T, H, H; the loss of a fair coin is 4 log 2:

    >>> from fastnll.data import SequenceDataset
    >>> coin, tosses = Categorical(2), SequenceDataset([1, 0, 1, 1])
    >>> best = coin.optimum(tosses)
    >>> np.exp(best.params["logits"])
    array([0.25, 0.75])
    >>> round(best.value, 6)
    2.249341
    """

    name: ClassVar[str] = "categorical"

    def __init__(self, vocab_size: int, predict_first: bool = True) -> None:
        super().__init__(vocab_size)
        self.predict_first = bool(predict_first)

    @property
    def skip(self) -> int:
        """1 if the first token of a sequence is left out, else 0."""
        return 0 if self.predict_first else 1

    @property
    def n_contexts(self) -> int:
        """1: there is one distribution."""
        return 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {"logits": (V,)}."""
        return {"logits": (self.vocab_size,)}

    def inputs(self, data: Data, positions: Array, depth: Array) -> Array:
        """Return context 0 for every row."""
        return np.zeros(positions.size, np.uint8)

    def config(self) -> dict[str, Any]:
        """Return the name and the constructor's arguments."""
        return {"name": self.name, "vocab_size": self.vocab_size, "predict_first": self.predict_first}
