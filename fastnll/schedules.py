"""Learning rates as functions of the step.

A schedule is any callable ``step -> lr``; step 0 is the first update. Those here are frozen dataclasses: they
print themselves, compare equal and can be pickled into a worker, which a closure cannot.

Sources: P. Goyal et al., "Accurate, large minibatch SGD" (2017), for the linear warm-up; I. Loshchilov and
F. Hutter, "SGDR" (2017), equation 5, for the cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastnll.errors import OptionError

__all__ = ["Schedule", "constant", "cosine", "linear_warmup"]

Schedule = Callable[[int], float]


def check_rate(name: str, value: object, *, least: float = 0.0) -> float:
    """`value` as a finite float of at least `least`, else `OptionError`.

    Examples
    --------
    >>> check_rate("lr", 1)
    1.0
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise OptionError(f"{name}: expected a number of at least {least:g}, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number >= least):
        raise OptionError(f"{name}: expected a finite number of at least {least:g}, got {number:g}")
    return number


def _check_steps(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise OptionError(f"{name}: expected an integer of at least {least}, got {value!r}")


@dataclass(frozen=True)
class constant:  # noqa: N801 - called like a function
    """The same learning rate at every step.

    Parameters
    ----------
    lr : float
        At least 0.

    Raises
    ------
    OptionError
        For a rate that is negative or not finite.

    Examples
    --------
    >>> constant(0.5)(1000)
    0.5
    """

    lr: float

    def __post_init__(self) -> None:
        check_rate("lr", self.lr)

    def __call__(self, step: int) -> float:
        """The rate of update `step`, counted from 0."""
        return float(self.lr)


@dataclass(frozen=True)
class linear_warmup:  # noqa: N801
    """From lr / warmup_steps up to `lr` in `warmup_steps` equal stairs, then constant.

    The first step moves already (a rate of 0 would waste it), and step ``warmup_steps - 1`` is the first at full rate.

    Parameters
    ----------
    lr : float
        The rate after the warm-up.
    warmup_steps : int
        At least 0; 0 is `constant`.

    Raises
    ------
    OptionError
        For a rate that is negative or not finite, or a count that is no integer of at least 0.

    Examples
    --------
    >>> [linear_warmup(1.0, 4)(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    lr: float
    warmup_steps: int

    def __post_init__(self) -> None:
        check_rate("lr", self.lr)
        _check_steps("warmup_steps", self.warmup_steps, 0)

    def __call__(self, step: int) -> float:
        """The rate of update `step`, counted from 0."""
        return float(self.lr) * min(1.0, (step + 1) / max(1, self.warmup_steps))


@dataclass(frozen=True)
class cosine:  # noqa: N801
    """Linear warm-up, then half a cosine from `lr` down to `final`.

    With t the share of the steps after the warm-up that are done, the rate is
    ``final + (lr - final) * (1 + cos(pi * t)) / 2``. It is `final` from `total_steps` on.

    Parameters
    ----------
    lr : float
        The highest rate.
    total_steps : int
        Steps of the whole run, warm-up included; at least 1.
    warmup_steps : int, default 0
        Fewer than `total_steps`.
    final : float, default 0.0
        The rate at the end, in the units of `lr`.

    Raises
    ------
    OptionError
        For a rate that is negative or not finite, or step counts that leave nothing to fall along.

    Examples
    --------
    >>> [round(cosine(1.0, 4)(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    >>> cosine(1.0, 10, warmup_steps=2)(0)
    0.5
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_rate("lr", self.lr)
        check_rate("final", self.final)
        _check_steps("total_steps", self.total_steps, 1)
        _check_steps("warmup_steps", self.warmup_steps, 0)
        if self.warmup_steps >= self.total_steps:
            raise OptionError(
                f"warmup_steps: expected fewer than total_steps={self.total_steps}, got {self.warmup_steps}; "
                "train for more steps or warm up for fewer"
            )

    def __call__(self, step: int) -> float:
        """The rate of update `step`, counted from 0."""
        if step < self.warmup_steps:
            return float(self.lr) * (step + 1) / self.warmup_steps
        share = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.final + (self.lr - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))
