"""The table: events of one name together, with what they moved, how fast, and what holds them back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fastnll.events import KERNEL, OP, SHORT, SPAN, USER, WAIT
from fastnll.profiling.analysis import Analysis, Kernel
from fastnll.profiling.table import SORT_KEYS, render

__all__ = ["OUTSIDE", "Average", "KeyAverages", "averages"]

# Name of the row of time in which no event ran.
OUTSIDE = "(outside fastnll)"
_KINDS = {OP: "op", KERNEL: "kernel", SHORT: "op", SPAN: "part", WAIT: "data", USER: "user"}


@dataclass
class Average:
    """All events of one name (and shape, where grouped by it). Times in microseconds, as ``torch.profiler`` has them.

    Attributes
    ----------
    key : str
        Name.
    kind : str
        "op", "kernel", "part" (of the library), "data", "user" or "outside".
    input_shapes : str
        Shapes and dtypes that came up, the most frequent first.
    count : int
    cpu_time_total, self_cpu_time_total : float
        Sum of durations, and that without the events inside.
    wall_time : float
        The part of the clock that is its own; over all rows these add up to what was recorded.
    wall_share : float
        The same as a share of it.
    bytes, flops : int
        Of the model, those of the kernels inside.
    bound_time : float or None
        The least time these bytes and exps can take here.
    bound_by : str
        The limit that says so, for most of that time.
    faults : int
    fault_time : float
        About what they took.
    threads, backend, isa, blocks : str
        What came up: "2" or "1-2", "native", "avx512", blocks of 64 rows a call.
    first, median : float
        Duration of the first call and of the median one.
    """

    key: str
    kind: str
    input_shapes: str = ""
    count: int = 0
    cpu_time_total: float = 0.0
    self_cpu_time_total: float = 0.0
    wall_time: float = 0.0
    wall_share: float = 0.0
    bytes: int = 0
    flops: int = 0
    bound_time: float | None = None
    bound_by: str = ""
    faults: int = 0
    fault_time: float = 0.0
    threads: str = ""
    backend: str = ""
    isa: str = ""
    blocks: str = ""
    first: float = 0.0
    median: float = 0.0

    @property
    def cpu_time(self) -> float:
        """Mean duration of a call, microseconds."""
        return self.cpu_time_total / self.count if self.count else 0.0

    @property
    def gbps(self) -> float | None:
        """GB of the model a second."""
        return self.bytes * 1e-3 / self.cpu_time_total if self.bytes and self.cpu_time_total else None

    @property
    def gflops(self) -> float | None:
        """GFLOP of the model a second."""
        return self.flops * 1e-3 / self.cpu_time_total if self.flops and self.cpu_time_total else None

    @property
    def limit_share(self) -> float | None:
        """Share of the speed that the binding limit allows; 1 is the limit."""
        if self.bound_time is None or not self.cpu_time_total:
            return None
        return self.bound_time / self.cpu_time_total

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        derived = {name: getattr(self, name) for name in ("cpu_time", "gbps", "gflops", "limit_share")}
        return {**self.__dict__, **derived}


class KeyAverages(list[Average]):
    """The rows of a table; `table` prints them, a list does the rest.

    Examples
    --------
    >>> KeyAverages([Average("b", "op", count=1), Average("a", "op", count=2)]).sorted("count")[0].key
    'a'
    """

    def sorted(self, sort_by: str) -> KeyAverages:
        """Return the rows in falling order of a column.

        Raises
        ------
        ValueError
            For a column that does not exist.
        """
        if sort_by not in SORT_KEYS:
            raise ValueError(f"sort_by: expected one of {', '.join(SORT_KEYS)}, got {sort_by!r}")

        def value(row: Average) -> float:
            found: float | None = getattr(row, SORT_KEYS[sort_by])
            return -1.0 if found is None else found

        return KeyAverages(sorted(self, key=value, reverse=True))

    def table(self, sort_by: str = "wall_time", row_limit: int = 30, max_name_column_width: int = 44) -> str:
        """Return the rows as text.

        Parameters
        ----------
        sort_by : str
            "wall_time", "self_cpu_time_total", "cpu_time_total", "cpu_time", "count", "bytes", "gbps", "flops",
            "gflops", "limit_share", "faults" or "fault_time", all falling.
        row_limit : int
            Rows shown; -1 for all.
        max_name_column_width : int

        Raises
        ------
        ValueError
            For a column that does not exist.
        """
        return render(self.sorted(sort_by), row_limit, max_name_column_width)


@dataclass
class _Group:
    kind: int
    shapes: Counter[str] = field(default_factory=Counter)
    durations: list[int] = field(default_factory=list)
    self_ns: int = 0
    wall_ns: float = 0.0
    bytes: int = 0
    flops: int = 0
    faults: int = 0
    fault_seconds: float = 0.0
    bounds: Counter[str] = field(default_factory=Counter)
    unbounded: int = 0
    threads: set[int] = field(default_factory=set)
    backends: set[str] = field(default_factory=set)
    isas: set[str] = field(default_factory=set)
    blocks: set[int] = field(default_factory=set)

    def add(self, kernel: Kernel, isa: str | None) -> None:
        self.bytes += kernel.work.bytes
        self.flops += kernel.work.flops
        if kernel.faults:
            self.faults += kernel.faults
            self.fault_seconds += kernel.fault_seconds
        if kernel.bound is not None:
            self.bounds[kernel.bound.name] += kernel.bound.seconds  # type: ignore[assignment]
        elif kernel.work.bytes:
            self.unbounded += 1
        self.threads.add(kernel.call.threads)
        self.backends.add(kernel.call.backend)
        if isa:
            self.isas.add(isa)
        if kernel.work.blocks:
            self.blocks.add(kernel.work.blocks)


def _shape(kernel: Kernel) -> str:
    shape = kernel.call.shape
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    return f"{' x '.join(str(size) for size in shape)} {kernel.call.dtype}"


def averages(analysis: Analysis, *, by_shapes: bool = False) -> KeyAverages:
    """Return the rows of a recording, and a last one for the time in which no event ran."""
    events, line = analysis.events, analysis.line
    default_isa = analysis.recording.facts.get("isa")
    inside: dict[int, list[Kernel]] = {}
    for kernel in analysis.kernels:
        i = kernel.event
        while i >= 0:
            inside.setdefault(i, []).append(kernel)
            i = line.parent[i]
    groups: dict[tuple[str, str], _Group] = {}
    for i, (start, end, _, kind, name, _) in enumerate(events):
        kernels = inside.get(i, [])
        if kind == KERNEL:
            # One row for each kind of memory traffic: they have different limits.
            name = f"{name} [{kernels[0].work.kind}]"
        shapes = [_shape(kernel) for kernel in kernels if kernel.call.spec.name != "scan_targets" or kind == KERNEL]
        shape = shapes[0] if shapes else ""
        group = groups.setdefault((name, shape if by_shapes else ""), _Group(kind))
        group.durations.append(end - start)
        group.self_ns += line.self_ns[i]
        group.wall_ns += line.wall_ns[i]
        if shape:
            group.shapes[shape] += 1
        for kernel in kernels:
            isa = (kernel.call.isa or default_isa) if kernel.call.backend == "native" else None
            group.add(kernel, isa)
    wall = analysis.recording.wall_ns or 1
    rows = KeyAverages(_row(name, group, wall) for (name, _), group in groups.items())
    if analysis.recording.windows:
        own = 1e9 * analysis.unnamed
        rows.append(Average(OUTSIDE, "outside", wall_time=1e-3 * own, wall_share=own / wall))
    return rows


def _row(name: str, group: _Group, wall: int) -> Average:
    durations = sorted(group.durations)
    known = group.bounds and not group.unbounded
    return Average(
        name,
        _KINDS[group.kind],
        ", ".join(shape for shape, _ in group.shapes.most_common(3)) + (", ..." if len(group.shapes) > 3 else ""),
        len(durations),
        1e-3 * sum(durations),
        1e-3 * group.self_ns,
        1e-3 * group.wall_ns,
        group.wall_ns / wall,
        group.bytes,
        group.flops,
        1e6 * sum(group.bounds.values()) if known else None,
        group.bounds.most_common(1)[0][0] if known else "",
        group.faults,
        1e6 * group.fault_seconds,
        _span(group.threads),
        ", ".join(sorted(group.backends)),
        ", ".join(sorted(group.isas)),
        _span(group.blocks),
        1e-3 * group.durations[0],
        1e-3 * durations[len(durations) // 2],
    )


def _span(numbers: set[int]) -> str:
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"
