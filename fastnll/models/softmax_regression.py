"""Multinomial logistic regression: features to classes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnll.data.checks import integer
from fastnll.errors import DataError, ShapeError
from fastnll.models.base import Examples, Grads, HiddenVjp, Params
from fastnll.models.heads import Each, HeadModel, one_by_one
from fastnll.models.spans import Data, Spans

__all__ = ["SoftmaxRegression"]

Array = npt.NDArray[Any]


class SoftmaxRegression(HeadModel):
    """p(class | x) = softmax(weight @ x + bias), over a `fastnll.data.FeatureDataset`.

    Parameters
    ----------
    n_features : int
        D.
    n_classes : int
        V.

    Notes
    -----
    Convex in (weight, bias). Without a penalty the argmin is a set, since a constant added to all logits changes
    nothing; and on data that a hyperplane separates there is no minimum at all. ``Objective(..., l2=...)`` has one
    argmin in any case.

    Examples
    --------
    >>> from fastnll.data import FeatureDataset
    >>> model = SoftmaxRegression(n_features=2, n_classes=3)
    >>> data = FeatureDataset([[1.0, 0.0], [0.0, 1.0]], [2, 0], n_classes=3)
    >>> logits, vjp = model.logits_and_vjp(model.init(), model.examples(data).inputs)
    >>> logits.shape
    (2, 3)
    """

    name: ClassVar[str] = "softmax_regression"
    convex: ClassVar[bool] = True

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__(integer("n_classes", n_classes, 1))
        self.n_features = integer("n_features", n_features, 1)

    @property
    def row_size(self) -> int:
        """Features and logits."""
        return self.n_features + self.vocab_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {"weight": (V, D), "bias": (V,)}."""
        return {"weight": (self.vocab_size, self.n_features), "bias": (self.vocab_size,)}

    def init(self, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Grads:
        """Return zeros: every class has probability 1 / V, whatever the seed; the objective is convex."""
        kind = self.check_dtype("dtype", dtype)
        return {name: np.zeros(shape, kind) for name, shape in self.shapes().items()}

    def inputs(self, data: Data, positions: Array, depth: Array) -> Array:
        """Return the features of the rows, (N, D)."""
        features = getattr(data, "features", None)
        if features is None:
            raise DataError(f"dataset: expected a FeatureDataset for model {self.name!r}, got {type(data).__name__}")
        if features.shape[1] != self.n_features:
            raise ShapeError(f"features: expected {self.n_features} columns, got {features.shape[1]}")
        n = positions.size
        # Neighbouring rows are a view: a file that is mapped to memory is read, not copied.
        if n and positions[-1] - positions[0] == n - 1 and (np.diff(positions) == 1).all():
            view: Array = features[int(positions[0]) : int(positions[-1]) + 1]
            return view
        rows: Array = features[positions]
        return rows

    def examples(self, tokens: Any, offsets: Any = None) -> Examples:
        """Return every row of a FeatureDataset with its label; `offsets` has no meaning here."""
        spans = Spans.of(tokens, self.skip)
        positions, depth = spans.rows(0, spans.n_rows)
        return Examples(self.inputs(tokens, positions, depth), tokens.tokens[positions], spans.row_ends)

    def hidden_and_vjp(self, params: Params, inputs: Array, each: Each = one_by_one) -> tuple[Array, HiddenVjp | None]:
        """Return the features themselves, in the dtype of the weights: all parameters are in the head."""
        return inputs.astype(params["weight"].dtype, copy=False), None

    def hidden_and_tangent(self, params: Params, tangent: Params, inputs: Array) -> None:
        """Return None: the features do not depend on parameters."""

    def config(self) -> dict[str, Any]:
        """Return the name, D and V."""
        return {"name": self.name, "n_features": self.n_features, "n_classes": self.vocab_size}
