"""Every exception that fastnll raises on purpose.

Messages read *name: expected X, got Y*, then the first bad position, how many there are and what to do.
Each class also derives from the builtin that a user would have caught before, so ``except ValueError``
around a loss keeps working.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "DTypeError",
    "DataError",
    "FastnllError",
    "LabelError",
    "OptionError",
    "ShapeError",
    "VerificationError",
]


class FastnllError(Exception):
    """Base class of all errors raised by fastnll."""


class ShapeError(FastnllError, ValueError):
    """An array has the wrong shape, number of axes or axis."""


class DTypeError(FastnllError, TypeError):
    """An array has a dtype the operation is not defined for."""


class LabelError(FastnllError, IndexError, ValueError):
    """A target is not a class id."""


class OptionError(FastnllError, ValueError):
    """An option has a value, or a combination of values, that means nothing."""


class DataError(FastnllError, ValueError):
    """A dataset, text file, run folder or checkpoint cannot be used."""


class BackendError(FastnllError, RuntimeError):
    """A backend, instruction set or thread count was asked for that is not available here."""


class VerificationError(FastnllError, ArithmeticError):
    """A result does not agree with its recomputation in float64, or is not finite where that was asked."""
