"""Naming parts of one's own loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from fastnll import events

__all__ = ["record_function"]

P = ParamSpec("P")
Result = TypeVar("Result")


class record_function:  # noqa: N801 - reads as a statement, and is torch's name
    """Give a block of code, or every call of a function, a name in the profile.

    Parameters
    ----------
    name : str
        A block named "data" or "data: ..." counts as waiting for data.

    Raises
    ------
    ValueError
        For a name that is no text.

    Examples
    --------
    >>> import fastnll
    >>> @fastnll.record_function("forward")
    ... def forward(x):
    ...     return x + 1
    >>> with fastnll.profile(limits=None) as prof:
    ...     with fastnll.record_function("data: toy"):
    ...         x = 1
    ...     y = forward(x)
    >>> [(row.key, row.kind) for row in prof.key_averages()][:2]
    [('data: toy', 'data'), ('forward', 'user')]
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise ValueError(f"name: expected text, got {name!r}")
        self.name = name
        self._kind = events.WAIT if name == "data" or name.startswith("data:") else events.USER
        self._open: list[tuple[events.Recorder | None, int]] = []

    def __enter__(self) -> record_function:
        self._open.append((events.active, events.clock()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorder, start = self._open.pop()
        if recorder is not None:
            recorder.done(self._kind, self.name, start)

    def __call__(self, function: Callable[P, Result]) -> Callable[P, Result]:
        """Return the function, recorded at every call."""

        @functools.wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> Result:
            return events.timed(self._kind, self.name, function, *args, **kwargs)

        return recorded
