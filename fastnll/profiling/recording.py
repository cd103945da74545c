"""What a profile has recorded: events, steps, totals of the process, and who recorded them. Plain data."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastnll.events import Event, call_of

__all__ = ["Recording", "Step", "Usage", "detect_rank", "usage"]

# Where launchers say which process of how many this is.
_RANK = (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"),
         ("RANK", "WORLD_SIZE"))  # fmt: skip


class Usage(NamedTuple):
    """What the system counted for this process so far."""

    minor_faults: int
    major_faults: int
    cpu_ns: int


def usage() -> Usage:
    """Return the page faults and CPU time of this process so far; faults are 0 where the system does not count them.

    Examples
    --------
    >>> usage().cpu_ns > 0
    True
    """
    try:
        import resource
    except ImportError:
        return Usage(0, 0, time.process_time_ns())
    found = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(found.ru_minflt, found.ru_majflt, time.process_time_ns())


class Step(NamedTuple):
    """One training step.

    Attributes
    ----------
    number : int
        Counted from 0, steps that were not recorded included.
    start, end : int
        Nanoseconds of the profile's clock.
    loss : float or None
        Nats per token, where the loop said.
    tokens : int or None
    minor_faults, major_faults : int
        Pages that were touched for the first time; pages that had to be read from disk.
    """

    number: int
    start: int
    end: int
    loss: float | None
    tokens: int | None
    minor_faults: int
    major_faults: int


@dataclass
class Recording:
    """Everything a report is made of.

    Attributes
    ----------
    events : list of Event
    windows : list of (int, int)
        Stretches of the clock in which events were recorded.
    steps : list of Step
    dropped : int
        Events beyond the limit, which are not in `events`.
    minor_faults, major_faults, cpu_ns : int
        Totals over the windows.
    thread : int
        The thread that profiled.
    thread_names : dict of int to str
    facts : dict
        What the library says about itself: backend, isa, threads, cores, ...
    rank, size : int
        Which process of how many.
    epoch_ns : int
        What to add to the profile's clock for nanoseconds since 1970.
    """

    events: list[Event] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    dropped: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    cpu_ns: int = 0
    thread: int = field(default_factory=threading.get_ident)
    thread_names: dict[int, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    size: int = 1
    epoch_ns: int = field(default_factory=lambda: time.time_ns() - time.perf_counter_ns())

    @property
    def wall_ns(self) -> int:
        """Nanoseconds that were recorded."""
        return sum(end - start for start, end in self.windows)

    def copy(self) -> Recording:
        """Return the same in lists of its own."""
        lists = {name: list(getattr(self, name)) for name in ("events", "windows", "steps")}
        dicts = {name: dict(getattr(self, name)) for name in ("thread_names", "facts")}
        return Recording(**{**self.__dict__, **lists, **dicts})

    def of_steps(self) -> Recording:
        """Return what lies between the first step's start and the last one's end, and the same where none was marked.

        Examples
        --------
        >>> steps = [Step(0, 10, 20, None, None, 0, 0), Step(1, 20, 40, None, None, 0, 0)]
        >>> made = Recording(events=[(0, 30, 1, 5, "epoch", None), (50, 60, 1, 0, "op", None)], steps=steps)
        >>> made.of_steps().events, made.of_steps().windows
        ([(10, 30, 1, 5, 'epoch', None)], [(10, 20), (20, 40)])
        """
        if not self.steps:
            return self
        low, high = self.steps[0].start, self.steps[-1].end
        inside = [(max(e[0], low), min(e[1], high), *e[2:]) for e in self.events if e[0] <= high and e[1] >= low]
        windows = [(step.start, step.end) for step in self.steps]
        minor = sum(step.minor_faults for step in self.steps)
        return Recording(**{**self.__dict__, "events": inside, "windows": windows, "minor_faults": minor})

    def trimmed(self) -> Recording:
        """Return the same without the time before the first event and after the last: imports, loading, reports.

        Examples
        --------
        >>> recording = Recording(events=[(40, 60, 1, 0, "op", None)], windows=[(0, 100)])
        >>> recording.trimmed().windows
        [(40, 60)]
        """
        if not self.events:
            return self
        low = min(event[0] for event in self.events)
        high = max(event[1] for event in self.events)
        windows = [(max(a, low), min(b, high)) for a, b in self.windows if b > low and a < high]
        # What was counted over the whole is not known for a part, but where steps or large calls say so.
        found = [call.usage for event in self.events if (call := call_of(event)) is not None]
        calls = sum(used[0] for used in found if used is not None)
        minor = sum(step.minor_faults for step in self.steps) if self.steps else calls
        major = sum(step.major_faults for step in self.steps)
        return Recording(**{**self.__dict__, "windows": windows, "minor_faults": minor, "major_faults": major})


def detect_rank(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return (rank, number of processes) of this process, from MPI if it is loaded, else from its launcher.

    Examples
    --------
    >>> detect_rank({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"})
    (2, 4)
    >>> detect_rank({})
    (0, 1)
    """
    if environment is None:
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
            return int(mpi.COMM_WORLD.Get_rank()), int(mpi.COMM_WORLD.Get_size())
        environment = os.environ
    for rank, size in _RANK:
        if environment.get(rank, "").isdigit() and environment.get(size, "").isdigit():
            return int(environment[rank]), int(environment[size])
    return 0, 1
