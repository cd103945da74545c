"""The second derivative of the loss of a row by its logits, which is a diagonal matrix minus one of rank one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll import ops

__all__ = ["Curvature"]

Array = npt.NDArray[Any]


class Curvature(NamedTuple):
    r"""Hessians of the losses of some rows by their logits, :math:`H_i = \mathrm{diag}(d_i) - c_i q_i q_i^T`.

    For the negative log-likelihood d = q = p, the probabilities, and c = 1, since the gradient is p minus a constant
    and :math:`\partial p_v / \partial z_u = p_v (\delta_{uv} - p_u)`. All options of the loss keep this form.

    Attributes
    ----------
    diagonal : ndarray, shape (N, V)
        d. The same array as `vector` where the loss is the likelihood.
    vector : ndarray, shape (N, V)
        q.
    scale : ndarray, shape (N, 1), or None
        c; None for 1 everywhere.

    Examples
    --------
    >>> p = np.array([[0.25, 0.75]])
    >>> curvature = Curvature(p, p, None)
    >>> curvature.times(np.array([[1.0, 0.0]]))
    array([[ 0.1875, -0.1875]])
    >>> curvature.entries()
    array([[0.1875, 0.1875]])
    """

    diagonal: Array
    vector: Array
    scale: Array | None

    def times(self, tangent: Array, out: Array | None = None) -> Array:
        """Return ``H_i @ tangent[i]`` of every row, shape (N, V); `out` may be `tangent`."""
        if self.scale is None:
            return ops.softmax_vjp(self.vector, tangent, out=out)
        inner = self.scale * np.einsum("nv,nv->n", self.vector, tangent)[:, None]
        result: Array = np.multiply(self.diagonal, tangent, out=out)
        result -= inner * self.vector
        return result

    def entries(self) -> Array:
        """Return the diagonal of H_i of every row, shape (N, V)."""
        if self.scale is None:
            rest = 1.0 - self.vector
            # 1 - p of a class that has nearly all of the mass is the sum of the others, to all its digits.
            top = self.vector.argmax(axis=1)
            rows = np.arange(top.size)
            others = self.vector.copy()
            others[rows, top] = 0.0
            rest[rows, top] = others.sum(axis=1)
            rest *= self.vector
            return rest
        squares = np.square(self.vector)
        squares *= self.scale
        result: Array = np.subtract(self.diagonal, squares, out=squares)
        return result

    def quadratic(self, weight: Array) -> Array:
        """Return ``w @ H_i @ w`` for every column w of `weight`, (V, H), and every row: shape (N, H)."""
        mean = self.vector @ weight
        np.square(mean, out=mean)
        if self.scale is not None:
            mean *= self.scale
        result: Array = np.subtract(self.diagonal @ np.square(weight), mean, out=mean)
        return result

    def between(self, weight: Array, rows: slice) -> Array:
        """Return ``weight.T @ H_i @ weight`` of some rows, shape (R, H, H)."""
        products: Array = np.matmul(weight.T * self.diagonal[rows, None, :], weight)
        mean = self.vector[rows] @ weight
        scaled = mean if self.scale is None else mean * self.scale[rows]
        products -= scaled[:, :, None] * mean[:, None, :]
        return products
