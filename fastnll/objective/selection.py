"""argmin over a list: which of some losses is the least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from fastnll.errors import OptionError

__all__ = ["select"]

Key = TypeVar("Key")


def select(losses: Mapping[Key, Any]) -> tuple[Key, float]:
    """Return the key of the least loss, and that loss.

    Parameters
    ----------
    losses : mapping from anything to a number
        Infinite losses (an outcome that happened had probability 0) compare as they should. A NaN is no loss
        and never selected.

    Returns
    -------
    key, loss
        Of equal losses, the first.

    Raises
    ------
    OptionError
        No candidate, none that is a number, or a value that is not numeric.

    Notes
    -----
    What a lower *training* loss proves: these parameters give the data they were fitted to a higher probability,
    and, where both losses come from the same family of models, they are nearer to its maximum likelihood.
    What it does not prove: that they predict other data better. A larger family reaches a lower training loss
    whatever the truth is (a model that memorises the data reaches the least of all), so between models of
    different size, or trained for different lengths of time, compare losses on sequences that none of them saw.

    Examples
    --------
    >>> select({1: 0.8, 2: 0.3, 3: 0.1, 4: 0.5})
    (3, 0.1)
    """
    if not isinstance(losses, Mapping):
        raise OptionError(f"losses: expected a mapping from candidates to numbers, got {type(losses).__name__}")
    if not losses:
        raise OptionError("losses: expected at least one candidate, got none")
    numbers = {key: _number(key, value) for key, value in losses.items()}
    alive = [key for key, value in numbers.items() if not math.isnan(value)]
    if not alive:
        raise OptionError(f"losses: expected at least one number, got {len(numbers)} times nan")
    best = min(alive, key=numbers.__getitem__)
    return best, numbers[best]


def _number(key: object, value: Any) -> float:
    if isinstance(value, (str, bytes, bool)):
        raise OptionError(f"losses[{key!r}]: expected a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(f"losses[{key!r}]: expected a number, got {type(value).__name__}") from None
