"""A recording with everything worked out: nesting, the model of each call, its limit; computed when first asked."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from fastnll.events import USER, WAIT, Call, call_of
from fastnll.profiling.faults import lost
from fastnll.profiling.recording import Recording
from fastnll.profiling.roofline import Bound
from fastnll.profiling.timeline import Timeline, build
from fastnll.profiling.work import Limits, Work, work_of

__all__ = ["Analysis", "Kernel"]


class Kernel(NamedTuple):
    """A kernel call of a recording.

    Attributes
    ----------
    event : int
        Its number in the list of events.
    seconds : float
    call : Call
    work : Work
    bound : Bound or None
        The least time it can take here, None where no limits are known.
    faults : int
        Page faults while it ran; 0 for small calls, which are not asked.
    """

    event: int
    seconds: float
    call: Call
    work: Work
    bound: Bound | None
    faults: int

    @property
    def fault_seconds(self) -> float:
        """About how long these took."""
        return lost(self.faults, self.work.written)


class Analysis:
    """What a recording means.

    Parameters
    ----------
    recording : Recording
    limits : Limits

    Examples
    --------
    >>> analysis = Analysis(Recording(events=[(2, 5, 1, 4, "data", None)], windows=[(0, 10)]), Limits(None))
    >>> round(1e9 * analysis.waiting), round(1e9 * analysis.outside)
    (3, 7)
    """

    def __init__(self, recording: Recording, limits: Limits) -> None:
        self.recording, self.limits = recording, limits
        self.events = recording.events

    @cached_property
    def line(self) -> Timeline:
        """Nesting, and the owner of each moment."""
        return build(self.events)

    @cached_property
    def kernels(self) -> list[Kernel]:
        """Every kernel call, in the order of the events."""
        models: dict[tuple[object, ...], tuple[Work, Bound | None]] = {}
        found = []
        for i, event in enumerate(self.events):
            call = call_of(event)
            if call is None:
                continue
            key = (call.spec.name, call.mode, call.shape, call.dtype, call.threads, call.exps, call.fresh)
            if key not in models:
                work = work_of(call)
                models[key] = work, self.limits.bound(work, call.threads)
            faults = 0 if call.usage is None else call.usage[0]
            found.append(Kernel(i, 1e-9 * (event[1] - event[0]), call, *models[key], faults))
        return found

    @property
    def wall(self) -> float:
        """Seconds that were recorded."""
        return 1e-9 * self.recording.wall_ns

    def wall_of(self, *kinds: int) -> float:
        """Return the seconds that belong to events of some kinds."""
        return 1e-9 * sum(own for own, event in zip(self.line.wall_ns, self.events, strict=True) if event[3] in kinds)

    @cached_property
    def unnamed(self) -> float:
        """Seconds in which no event ran."""
        return max(0.0, self.wall - 1e-9 * sum(self.line.wall_ns))

    @cached_property
    def outside(self) -> float:
        """Seconds outside fastnll, in blocks that the user named or in none."""
        return self.unnamed + self.wall_of(USER)

    @cached_property
    def waiting(self) -> float:
        """Seconds waiting for data."""
        return self.wall_of(WAIT)

    @cached_property
    def fault_seconds(self) -> float:
        """About how many seconds page faults took, those inside kernels and all others."""
        inside = sum(k.fault_seconds for k in self.kernels if k.faults)
        others = max(0, self.recording.minor_faults - sum(k.faults for k in self.kernels))
        return inside + lost(others, 0)

    @cached_property
    def tokens(self) -> int:
        """Tokens of the steps that said how many they had."""
        return sum(step.tokens or 0 for step in self.recording.steps)

    @cached_property
    def step_seconds(self) -> list[float]:
        """Duration of each step."""
        return [1e-9 * (step.end - step.start) for step in self.recording.steps]
