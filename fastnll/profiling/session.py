"""What runs while a profile does: the recorder that follows the schedule, and the marks of the steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from fastnll import events
from fastnll.profiling.recording import Recording, Step, Usage, detect_rank, usage
from fastnll.profiling.schedule import ProfilerAction, always

__all__ = ["Session"]

_RECORDS = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


class Session:
    """Starts, stops, follows a schedule and keeps what was recorded; options as for `fastnll.profile`."""

    def __init__(
        self,
        schedule: Callable[[int], ProfilerAction] | None,
        on_trace_ready: Callable[[Any], Any] | None,
        acc_events: bool,
        max_events: int,
        rank: tuple[int, int] | None,
    ) -> None:
        if schedule is not None and not callable(schedule):
            raise ValueError(f"schedule: expected a function from a step's number to an action, got {schedule!r}")
        if isinstance(max_events, bool) or not isinstance(max_events, int) or max_events < 1:
            raise ValueError(f"max_events: expected an integer of at least 1, got {max_events!r}")
        self._plan, self._ready, self._keep = schedule or always, on_trace_ready, bool(acc_events)
        self._max_events, self._rank = max_events, rank
        self._lock = threading.RLock()
        self._running = False
        self._reset()

    def _reset(self) -> None:
        self._done = Recording()
        self._recorder: events.Recorder | None = None
        self._action = ProfilerAction.NONE
        self._number = 0
        self._explicit = self._marked = False

    # Starting and stopping

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin, from nothing.

        Raises
        ------
        RuntimeError
            If it runs already.
        """
        with self._lock:
            if self._running:
                raise RuntimeError("profile: expected one start, got a second; make another profile to nest them")
            self._reset()
            # Asked for in the context that is profiled, where using(...) holds.
            self._done.facts.update(_facts("threads", "cores"))
            self._running = True
            events.watchers.append(self._watch)
            self._turn(self._plan(0))

    def stop(self) -> None:
        """End; nothing happens if it does not run."""
        with self._lock:
            if not self._running:
                return
            self._running = False
            if self._watch in events.watchers:
                events.watchers.remove(self._watch)
            recorded = self._action in _RECORDS
            self._turn(ProfilerAction.NONE)
            if recorded and self._ready is not None:
                self._ready(self)

    # Steps

    def step(self, loss: float | None = None, tokens: int | None = None) -> None:
        """Mark the end of a training step.

        Parameters
        ----------
        loss : float, optional
            Mean loss of the step, for the trace's counters.
        tokens : int, optional
            Tokens (rows) of the step, for tokens per second.
        """
        with self._lock:
            self._explicit = True
            if self._marked:  # `fit` has just marked the same step
                self._marked = False
                return
            self._end_step(loss, tokens)

    def _watch(self, loss: float | None, tokens: int | None) -> None:
        """A step that `fit` has made; the caller's own marks, once there are any, win."""
        with self._lock:
            if self._explicit:
                self._loss, self._tokens = loss, tokens
            else:
                self._marked = True
                self._end_step(loss, tokens)

    def _end_step(self, loss: float | None, tokens: int | None) -> None:
        if not self._running:
            return
        now, used = events.clock(), usage()
        loss, tokens = (self._loss if loss is None else loss), (self._tokens if tokens is None else tokens)
        self._loss = self._tokens = None
        if self._action in _RECORDS and len(self._done.steps) < self._max_events:
            before = self._step_usage
            faults = used.minor_faults - before.minor_faults, used.major_faults - before.major_faults
            value = None if loss is None else float(loss)
            count = None if tokens is None else int(tokens)
            self._done.steps.append(Step(self._number, self._step_start, now, value, count, *faults))
        self._number += 1
        self._step_start, self._step_usage = now, used
        after = self._plan(self._number)
        if after is not self._action or after is ProfilerAction.RECORD_AND_SAVE:
            saved = self._action is ProfilerAction.RECORD_AND_SAVE
            if saved:
                self._turn(ProfilerAction.NONE, now)
                if self._ready is not None:
                    self._ready(self)
            self._turn(after, now)

    # The recorder follows the plan

    _loss: float | None = None
    _tokens: int | None = None
    _step_start = 0
    _step_usage = Usage(0, 0, 0)
    _window = 0
    _window_usage = Usage(0, 0, 0)

    def _turn(self, action: ProfilerAction, now: int | None = None) -> None:
        """Go on with another action; `now` is when the step before it ended."""
        was, self._action = self._action, action
        if was in _RECORDS and action not in _RECORDS:
            self._close(events.clock() if now is None else now)
        elif was is ProfilerAction.WARMUP and action is not was and self._recorder is not None:
            events.detach(self._recorder)  # what it got is thrown away
            self._recorder = None
        if action is ProfilerAction.WARMUP or (action in _RECORDS and was not in _RECORDS):
            if action in _RECORDS and self._done.windows and not self._keep:
                self._done = Recording(facts=self._done.facts)
            self._recorder = events.Recorder(max(0, self._max_events - len(self._done.events)))
            self._window, self._window_usage = events.clock(), usage()
            self._step_start, self._step_usage = self._window, self._window_usage
            events.attach(self._recorder)

    def _close(self, end: int) -> None:
        """Move what the recorder got to the recording."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            events.detach(recorder)
            self._done = self._done.copy()  # who has asked for the recording before keeps what it was
            _move(recorder, self._done, (self._window, end), self._window_usage)
            self._finish(self._done)

    def _finish(self, recording: Recording) -> None:
        recording.thread_names.update({t.ident: t.name for t in threading.enumerate() if t.ident is not None})
        recording.rank, recording.size = self._rank or detect_rank()
        if any(event[5] is not None for event in recording.events):
            recording.facts.update(_facts(*(name for name in events.facts if name not in recording.facts)))
            recording.facts["pools"] = _pools()

    @property
    def recording(self) -> Recording:
        """What has been recorded so far, as plain data."""
        with self._lock:
            if self._recorder is None or self._action not in _RECORDS:
                return self._done
            copy = self._done.copy()
            _move(self._recorder, copy, (self._window, events.clock()), self._window_usage)
            self._finish(copy)
            return copy

    def trim(self) -> None:
        """Leave out the time before the first event and after the last: imports and loading are no part of a step."""
        with self._lock:
            self._done = self.recording.trimmed()


def _move(recorder: events.Recorder, to: Recording, window: tuple[int, int], before: Usage) -> None:
    used = usage()
    to.events += recorder.items[:]
    to.dropped += recorder.dropped
    to.windows.append(window)
    to.minor_faults += used.minor_faults - before.minor_faults
    to.major_faults += used.major_faults - before.major_faults
    to.cpu_ns += used.cpu_ns - before.cpu_ns
    to.epoch_ns = time.time_ns() - events.clock()


def _facts(*names: str) -> dict[str, Any]:
    return {name: events.facts[name]() for name in names if name in events.facts}


def _pools() -> list[tuple[str, str, int]]:
    """Return (what for, library, threads) of each pool of threads that is loaded."""
    from threadpoolctl import threadpool_info

    return [(pool["user_api"], pool["internal_api"], int(pool["num_threads"])) for pool in threadpool_info()]
