"""The neural probabilistic language model: embeddings of the last k tokens, one hidden layer, a softmax."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnll.data.checks import integer
from fastnll.data.order import hash_keys
from fastnll.models.base import Grads, HeadModel, HiddenVjp, Params
from fastnll.models.ids import add_rows, check_ids
from fastnll.models.spans import Data

__all__ = ["NGram"]

Array = npt.NDArray[Any]


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

    def hidden_and_vjp(self, params: Params, inputs: Array) -> tuple[Array, HiddenVjp | None]:
        """Return tanh(x W1 + b1), (N, H), and its vector-Jacobian product into embedding, w1 and b1."""
        check_ids("inputs", inputs, self.vocab_size + 1)
        embedding, w1 = params["embedding"], params["w1"]
        x = np.take(embedding, inputs, axis=0, mode="clip").reshape(inputs.shape[0], -1)
        hidden = x @ w1
        hidden += params["b1"]
        np.tanh(hidden, out=hidden)

        def vjp(grad: Array, into: Grads) -> None:
            # d tanh(a) = 1 - tanh(a)^2; `grad` is ours to overwrite.
            slope = np.square(hidden)
            np.subtract(1.0, slope, out=slope)
            grad *= slope
            into["w1"] += x.T @ grad
            into["b1"] += grad.sum(axis=0)
            add_rows(into["embedding"], inputs.reshape(-1), (grad @ w1.T).reshape(-1, self.dim))

        return hidden, vjp

    def config(self) -> dict[str, Any]:
        """Return the name, V, k, D and H."""
        sizes = {"vocab_size": self.vocab_size, "context": self.context, "dim": self.dim, "hidden": self.hidden}
        return {"name": self.name, **sizes}


def _uniform(seed: int, stream: int, shape: tuple[int, ...], deviation: float) -> Array:
    """Float64 numbers, uniform around 0 with a standard deviation: the top 53 bits of a hash of each index."""
    keys = hash_keys(seed, stream, np.arange(math.prod(shape)))
    unit = (keys >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    return (unit * (math.sqrt(3.0) * deviation)).reshape(shape)
