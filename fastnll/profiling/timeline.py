"""From a heap of events to who called whom, and to which of them each moment of the clock belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from fastnll.events import SPAN, USER, Event

__all__ = ["Timeline", "build"]

# Kinds that may do nothing but wait for the threads they have started.
_PASSIVE = (SPAN, USER)


@dataclass
class Timeline:
    """Per event, in the order of the list it was made from.

    Attributes
    ----------
    parent : list of int
        The event around it on the same thread, -1 for none.
    self_ns : list of int
        Its duration without that of the events inside it.
    wall_ns : list of float
        The part of the clock that is its own: each moment belongs to the innermost events of that moment, shared
        evenly between threads; a thread that is inside a mere frame (a named block, an objective) while others
        compute is taken to wait for them. The sum over all events is the time in which anything ran.
    lane : list of int
        0; 1 and above for events that overlap another of their thread without being inside it (generators,
        coroutines), which a trace has to draw elsewhere.
    """

    parent: list[int] = field(default_factory=list)
    self_ns: list[int] = field(default_factory=list)
    wall_ns: list[float] = field(default_factory=list)
    lane: list[int] = field(default_factory=list)


def build(events: Sequence[Event]) -> Timeline:
    """Work out the nesting of events.

    Examples
    --------
    >>> line = build([(2, 5, 1, 1, "inner", None), (0, 10, 1, 0, "outer", None)])
    >>> line.parent, line.self_ns, line.wall_ns
    ([1, -1], [3, 7], [3.0, 7.0])
    """
    n = len(events)
    line = Timeline([-1] * n, [end - start for start, end, *_ in events], [0.0] * n, [0] * n)
    threads: dict[int, list[int]] = {}
    for i, event in enumerate(events):
        threads.setdefault(event[2], []).append(i)
    # Moments at which an event begins (+1) or ceases (-1) to be the innermost of its thread.
    turns: list[tuple[int, int, int]] = []
    for members in threads.values():
        members.sort(key=lambda i: (events[i][0], -events[i][1], -i))
        _nest(events, members, line, turns)
    turns.sort(key=itemgetter(0))  # stable: turns of one moment keep the order in which they happened
    _share(events, turns, line.wall_ns)
    return line


def _nest(events: Sequence[Event], members: list[int], line: Timeline, turns: list[tuple[int, int, int]]) -> None:
    """Nest the events of one thread, sorted by start, longer first (of equals, the one that ended later first)."""
    stack: list[int] = []
    floating: list[int] = []

    def leave(moment: int) -> None:
        while stack and events[stack[-1]][1] <= moment:
            gone = stack.pop()
            turns.append((events[gone][1], -1, gone))
            if stack:
                turns.append((events[gone][1], 1, stack[-1]))

    for i in members:
        start, end = events[i][0], events[i][1]
        leave(start)
        if stack and end > events[stack[-1]][1]:
            # Neither inside nor behind: drawn in a lane of its own, and no frame of anything.
            busy = {line.lane[j] for j in floating if events[j][1] > start}
            line.lane[i] = next(lane for lane in range(1, len(floating) + 2) if lane not in busy)
            floating.append(i)
            turns += [(start, 1, i), (end, -1, i)]
            continue
        if stack:
            line.parent[i] = stack[-1]
            line.self_ns[stack[-1]] -= end - start
            turns.append((start, -1, stack[-1]))
        turns.append((start, 1, i))
        stack.append(i)
    leave(max((events[i][1] for i in members), default=0))


def _share(events: Sequence[Event], turns: list[tuple[int, int, int]], wall: list[float]) -> None:
    """Deal the time between neighbouring turns to the events that are innermost then."""
    busy: dict[int, None] = {}
    passive: dict[int, None] = {}
    before = 0
    for moment, sign, i in turns:
        if moment > before:
            owners = busy or passive
            for owner in owners:
                wall[owner] += (moment - before) / len(owners)
            before = moment
        group = passive if events[i][3] in _PASSIVE else busy
        if sign > 0:
            group[i] = None
        else:
            group.pop(i, None)
