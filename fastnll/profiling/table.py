"""Rows of a profile as text; columns in the order of ``torch.profiler``, then those that only make sense here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["SORT_KEYS", "duration", "render", "scaled"]

# sort_by -> attribute of a row
SORT_KEYS = {
    name: name
    for name in (
        "wall_time",
        "self_cpu_time_total",
        "cpu_time_total",
        "cpu_time",
        "count",
        "bytes",
        "gbps",
        "flops",
        "gflops",
        "limit_share",
        "faults",
        "fault_time",
    )
}


def duration(microseconds: float) -> str:
    """Return a time with three significant digits in its unit.

    Examples
    --------
    >>> duration(0.2), duration(1234.5), duration(3.2e7)
    ('0.200us', '1.23ms', '32.0s')
    """
    for unit, size in (("s", 1e6), ("ms", 1e3), ("us", 1.0)):
        if microseconds >= size or unit == "us":
            value = microseconds / size
            return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    raise AssertionError("unreachable")


def scaled(value: float) -> str:
    """Return a large number with three significant digits and a letter for its thousands.

    Examples
    --------
    >>> scaled(999), scaled(262144000), scaled(0)
    ('999', '262M', '')
    """
    if not value:
        return ""
    for letter in ("", "k", "M", "G", "T", "P"):
        if value < 999.5:
            return f"{value:.{0 if value >= 99.5 or value == int(value) else 1 if value >= 9.95 else 2}f}{letter}"
        value /= 1000
    return f"{value:.3g}E"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%" if share < 0.9995 else f"{100 * share:.0f}%"


def _timed(name: str) -> Callable[[Any], str]:
    return lambda row: duration(getattr(row, name)) if row.count else ""


_COLUMNS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("Wall %", lambda row: _percent(row.wall_share)),
    ("Wall", lambda row: duration(row.wall_time)),
    ("Self CPU", _timed("self_cpu_time_total")),
    ("CPU total", _timed("cpu_time_total")),
    ("CPU avg", _timed("cpu_time")),
    ("# of Calls", lambda row: str(row.count or "")),
    ("Bytes", lambda row: f"{scaled(row.bytes)}B" if row.bytes else ""),
    ("GB/s", lambda row: "" if row.gbps is None else f"{row.gbps:.1f}"),
    ("GFLOP/s", lambda row: "" if row.gflops is None else f"{row.gflops:.1f}"),
    ("% of limit", lambda row: _percent(row.limit_share)),
    ("Bound by", lambda row: row.bound_by),
    ("Faults", lambda row: scaled(row.faults)),
    ("Lost to them", lambda row: duration(row.fault_time) if row.faults else ""),
    ("Threads", lambda row: row.threads),
    ("Blocks", lambda row: row.blocks),
    ("Backend", lambda row: row.backend),
    ("ISA", lambda row: row.isa),
    ("Input", lambda row: row.input_shapes),
)
_LEFT = {"Name", "Bound by", "Backend", "ISA", "Input"}


def render(rows: Sequence[Any], row_limit: int, name_width: int) -> str:
    """Return the rows as text; a column in which nothing stands is left out."""
    shown = rows if row_limit < 0 else rows[:row_limit]
    columns = [("Name", [_shortened(row.key, name_width) for row in shown])]
    columns += [(title, cells) for title, make in _COLUMNS if any(cells := [make(row) for row in shown])]
    widths = [max(len(title), *map(len, cells)) if cells else len(title) for title, cells in columns]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.ljust(width) if title in _LEFT else cell.rjust(width)
            for cell, width, (title, _) in zip(cells, widths, columns, strict=True)
        ]
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    body = [line([cells[i] for _, cells in columns]) for i in range(len(shown))]
    text = [line([title for title, _ in columns]), rule, *body]
    if len(shown) < len(rows):
        text.append(f"... and {len(rows) - len(shown)} more rows; row_limit=-1 shows all")
    return "\n".join(text)


def _shortened(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."
