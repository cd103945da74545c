"""The neural probabilistic language model: embeddings of the last k tokens, one hidden layer, a softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnll.data.checks import integer
from fastnll.data.order import hash_keys
from fastnll.models.base import Grads, HiddenVjp, Params, Pull
from fastnll.models.curvature import Curvature
from fastnll.models.distinct import DistinctTokens
from fastnll.models.heads import Each, HeadModel, one_by_one, part_of
from fastnll.models.ids import add_rows, check_ids
from fastnll.models.spans import Data

__all__ = ["NGram"]

Array = npt.NDArray[Any]
_Product = Callable[[slice, Array], None]

# Numbers in an intermediate result of the diagonal (32 MiB of float64).
_FLOATS = 1 << 22

# Numbers in w1 from which on products are shared by the rows that have the same token.
_LARGE = 1 << 17

# Rows of a part that one thread works on, and columns of x, whose products are rows of the gradient of w1.
_ROWS, _COLUMNS = 512, 256


class NGram(HeadModel):
    r"""The model of Bengio, Ducharme, Vincent and Jauvin (2003), without its optional direct connections.

    .. math::

        x = [E_{t-k}, \dots, E_{t-1}], \qquad h = \tanh(x W_1 + b_1), \qquad z = h W^T + b

    with E the embedding of a token, and z the logits of the next one. A context that reaches beyond the start of its
    sequence is filled with the padding id V, whose embedding is learnt like any other.

    Parameters
    ----------
    vocab_size : int
        V.
    context : int, default 4
        k, how many tokens back it looks.
    dim : int, default 32
        D, numbers per embedding.
    hidden : int, default 128
        H, hidden units.

    Notes
    -----
    Parameters: ``embedding`` (V + 1, D), ``w1`` (k D, H), ``b1`` (H,), ``weight`` (V, H), ``bias`` (V,).
    float32 and float64.

    References
    ----------
    Y. Bengio, R. Ducharme, P. Vincent, C. Jauvin, "A Neural Probabilistic Language Model", JMLR 3 (2003).

    Examples
    --------
    >>> model = NGram(vocab_size=5, context=2, dim=3, hidden=4)
    >>> inputs, targets, _ = model.examples([3, 1, 4, 1], [0, 2, 4])
    >>> inputs                          # 5 is the padding before the start
    array([[5, 3],
           [5, 4]])
    >>> logits, vjp = model.logits_and_vjp(model.init(), inputs)
    >>> {name: grad.shape for name, grad in vjp(np.ones_like(logits)).items()}
    {'embedding': (6, 3), 'w1': (6, 4), 'b1': (4,), 'weight': (5, 4), 'bias': (5,)}
    """

    name: ClassVar[str] = "ngram"
    convex: ClassVar[bool] = False

    def __init__(self, vocab_size: int, context: int = 4, dim: int = 32, hidden: int = 128) -> None:
        super().__init__(vocab_size)
        self.context = integer("context", context, 1)
        self.dim = integer("dim", dim, 1)
        self.hidden = integer("hidden", hidden, 1)

    @property
    def row_size(self) -> int:
        """Embeddings, hidden units and their gradients, and logits."""
        return 2 * (self.context * self.dim + self.hidden) + self.vocab_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter."""
        v, k, d, h = self.vocab_size, self.context, self.dim, self.hidden
        return {"embedding": (v + 1, d), "w1": (k * d, h), "b1": (h,), "weight": (v, h), "bias": (v,)}

    def init(self, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Grads:
        """Return random parameters that start with a loss near log V.

        Embeddings have unit variance and `w1` variance 1 / (k D), so that hidden units start neither dead nor
        saturated; the head is ten times smaller than that rule, so that all classes start nearly equally likely; biases
        start at 0. Uniform numbers from a hash of (seed, parameter, index): the same bits on every machine.
        """
        kind = self.check_dtype("dtype", dtype)
        scale = {
            "embedding": 1.0,
            "w1": 1.0 / math.sqrt(self.context * self.dim),
            "weight": 0.1 / math.sqrt(self.hidden),
        }
        return {
            name: (_uniform(seed, i, shape, scale[name]) if name in scale else np.zeros(shape)).astype(kind)
            for i, (name, shape) in enumerate(self.shapes().items())
        }

    def inputs(self, data: Data, positions: Array, depth: Array) -> Array:
        """Return the k tokens before each position, oldest first, with V beyond the start: (N, k) int64."""
        back = np.arange(self.context, 0, -1)
        missing = depth[:, None] < back
        where = positions[:, None] - back
        where[missing] = 0
        ids = data.tokens[where].astype(np.int64)
        ids[missing] = self.vocab_size
        return ids

    def hidden_and_vjp(self, params: Params, inputs: Array, each: Each = one_by_one) -> tuple[Array, HiddenVjp | None]:
        """Return tanh(x W1 + b1), (N, H), and its vector-Jacobian product into embedding, w1 and b1.

        Where w1 is large, x W1 is computed from the distinct tokens of each slot (`fastnll.models.distinct`); where it
        is small, finding them would cost more than they save.
        """
        check_ids("inputs", inputs, self.vocab_size + 1)
        n = inputs.shape[0]
        hidden = np.empty((n, self.hidden), params["w1"].dtype)
        large = self.context * self.dim * self.hidden >= _LARGE
        product, back = (self._from_distinct if large else self._from_rows)(params, inputs, each)

        def forward(part: int) -> None:
            rows = part_of(part, _ROWS, n)
            product(rows, hidden[rows])
            hidden[rows] += params["b1"]
            np.tanh(hidden[rows], out=hidden[rows])

        each(forward, -(-n // _ROWS))

        def vjp(grad: Array, into: Grads) -> None:
            def slopes(part: int) -> None:
                # d tanh(a) = 1 - tanh(a)^2; `grad` is ours to overwrite.
                rows = part_of(part, _ROWS, n)
                slope = np.square(hidden[rows])
                np.subtract(1.0, slope, out=slope)
                grad[rows] *= slope

            each(slopes, -(-n // _ROWS))
            back(grad, into)
            into["b1"] += grad.sum(axis=0)

        return hidden, vjp

    def _from_rows(self, params: Params, inputs: Array, each: Each) -> tuple[_Product, HiddenVjp]:
        """Return ``product(rows, out)``, which writes x W1 of some rows, and what pulls its gradient back."""
        embedding, w1 = params["embedding"], params["w1"]
        n, width = inputs.shape[0], self.context * self.dim
        x = np.empty((n, width), w1.dtype)

        def product(rows: slice, out: Array) -> None:
            np.take(embedding, inputs[rows], axis=0, out=x[rows].reshape(-1, self.context, self.dim), mode="clip")
            np.matmul(x[rows], w1, out=out)

        def back(grad: Array, into: Grads) -> None:
            x_grad = np.empty_like(x)

            def embeddings(part: int) -> None:
                rows = part_of(part, _ROWS, n)
                np.matmul(grad[rows], w1.T, out=x_grad[rows])

            def weights(part: int) -> None:
                columns = part_of(part, _COLUMNS, width)
                into["w1"][columns] += x[:, columns].T @ grad

            each(embeddings, -(-n // _ROWS))
            each(weights, -(-width // _COLUMNS))
            add_rows(into["embedding"], inputs.reshape(-1), x_grad.reshape(-1, self.dim))

        return product, back

    def _from_distinct(self, params: Params, inputs: Array, each: Each) -> tuple[_Product, HiddenVjp]:
        """Return the same, from products of the distinct tokens of each slot."""
        embedding, d = params["embedding"], self.dim
        by_slot = params["w1"].reshape(self.context, d, self.hidden)
        slots = DistinctTokens(inputs, each)
        table = np.empty((slots.size, self.hidden), by_slot.dtype)

        def multiply(slot: int) -> None:
            np.matmul(embedding[slots.tokens[slot]], by_slot[slot], out=table[slots.part(slot)])

        each(multiply, self.context)

        def product(rows: slice, out: Array) -> None:
            out[...] = slots.expand(table, rows)

        def back(grad: Array, into: Grads) -> None:
            moved: list[Array] = [grad] * self.context

            def slot_back(slot: int) -> None:
                sums = slots.collect(slot, grad)
                into["w1"][slot * d : (slot + 1) * d] += embedding[slots.tokens[slot]].T @ sums
                moved[slot] = sums @ by_slot[slot].T

            each(slot_back, self.context)
            for tokens, rows in zip(slots.tokens, moved, strict=True):
                into["embedding"][tokens] += rows

        return product, back

    def hidden_and_tangent(self, params: Params, tangent: Params, inputs: Array) -> tuple[Array, Array, Pull]:
        """Return tanh(x W1 + b1), its derivative in a direction, and the derivative of its vector-Jacobian product.

        With a = x W1 + b1 and s = 1 - h^2 = dh/da: dh = s da, and for the gradient g of h, which becomes g s for a,
        d(g s) = dg s - 2 g h dh.
        """
        check_ids("inputs", inputs, self.vocab_size + 1)
        w1, d_w1 = params["w1"], tangent["w1"]
        x, d_x = (self._embedded(arrays, inputs) for arrays in (params, tangent))
        hidden = x @ w1
        hidden += params["b1"]
        np.tanh(hidden, out=hidden)
        slope = 1.0 - np.square(hidden)
        d_hidden = d_x @ w1
        d_hidden += x @ d_w1
        d_hidden += tangent["b1"]
        d_hidden *= slope

        def pull(grad: Array, grad_tangent: Array, into: Grads) -> None:
            d_a = grad_tangent * slope
            d_a -= 2.0 * grad * hidden * d_hidden
            a = grad * slope
            into["w1"] += d_x.T @ a
            into["w1"] += x.T @ d_a
            into["b1"] += d_a.sum(axis=0)
            rows = d_a @ w1.T
            rows += a @ d_w1.T
            add_rows(into["embedding"], inputs.reshape(-1), rows.reshape(-1, self.dim))

        return hidden, d_hidden, pull

    def add_hidden_diagonal(
        self, params: Params, inputs: Array, hidden_grad: Array, curvature: Curvature, into: Grads
    ) -> None:
        """Add the diagonal for embedding, w1 and b1.

        Second derivatives by a = x W1 + b1 are C = S (W^T H W) S + diag(-2 g h s), with S = diag(s), g the gradient
        of h, H the curvature by the logits. w1 and b1 need its diagonal alone, at the cost of a gradient. A number of
        an embedding enters all units, and twice where its token stands twice in the context: it needs all of C, which
        costs H times as much, V H^2 multiplications a row.
        """
        w1, weight = params["w1"], params["weight"]
        x = self._embedded(params, inputs)
        hidden = np.tanh(x @ w1 + params["b1"])
        slope = 1.0 - np.square(hidden)
        bend = -2.0 * hidden_grad * hidden * slope
        entries = curvature.quadratic(weight)
        entries *= np.square(slope)
        entries += bend
        into["w1"] += np.square(x).T @ entries
        into["b1"] += entries.sum(axis=0)
        k, d = self.context, self.dim
        by_slot = w1.reshape(k, d, -1)
        step = max(1, _FLOATS // (self.hidden * max(self.vocab_size, self.hidden, k * d)))
        for low in range(0, inputs.shape[0], step):
            rows = slice(low, low + step)
            whole = curvature.between(weight, rows)
            whole *= slope[rows, :, None] * slope[rows, None, :]
            whole[:, np.arange(self.hidden), np.arange(self.hidden)] += bend[rows]
            # The first slot that holds a token stands for all that do: `same[r, first, slot]`.
            ids = inputs[rows]
            same = ids[:, :, None] == ids[:, None, :]
            first = same.argmax(axis=1) == np.arange(k)
            used = (same & first[:, :, None]).astype(w1.dtype)
            joined = np.einsum("rfs,sdh->rfdh", used, by_slot).reshape(ids.shape[0], k * d, -1)
            values = np.einsum("rah,rah->ra", joined @ whole, joined)
            add_rows(into["embedding"], ids.reshape(-1), values.reshape(-1, d))

    def _embedded(self, params: Params, inputs: Array) -> Array:
        """The embeddings of the contexts one beside the other, (N, k D)."""
        rows: Array = np.take(params["embedding"], inputs, axis=0, mode="clip").reshape(inputs.shape[0], -1)
        return rows

    def config(self) -> dict[str, Any]:
        """Return the name, V, k, D and H."""
        sizes = {"vocab_size": self.vocab_size, "context": self.context, "dim": self.dim, "hidden": self.hidden}
        return {"name": self.name, **sizes}


def _uniform(seed: int, stream: int, shape: tuple[int, ...], deviation: float) -> Array:
    """Float64 numbers, uniform around 0 with a standard deviation: the top 53 bits of a hash of each index."""
    keys = hash_keys(seed, stream, np.arange(math.prod(shape)))
    unit = (keys >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    return (unit * (math.sqrt(3.0) * deviation)).reshape(shape)
