"""Models with hand-written vector-Jacobian products."""

from fastnll.models.base import Examples, Model
from fastnll.models.bigram import Bigram, bigram_optimum
from fastnll.models.categorical import Categorical
from fastnll.models.counts import PairCounts
from fastnll.models.heads import HeadModel
from fastnll.models.ngram import NGram
from fastnll.models.registry import MODELS, make
from fastnll.models.softmax_regression import SoftmaxRegression
from fastnll.models.spans import Spans
from fastnll.models.tables import TableModel, TableOptimum

__all__ = [
    "MODELS",
    "Bigram",
    "Categorical",
    "Examples",
    "HeadModel",
    "Model",
    "NGram",
    "PairCounts",
    "SoftmaxRegression",
    "Spans",
    "TableModel",
    "TableOptimum",
    "bigram_optimum",
    "make",
]
