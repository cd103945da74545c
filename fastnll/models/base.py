"""What a model is: parameters in, logits and a vector-Jacobian product out.

A model holds no parameters and no data. Parameters are a plain ``dict[str, ndarray]``, so that an optimiser, a
checkpoint and a message to another process are loops over a dict.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from fastnll.data.checks import integer
from fastnll.data.sequences import SequenceDataset
from fastnll.dtypes import FLOATS
from fastnll.errors import DTypeError, OptionError, ShapeError
from fastnll.models.curvature import Curvature
from fastnll.models.spans import Data, Spans

__all__ = ["Examples", "Grads", "HiddenVjp", "Model", "Params", "Pull", "Vjp", "compute_dtype"]

Array = npt.NDArray[Any]
Params = Mapping[str, Array]
Grads = dict[str, Array]
# vjp(grad_logits, into=None): adds to the arrays of `into` where given, else returns fresh ones.
Vjp = Callable[..., Grads]
HiddenVjp = Callable[[Array, Grads], None]
# pull(grad, grad_tangent, into): adds the tangent of what the vector-Jacobian product gives.
Pull = Callable[[Array, Array, Grads], None]


@functools.cache
def _name(dtype: np.dtype[Any]) -> str:
    # NumPy builds the name anew each time, in microseconds: more than a small model's whole loss.
    return dtype.name


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what parameters stored as `dtype` are computed in: float32 for 16 bits, else the same.

    Examples
    --------
    >>> compute_dtype(np.dtype("float16"))
    dtype('float32')
    """
    return FLOATS[_name(dtype)].compute


class Examples(NamedTuple):
    """Every predicted token of some sequences, with what it is predicted from.

    Attributes
    ----------
    inputs : ndarray, shape (N, ...)
        What the model conditions each row on; its own form.
    targets : ndarray of int, shape (N,)
        The predicted tokens, in their stored dtype.
    row_offsets : ndarray of int64, shape (B + 1,)
        Sequence b has the rows ``row_offsets[b]`` to ``row_offsets[b + 1]``.
    """

    inputs: Array
    targets: Array
    row_offsets: Array


class Model(ABC):
    """A distribution over the next token, given its predecessors.

    Parameters
    ----------
    vocab_size : int
        V, the number of classes.

    Attributes
    ----------
    name : str
        What `fastnll.models.make` calls it.
    convex : bool
        Whether the negative log-likelihood is convex in the parameters, so that a stationary point is the argmin.
    dtypes : tuple of str
        What its parameters may be stored as.
    context : int
        How many predecessors it looks at. With 0 every token of a sequence is predicted; otherwise the
        first one, which has no predecessor, is not: Loss(x) = -sum_i log p(x_{i+1} | x_0 .. x_i).

    Raises
    ------
    OptionError
        For a size that is not an integer of at least 1.
    """

    name: ClassVar[str]
    convex: ClassVar[bool]
    dtypes: ClassVar[tuple[str, ...]] = tuple(FLOATS)
    context: int = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = integer("vocab_size", vocab_size, 1)

    @property
    def skip(self) -> int:
        """How many tokens at the start of each sequence are not predicted."""
        return min(self.context, 1)

    @property
    def row_size(self) -> int:
        """Numbers that the work on one row keeps at hand: sizes the blocks in which rows are evaluated."""
        return self.vocab_size

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter, in the order they are kept in."""

    @abstractmethod
    def init(self, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Grads:
        """Return initial parameters, the same for the same seed on every machine."""

    @abstractmethod
    def inputs(self, data: Data, positions: Array, depth: Array) -> Array:
        """Return what the tokens at `positions`, each with `depth` predecessors, are predicted from."""

    @abstractmethod
    def logits_and_vjp(self, params: Params, inputs: Array, *, out: Array | None = None) -> tuple[Array, Vjp]:
        """Return the logits of every row and the function that pulls their gradient back.

        Parameters
        ----------
        params : dict of ndarray
        inputs : ndarray, shape (N, ...)
            From `inputs` or `examples`.
        out : ndarray, shape (N, V), optional
            Where the logits go, if it has their dtype.

        Returns
        -------
        logits : ndarray, shape (N, V)
        vjp : callable
            ``vjp(grad_logits, into=None)``: (N, V) gradient of the logits to a dict of parameter gradients,
            added to the arrays in `into` where given.
        """

    def logits_and_tangent(
        self, params: Params, tangent: Params, inputs: Array, *, out: Array | None = None
    ) -> tuple[Array, Array, Pull]:
        """Return the logits, their derivative in a direction, and the derivative of what pulls gradients back.

        Forward over reverse: with z(params) the logits and g, h the gradient of the loss by z and its derivative in
        the direction, the derivative of the parameters' gradient is what `pull` adds up: the product of the Hessian
        and the direction (B. A. Pearlmutter, "Fast exact multiplication by the Hessian", 1994).

        Parameters
        ----------
        params, tangent : dict of ndarray
            Where, and the direction.
        inputs : ndarray, shape (N, ...)
        out : ndarray, shape (N, V), optional
            Where the logits go, if it has their dtype.

        Returns
        -------
        logits, logits_tangent : ndarray, shape (N, V)
        pull : callable
            ``pull(grad, grad_tangent, into)`` adds to the arrays of `into`, and may overwrite the two it is given.

        Raises
        ------
        OptionError
            A model without second derivatives.
        """
        raise OptionError(f"model: expected one with second derivatives (logits_and_tangent), got {self.name!r}")

    def add_diagonal(self, params: Params, inputs: Array, grad: Array, curvature: Curvature, into: Grads) -> None:
        """Add the diagonal of the Hessian of the loss of some rows.

        Parameters
        ----------
        params : dict of ndarray
        inputs : ndarray, shape (N, ...)
        grad : ndarray, shape (N, V)
            Gradient of the loss by the logits.
        curvature : Curvature
            Its second derivative.
        into : dict of ndarray
            Added to.

        Raises
        ------
        OptionError
            A model without second derivatives.
        """
        raise OptionError(f"model: expected one with second derivatives (add_diagonal), got {self.name!r}")

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what `from_config` makes the same model from: plain JSON values, the name among them."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the model that `config` describes.

        Raises
        ------
        OptionError
            If the description is of another model.
        """
        if config.get("name", cls.name) != cls.name:
            raise OptionError(f"config: expected the name {cls.name!r}, got {config['name']!r}")
        return cls(**{key: value for key, value in config.items() if key != "name"})

    @property
    def n_parameters(self) -> int:
        """Numbers in all parameters together."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def examples(self, tokens: Any, offsets: Any = None) -> Examples:
        """Return every predicted token of ragged sequences with what it is predicted from.

        Parameters
        ----------
        tokens : array of int, shape (M,)
        offsets : array of int, shape (B + 1,), optional
            Default: one sequence.

        Examples
        --------
        >>> from fastnll.models import Bigram
        >>> for rows in Bigram(10).examples([3, 1, 4, 1, 5], [0, 3, 5]):
        ...     print(rows)
        [3 1 1]
        [1 4 5]
        [0 2 3]
        """
        data = SequenceDataset(tokens, offsets)
        spans = Spans.of(data, self.skip)
        positions, depth = spans.rows(0, spans.n_rows)
        return Examples(self.inputs(data, positions, depth), data.tokens[positions], spans.row_ends)

    def zeros(self, params: Params) -> Grads:
        """Return zeros to add gradients to: the parameters' shapes, float32 where these have 16 bits."""
        return {name: np.zeros(shape, compute_dtype(params[name].dtype)) for name, shape in self.shapes().items()}

    def check_params(self, params: Params, name: str = "params") -> Grads:
        """Return the parameters as arrays in the model's order; `name` is what an error calls them.

        Raises
        ------
        OptionError
            A name that is missing or unknown.
        ShapeError
            An array of another shape.
        DTypeError
            No floats, or not the same float dtype in all.
        """
        shapes = self.shapes()
        if not isinstance(params, Mapping):
            raise OptionError(f"{name}: expected a dict with {_names(shapes)}, got {type(params).__name__}")
        if params.keys() != shapes.keys():
            unknown, missing = (_names(a.keys() - b.keys()) for a, b in ((params, shapes), (shapes, params)))
            parts = [f"unknown {unknown}" if unknown else "", f"missing {missing}" if missing else ""]
            raise OptionError(
                f"{name}: expected exactly {_names(shapes)} for model {self.name!r}, "
                f"got {_names(params) or 'none'} ({', '.join(filter(None, parts))})"
            )
        arrays = {key: np.asarray(params[key]) for key in shapes}
        for key, array in arrays.items():
            if array.shape != shapes[key]:
                raise ShapeError(
                    f"{name}[{key!r}]: expected shape {shapes[key]} for model {self.name!r}, got {array.shape}"
                )
            self.check_dtype(f"{name}[{key!r}]", array.dtype)
        if len({array.dtype for array in arrays.values()}) > 1:
            found = ", ".join(f"{key} {array.dtype}" for key, array in arrays.items())
            raise DTypeError(f"{name}: expected one float dtype for all, got {found}")
        return arrays

    def check_dtype(self, name: str, dtype: npt.DTypeLike) -> np.dtype[Any]:
        """Return the NumPy dtype if the model's parameters can be stored in it, else raise DTypeError."""
        kind = np.dtype(dtype)
        if _name(kind) not in self.dtypes or not kind.isnative:
            raise DTypeError(f"{name}: expected dtype {', '.join(self.dtypes)} for model {self.name!r}, got {kind}")
        return kind

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.config().items() if key != "name")
        return f"{type(self).__name__}({options})"


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names, key=str))
