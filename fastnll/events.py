"""Where the operations report to while somebody profiles: one switch, and what may be thrown at it.

`active` is None, or the recorder of `fastnll.profile`. An operation asks for it once, by its module attribute, and that
branch is all that profiling costs while it is off. The module stands below everything else: operations and the profiler
both know it, and neither has to know the other.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

__all__ = [
    "KERNEL",
    "OP",
    "SHORT",
    "SPAN",
    "USER",
    "WAIT",
    "Call",
    "Event",
    "Recorder",
    "active",
    "attach",
    "call_of",
    "clock",
    "detach",
    "facts",
    "framed",
    "notes",
    "step",
    "timed",
    "waiting",
    "watchers",
]

Item = TypeVar("Item")
P = ParamSpec("P")

clock = time.perf_counter_ns
_thread = threading.get_ident

# Kinds of events: a public operation; a backend's function; both in one (the short way of small batches); a part of the
# library that calls others; waiting for data; a block that the user named.
OP, KERNEL, SHORT, SPAN, WAIT, USER = range(6)

# start and end (nanoseconds of `clock`), thread, kind, name, and for KERNEL and SHORT what was noted of the call: a
# tuple whose first element is the key of a function in `notes` that makes a `Call` of the tuple. Making one at once
# would take as long as everything else. There are only numbers, texts and dtypes in an event, tuples of them included:
# such tuples the garbage collector forgets at first sight, while a long list of others would be walked at every turn.
Event = tuple[int, int, int, int, str, tuple[Any, ...] | None]


class Call(NamedTuple):
    """What a kernel was called with: plain numbers and names, no array is kept alive.

    Attributes
    ----------
    spec : OpSpec
        Line of the op table; has ``name`` and ``model_bytes(n, v, itemsize, mode)``.
    mode : str
        As `model_bytes` takes it.
    shape : tuple of int
        Of the array that the kernel walks: (outer, inner, V) for logits, (size,) for parameters and targets.
    dtype : numpy dtype
        Of that array.
    stride : int
        Bytes from one class to the next.
    threads : int
        Threads the kernel ran on.
    backend : str
    isa : str or None
        Pinned by ``using(isa=...)``; None: the default.
    exps : int
        Exponentials an element.
    fresh : int
        Bytes of a result whose memory came from the allocator: new, or that of an earlier result.
    usage : tuple or None
        (page faults, process CPU before, thread CPU before, process CPU after, thread CPU after), CPU times in
        nanoseconds; None for small calls, where asking would cost more than it tells.
    flops : int
        Floating-point operations of a matrix product; 0: those of the formula, an element.
    """

    spec: Any
    mode: str
    shape: tuple[int, ...]
    dtype: Any
    stride: int
    threads: int
    backend: str
    isa: str | None
    exps: int
    fresh: int
    usage: tuple[int, int, int, int, int] | None
    flops: int = 0


class Recorder:
    """A bounded list of events; any thread may add to it.

    Parameters
    ----------
    limit : int
        Events kept; later ones are only counted.

    Examples
    --------
    >>> recorder = Recorder(1)
    >>> recorder.done(USER, "first", clock()); recorder.done(USER, "second", clock())
    >>> len(recorder.items), recorder.dropped
    (1, 1)
    """

    def __init__(self, limit: int) -> None:
        self.items: list[Event] = []
        self.limit = limit
        self.dropped = 0
        self._lock = threading.Lock()

    def add(self, event: Event) -> None:
        """Keep an event, or count it as dropped."""
        items = self.items
        if len(items) < self.limit:
            items.append(event)
        else:
            with self._lock:
                self.dropped += 1

    def done(self, kind: int, name: str, start: int) -> None:
        """Keep an event that began at `start`, on this thread, and ends now."""
        self.add((start, clock(), _thread(), kind, name, None))


class _Several(Recorder):
    """Passes events on to the recorders of nested profiles."""

    def __init__(self, recorders: list[Recorder]) -> None:
        super().__init__(0)
        self._recorders = tuple(recorders)

    def add(self, event: Event) -> None:
        for recorder in self._recorders:
            recorder.add(event)


# The switch. Read it as ``events.active``, once a call: another thread may turn it.
active: Recorder | None = None
_attached: list[Recorder] = []
_switch = threading.Lock()

# Called after every training step with its loss (nats per token) and tokens, whether or not events are recorded.
watchers: list[Callable[[float | None, int | None], None]] = []

# How to make a `Call` of what was noted.
notes: dict[str, Callable[[tuple[Any, ...]], Call]] = {}

# What a report says about this installation, by name; modules that know it add a function.
facts: dict[str, Callable[[], Any]] = {}


def call_of(event: Event) -> Call | None:
    """Return what the kernel of an event was called with; None for events of other kinds."""
    noted = event[5]
    return None if noted is None else notes[noted[0]](noted)


def _turn() -> None:
    global active
    active = None if not _attached else _attached[0] if len(_attached) == 1 else _Several(_attached)


def attach(recorder: Recorder) -> None:
    """Send events to a recorder, beside those that get them already.

    Examples
    --------
    >>> recorder = Recorder(10)
    >>> attach(recorder)
    >>> timed(USER, "a block", len, "abc")
    3
    >>> detach(recorder)
    >>> [event[4] for event in recorder.items]
    ['a block']
    """
    with _switch:
        _attached.append(recorder)
        _turn()


def detach(recorder: Recorder) -> None:
    """Stop sending events to a recorder; nothing happens if it gets none.

    Examples
    --------
    >>> detach(Recorder(1))
    """
    with _switch:
        _attached[:] = [other for other in _attached if other is not recorder]
        _turn()


def step(loss: float | None = None, tokens: int | None = None) -> None:
    """Tell whoever watches that a training step has ended.

    Examples
    --------
    >>> step(2.3, tokens=4096)
    """
    for watch in tuple(watchers):
        watch(loss, tokens)


def timed(kind: int, name: str, function: Callable[..., Item], *args: Any, **kwargs: Any) -> Item:
    """Return ``function(*args, **kwargs)``, recorded while somebody profiles, also where it raises.

    Examples
    --------
    >>> timed(SPAN, "a sum", sum, [1, 2])
    3
    """
    recorder = active
    if recorder is None:
        return function(*args, **kwargs)
    start = clock()
    try:
        return function(*args, **kwargs)
    finally:
        recorder.done(kind, name, start)


def framed(name: str, kind: int = SPAN) -> Callable[[Callable[P, Item]], Callable[P, Item]]:
    """Return a decorator: every call is an event of that name while somebody profiles.

    Examples
    --------
    >>> framed("the length")(len)("abc")
    3
    """

    def decorate(function: Callable[P, Item]) -> Callable[P, Item]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Item:
            if active is None:
                return function(*args, **kwargs)
            return timed(kind, name, function, *args, **kwargs)

        return call

    return decorate


def waiting(iterable: Iterable[Item], name: str = "data") -> Iterator[Item]:
    """Yield what an iterable yields; while somebody profiles, the time until it does counts as waiting for data.

    Examples
    --------
    >>> list(waiting([1, 2]))
    [1, 2]
    """
    iterator = iter(iterable)
    end = object()
    while True:
        recorder = active
        start = clock() if recorder is not None else 0
        item: Any = next(iterator, end)
        if recorder is not None:
            recorder.done(WAIT, name, start)
        if item is end:
            return
        yield item


def _forget() -> None:
    """Leave a forked child alone: its events would go to lists that nobody reads."""
    global _switch
    _switch = threading.Lock()  # one that was held during the fork stays locked in the child
    _attached.clear()
    watchers.clear()
    _turn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
