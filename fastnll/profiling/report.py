"""A profile as a page of text and as JSON: summary, table, advice."""

from __future__ import annotations

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

from fastnll.profiling.advice import advise
from fastnll.profiling.analysis import Analysis
from fastnll.profiling.averages import averages
from fastnll.profiling.machine import describe
from fastnll.profiling.table import duration
from fastnll.profiling.trace import _finite
from fastnll.profiling.work import plain

__all__ = ["json_text", "report", "summary", "write_json"]


def summary(analysis: Analysis) -> dict[str, Any]:
    """Return the totals of a recording as JSON values.

    Returns
    -------
    dict
        seconds: "wall", "outside", "waiting", "faults" (about what they took), "cpu"; "step" (median) and
        "tokens_per_second" where steps were marked; counts: "steps", "minor_faults", "major_faults", "events",
        "dropped".
    """
    recording = analysis.recording
    steps = analysis.step_seconds
    inside = sum(steps)
    return {
        "wall": analysis.wall,
        "outside": analysis.outside,
        "waiting": analysis.waiting,
        "faults": analysis.fault_seconds,
        "cpu": 1e-9 * recording.cpu_ns,
        "steps": len(steps),
        "step": statistics.median(steps) if steps else None,
        "tokens_per_second": analysis.tokens / inside if inside and analysis.tokens else None,
        "minor_faults": recording.minor_faults,
        "major_faults": recording.major_faults,
        "events": len(recording.events),
        "dropped": recording.dropped,
    }


def _lines(analysis: Analysis) -> list[str]:
    recording, s = analysis.recording, summary(analysis)
    wall = s["wall"] or math.inf

    def share(seconds: float) -> str:
        return f"{duration(1e6 * seconds)} ({100 * seconds / wall:.1f}%)"

    lines = [f"recorded       {duration(1e6 * s['wall'])}, {s['events']} events"]
    if recording.size > 1:
        lines[0] += f", rank {recording.rank} of {recording.size}"
    if s["steps"]:
        text = f"steps          {s['steps']}, median {duration(1e6 * s['step'])}"
        if s["tokens_per_second"]:
            text += f", {s['tokens_per_second']:,.0f} tokens/s"
        lines.append(text)
    facts = recording.facts
    if facts.get("backend"):
        isa = f", {facts['isa']}" if facts.get("isa") and facts["backend"] == "native" else ""
        lines.append(f"runs on        {facts['backend']}{isa}, {facts['threads']} threads, {facts['cores']} cores")
    lines.append(f"outside        {share(s['outside'])} outside fastnll")
    lines.append(f"waiting        {share(s['waiting'])} for data")
    lines.append(f"page faults    {s['minor_faults']}, about {share(s['faults'])}")
    if s["major_faults"]:
        lines.append(f"from disk      {s['major_faults']} pages had to be read")
    if s["dropped"]:
        lines.append(
            f"dropped        {s['dropped']} events beyond max_events={len(recording.events)}: the rows below are "
            "incomplete; record fewer steps with schedule="
        )
    return lines


def report(analysis: Analysis, sort_by: str = "wall_time", row_limit: int = 30) -> str:
    """Return summary, table and advice as text."""
    rows = averages(analysis)
    parts = ["\n".join(_lines(analysis)), rows.table(sort_by, row_limit)]
    found = advise(analysis)
    if found:
        parts.append("advice\n" + "\n".join(f"- {item.text}" for item in found))
    note = analysis.limits.note()
    if note:
        parts.append(f"note: {note}")
    return "\n\n".join(parts)


def json_text(analysis: Analysis) -> str:
    """Return everything a report says, and every step, as JSON text."""
    recording = analysis.recording
    values = {
        "format": 1,
        "machine": describe().to_dict(),
        "facts": {name: plain(value) for name, value in recording.facts.items()},
        "rank": recording.rank,
        "size": recording.size,
        "summary": summary(analysis),
        "rows": [row.to_dict() for row in averages(analysis, by_shapes=True)],
        "steps": [
            {**step._asdict(), "loss": _finite(step.loss), "seconds": 1e-9 * (step.end - step.start)}
            for step in recording.steps
        ],
        "advice": [item._asdict() for item in advise(analysis)],
        "limits": {
            threads: limits.to_dict()
            for threads in sorted({kernel.call.threads for kernel in analysis.kernels})
            if (limits := analysis.limits.of(threads)) is not None
        },
    }
    return json.dumps(values, indent=1, allow_nan=False, default=plain)


def write_json(analysis: Analysis, path: str | Path) -> Path:
    """Write `json_text` to a file; returns its path.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json_text(analysis) + "\n")
    os.replace(temporary, path)
    return path
