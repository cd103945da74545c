"""The global norm of a set of gradients, and the factor that clips it.

Source: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks"
(2013), algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.errors import FastnllError

__all__ = ["DivergenceError", "clip_factor", "global_norm"]

# 16384 float64 are 128 KB: the widened block stays in the second-level cache.
_BLOCK = 16384


class DivergenceError(FastnllError, ArithmeticError):
    """A loss or a gradient is not finite any more: the run cannot go on from here."""


def global_norm(grads: Mapping[str, npt.NDArray[Any]], scale: float = 1.0) -> float:
    """Euclidean norm of all gradients taken as one long vector.

    Parameters
    ----------
    grads : dict of ndarray
        Any shapes and float dtypes. Not modified.
    scale : float, default 1.0
        The norm of ``scale * grads``, without forming it.

    Returns
    -------
    float
        Squares are formed and added in float64, block by block, and the blocks with `math.fsum`: no float32
        gradient overflows, and the result does not depend on threads.

    Raises
    ------
    DivergenceError
        If the norm is not finite: the first array, position and value that are not, and how many.

    Examples
    --------
    >>> global_norm({"w": np.array([[3.0]]), "b": np.array([4.0])})
    5.0
    """
    norm = math.sqrt(_sum(part for grad in grads.values() for part in _squares(grad))) * abs(scale)
    if not math.isfinite(norm):
        raise DivergenceError(_explain(grads, norm))
    return norm


def clip_factor(norm: float, max_norm: float) -> float:
    """The factor that brings gradients of that norm down to `max_norm`, never above 1.

    Parameters
    ----------
    norm : float
        From `global_norm`.
    max_norm : float
        The longest step wanted. The denominator has 1e-6 added, as in ``torch.nn.utils.clip_grad_norm_``.

    Examples
    --------
    >>> clip_factor(0.5, 1.0), round(clip_factor(4.0, 1.0), 5)
    (1.0, 0.25)
    """
    return min(1.0, max_norm / (norm + 1e-6))


def _squares(grad: npt.NDArray[Any]) -> Iterator[float]:
    flat = grad.reshape(-1)
    # An overflow, or a NaN from inf - inf, is looked for once, in the sum.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK].astype(np.float64)
            np.multiply(block, block, out=block)
            yield float(block.sum())


def _sum(parts: Iterable[float]) -> float:
    # fsum refuses a sum that overflows on the way, which here only says that the norm is infinite.
    try:
        return math.fsum(parts)
    except OverflowError:
        return math.inf


def _explain(grads: Mapping[str, npt.NDArray[Any]], norm: float) -> str:
    for name, grad in grads.items():
        values = np.asarray(grad, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            first = tuple(int(i) for i in np.unravel_index(int(bad[0]), values.shape))
            return (
                f"grads[{name!r}]: expected finite numbers, got {values[first]} at {first}; {bad.size} of "
                f"{values.size} are not finite; lower the learning rate, or look for infinities in the data"
            )
    return f"grads: expected a finite global norm, got {norm}; the squares overflow float64, scale the objective down"
