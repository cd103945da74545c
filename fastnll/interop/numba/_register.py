"""What Numba calls, by the entry point, before it compiles anything."""

from __future__ import annotations

__all__ = ["init"]


def init() -> None:
    """Tell Numba what fastnll's functions compile to. Importing the modules does; they compile nothing yet.

    Examples
    --------
    >>> import numba, numpy as np, fastnll as fn
    >>> @numba.njit
    ... def perplexity(logits, targets):
    ...     return np.exp(fn.cross_entropy(logits, targets))
    >>> round(perplexity(np.zeros((3, 5)), np.array([0, 1, 2])), 6)
    5.0
    """
    from fastnll.interop.numba import _cross_entropy, _details, _gather, _linear, _sgd, _softmax  # noqa: F401
