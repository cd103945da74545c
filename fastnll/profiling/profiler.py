"""``fastnll.profile``: record what the operations report, and hand it out as tables, files, pictures and advice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastnll import events
from fastnll.profiling.analysis import Analysis
from fastnll.profiling.averages import KeyAverages, averages
from fastnll.profiling.roofline import Roofline
from fastnll.profiling.schedule import ProfilerAction
from fastnll.profiling.session import Session
from fastnll.profiling.work import Limits

if TYPE_CHECKING:
    from fastnll.profiling.advice import Advice

__all__ = ["profile"]

Item = TypeVar("Item")


class profile(Session):  # noqa: N801 - reads as a statement
    """Record where the time of a block of code goes.

    Works around any loop: `fastnll.fit` marks its steps by itself, another loop calls `step` after each.

    Parameters
    ----------
    schedule : callable, optional
        Which steps to record, from `fastnll.schedule`. Default: all.
    on_trace_ready : callable, optional
        Called with the profile at the end of each cycle of the schedule (without a schedule: at the end).
    acc_events : bool, default False
        Keep the events of earlier cycles of the schedule.
    max_events : int, default 200_000
        Events kept in memory (about 300 bytes each); more are counted as dropped.
    limits : "cached", "measure", Roofline or None
        What rates are compared with: the limits that ``fastnll roofline`` has measured and kept, or measured now where
        there are none (half a minute, when a report is made), or these, or nothing.
    rank : (int, int), optional
        Which process of how many. Default: MPI's, if it is loaded, or the launcher's.

    Raises
    ------
    ValueError
        For an option that means nothing.
    RuntimeError
        If the profile is entered while it runs.

    Notes
    -----
    Profiles nest: each gets every event while it records. Events of all threads are recorded. An event costs less than
    a microsecond; calls on arrays above 1 MB take about 2 more, to ask the system for page faults and CPU time. Bytes
    are those of the model in ``fastnll.kernels.spec``, each array once, not counted by hardware.

    Examples
    --------
    >>> import numpy as np, fastnll
    >>> with fastnll.profile(limits=None) as prof:
    ...     for _ in range(3):
    ...         loss, grad = fastnll.cross_entropy_value_and_grad(np.eye(64, 200), np.arange(64))
    ...         prof.step(loss=loss, tokens=64)
    >>> rows = {row.key: row for row in prof.key_averages()}
    >>> rows["cross_entropy_value_and_grad"].count, len(prof.recording.steps)
    (3, 3)
    """

    def __init__(
        self,
        *,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[[profile], Any] | None = None,
        acc_events: bool = False,
        max_events: int = 200_000,
        limits: Roofline | str | None = "cached",
        rank: tuple[int, int] | None = None,
    ) -> None:
        self._limits = Limits(limits)
        self._analysis: Analysis | None = None
        super().__init__(schedule, on_trace_ready, acc_events, max_events, rank)

    @property
    def analysis(self) -> Analysis:
        """The recording with everything worked out."""
        recording = self.recording
        if self._analysis is None or self._analysis.recording is not recording:
            self._analysis = Analysis(recording, self._limits)
        return self._analysis

    def key_averages(self, group_by_input_shapes: bool = False) -> KeyAverages:
        """Return one row per name (and shape): a list with a method ``table(sort_by=..., row_limit=...)``."""
        return averages(self.analysis, by_shapes=group_by_input_shapes)

    def advice(self) -> list[Advice]:
        """Return what to do about what was measured, what costs most first; empty where nothing stands out."""
        from fastnll.profiling.advice import advise

        return advise(self.analysis)

    def report(self, sort_by: str = "wall_time", row_limit: int = 30) -> str:
        """Return the summary, the table and the advice as text."""
        from fastnll.profiling.report import report

        return report(self.analysis, sort_by, row_limit)

    def export_json(self, path: str | Path) -> Path:
        """Write summary, table, steps and advice as JSON; returns the path."""
        from fastnll.profiling.report import write_json

        return write_json(self.analysis, path)

    def export_chrome_trace(self, path: str | Path) -> Path:
        """Write a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open; ``.gz`` compresses it.

        Under MPI each rank writes a file of its own: give each another name, and put them together with
        `fastnll.profiling.merge_traces`.
        """
        from fastnll.profiling.trace import write_trace

        return write_trace(self.analysis, path)

    def plot(self, path: str | Path) -> Path:
        """Draw where a step goes and the roofline, to a file whose suffix names the format.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from fastnll.profiling.figure import draw_profile

        return draw_profile(self.analysis, path)

    def waiting(self, iterable: Iterable[Item], name: str = "data") -> Iterator[Item]:
        """Yield what an iterable (a data loader) yields, and count the time until it does as waiting for data.

        Examples
        --------
        >>> with profile(limits=None) as prof:
        ...     total = sum(prof.waiting([1, 2, 3]))
        >>> total, prof.key_averages()[0].kind
        (6, 'data')
        """
        return events.waiting(iterable, name)
