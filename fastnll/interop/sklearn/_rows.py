r"""The objective of weighted rows and its curvature: what `fastnll.Objective` is for a dataset, with sample weights.

.. math:: J(W, b) = \sum_i s_i\,\mathrm{CE}(W x_i + b, y_i) + \tfrac12 \lambda \lVert W \rVert^2

The penalty leaves the intercepts alone, as scikit-learn has it. Rows are walked in blocks by threads with
single-threaded products, as `fastnll.objective` does: a block is read from memory once, for its logits and its
gradient. No result depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fastnll import ops
from fastnll.config import resolve_threads
from fastnll.losses import CrossEntropy
from fastnll.objective.parallel import ordered_map

__all__ = ["WeightedRows"]

Array = npt.NDArray[Any]

# Bytes of features and logits that a block should have: what stands between its two products takes as long for few rows
# as for many. 4096 rows of 120 numbers take half of the time of eight times 512, on two threads; more gain nothing.
_BYTES, _LEAST, _MOST = 1 << 22, 256, 4096
# Blocks whose gradients are added up before they join the float64 total: what one thread takes at a time.
_GROUP = 4


class WeightedRows:
    """Rows of features with a label and a weight each.

    Parameters
    ----------
    features : ndarray or CSR matrix, shape (N, D)
        float64 or float32: the dtype that products are computed in.
    labels : array of int, shape (N,)
        Class ids.
    n_classes : int
        V.
    weights : array of float64, shape (N,), optional
        None: 1 each.
    l2 : float
        lambda.
    intercept : bool
        Whether there are intercepts.
    threads : int, optional

    Attributes
    ----------
    shape : (int, int)
        Of the parameters: V, and D or D + 1, the intercepts last.
    total : float
        Sum of the weights.
    """

    def __init__(
        self,
        features: Any,
        labels: Array,
        n_classes: int,
        weights: Array | None,
        l2: float,
        *,
        intercept: bool,
        threads: int | None = None,
    ) -> None:
        self.features, self.labels, self.weights, self.l2 = features, labels, weights, l2
        self.n, self.d = features.shape
        self.n_classes, self.intercept, self.threads = n_classes, intercept, threads
        self.shape = (n_classes, self.d + intercept)
        self.total = float(self.n) if weights is None else float(weights.sum())
        rows = min(_MOST, max(_LEAST, _BYTES // (features.dtype.itemsize * (self.d + n_classes))))
        self.block_rows = 1 << (rows.bit_length() - 1)
        self.n_blocks = -(-self.n // self.block_rows)
        self._loss = CrossEntropy(reduction="sum", ignore_index=None, validate="off")
        self._plain = CrossEntropy(reduction="sum")

    def block(self, number: int) -> tuple[Any, Array, Array | None]:
        """Return features, labels and weights of a block."""
        part = slice(number * self.block_rows, min(self.n, (number + 1) * self.block_rows))
        return self.features[part], self.labels[part], None if self.weights is None else self.weights[part]

    def loss(self, logits: Array, labels: Array, weights: Array | None) -> tuple[float, Array]:
        """Return the weighted loss of some rows; the gradient overwrites the logits."""
        if weights is None:
            return self._plain.value_and_grad(logits, labels, out=logits)
        return self._loss.value_and_grad(logits, labels, out=logits, token_weight=weights)

    def split(self, theta: Array) -> tuple[Array, Array | None]:
        """Return weights, transposed, and intercepts in the dtype of the features."""
        kind = self.features.dtype
        matrix = np.ascontiguousarray(theta[:, : self.d].T, dtype=kind)
        return matrix, theta[:, self.d].astype(kind) if self.intercept else None

    def logits(self, features: Any, matrix: Array, bias: Array | None) -> Array:
        """Return the logits of some rows."""
        logits: Array = features @ matrix
        if bias is not None:
            logits += bias
        return logits

    def gradient(self, g: Array, features: Any, into: Array) -> None:
        """Add the gradient of the parameters, from that of the logits."""
        into[:, : self.d] += (features.T @ g).T if scipy.sparse.issparse(features) else g.T @ features
        if self.intercept:
            into[:, self.d] += g.sum(axis=0)

    def value_and_grad(self, theta: Array, stride: int = 1) -> tuple[float, Array]:
        """Return the objective and its gradient, (V, D + 1) in float64.

        Parameters
        ----------
        theta : array of float64, shape (V, D + 1)
        stride : int
            Take every stride-th block of rows, for all of them: an estimate in that part of the time.
        """
        matrix, bias = self.split(theta)
        numbers = range(stride // 2, self.n_blocks, stride)
        groups = [numbers[i : i + _GROUP] for i in range(0, len(numbers), _GROUP)]

        def add_up(group: range) -> tuple[float, Array, float]:
            total = np.zeros(self.shape, self.features.dtype)
            value = weight = 0.0
            for number in group:
                features, labels, weights = self.block(number)
                loss, g = self.loss(self.logits(features, matrix, bias), labels, weights)
                self.gradient(g, features, total)
                value += loss
                weight += labels.size if weights is None else float(weights.sum())
            return value, total, weight

        value, weight, grad = 0.0, 0.0, np.zeros(self.shape)
        threads = min(resolve_threads(self.threads), max(1, len(groups)))
        for part_value, part, part_weight in ordered_map(add_up, groups, threads):
            value += part_value
            grad += part
            weight += part_weight
        if stride > 1:
            share = self.total / weight if weight > 0 else 0.0
            value *= share
            grad *= share
        # Over the classes the sum is 0 but for rounding, which only the penalty would hold back: in float32 that shows.
        grad -= grad.mean(axis=0)
        inner = theta[:, : self.d]
        grad[:, : self.d] += self.l2 * inner
        return value + 0.5 * self.l2 * float(np.vdot(inner, inner)), grad

    def sample(self, most: int) -> tuple[Any, Array | None, float]:
        """Return features and weights of at most so many rows at equal distances, and how many rows each stands for."""
        if self.n <= most:
            return self.features, self.weights, 1.0
        ids = np.linspace(0, self.n - 1, most).astype(np.int64)
        weights = None if self.weights is None else self.weights[ids]
        sampled = float(most) if weights is None else float(weights.sum())
        return self.features[ids], weights, self.total / sampled if sampled > 0 else 1.0

    def probabilities(self, features: Any, theta: Array) -> Array:
        """Return the probabilities of some rows, in float64."""
        logits = self.logits(features, *self.split(theta)).astype(np.float64)
        return ops.softmax(logits, out=logits)
