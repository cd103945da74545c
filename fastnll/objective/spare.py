"""Memory that is used again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import Any

__all__ = ["Spare"]


class Spare:
    """What threads lend each other: arrays that were used and will be again, by what they are for.

    Fresh memory costs more than it seems: the system clears every page, and each costs a fault. What a step of training
    has used waits here for the next one.

    Examples
    --------
    >>> spare = Spare()
    >>> spare.give("logits", [1, 2])
    >>> spare.take("logits"), spare.take("logits")
    ([1, 2], None)
    """

    def __init__(self) -> None:
        # Adding to a list and taking from it are single steps of the interpreter.
        self._waiting: defaultdict[Hashable, list[Any]] = defaultdict(list)

    def take(self, key: Hashable) -> Any:
        """Return something that was given under this name, or None."""
        try:
            return self._waiting[key].pop()
        except IndexError:
            return None

    def give(self, key: Hashable, value: Any) -> None:
        """Keep something for whoever asks next."""
        self._waiting[key].append(value)
