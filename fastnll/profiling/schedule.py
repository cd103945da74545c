"""Which steps of a long run are recorded, with the words of ``torch.profiler``."""

from __future__ import annotations

import enum
from collections.abc import Callable

__all__ = ["ProfilerAction", "always", "schedule"]


class ProfilerAction(enum.Enum):
    """What a profile does during a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0
) -> Callable[[int], ProfilerAction]:
    """Return a function from the number of a step to what the profile does in it.

    Parameters
    ----------
    wait : int
        Steps of a cycle in which nothing is recorded.
    warmup : int
        Steps after that in which events are recorded and thrown away: compilation and first touches do not count.
    active : int
        Steps that are kept, at least 1.
    repeat : int
        Number of cycles; 0 goes on until the end.
    skip_first : int
        Steps before the first cycle.

    Raises
    ------
    ValueError
        For a number below 0, or no active step.

    Examples
    --------
    >>> plan = schedule(wait=1, warmup=1, active=2, repeat=1)
    >>> [plan(step).name for step in range(5)]
    ['NONE', 'WARMUP', 'RECORD', 'RECORD_AND_SAVE', 'NONE']
    """
    given = {"wait": wait, "warmup": warmup, "active": active, "repeat": repeat, "skip_first": skip_first}
    for name, value in given.items():
        least = 1 if name == "active" else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    length = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        step -= skip_first
        if step < 0 or (repeat and step >= repeat * length):
            return ProfilerAction.NONE
        position = step % length
        if position < wait:
            return ProfilerAction.NONE
        if position < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if position < length - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


def always(step: int) -> ProfilerAction:
    """Record every step.

    Examples
    --------
    >>> always(7).name
    'RECORD'
    """
    return ProfilerAction.RECORD
