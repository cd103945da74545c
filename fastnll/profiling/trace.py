"""A recording as a Chrome trace, the JSON that Perfetto opens: one process a rank, one track a thread, counters.

Complete events ("X") of a track have to nest; those that overlap get a track of their own. Times are microseconds from
the beginning of the recording; `merge_traces` shifts the ranks' files to one clock by the moment each began.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastnll.events import KERNEL, OP, SHORT, SPAN, USER, WAIT
from fastnll.profiling.analysis import Analysis, Kernel

__all__ = ["merge_traces", "trace_dict", "write_trace"]

_CATEGORIES = {OP: "op", KERNEL: "kernel", SHORT: "op", SPAN: "part", WAIT: "data", USER: "user"}
_STEPS = 0  # track of the steps
_LANES = 1000  # tracks between a thread's own and its overlapping ones


def trace_dict(analysis: Analysis) -> dict[str, Any]:
    """Return the trace as a dict for `json.dump`."""
    recording = analysis.recording
    zero = min((start for start, _ in recording.windows), default=0)
    pid = recording.rank
    name = f"fastnll rank {pid} of {recording.size}" if recording.size > 1 else "fastnll"
    out: list[dict[str, Any]] = [
        _meta("process_name", pid, 0, name=name),
        _meta("process_sort_index", pid, 0, sort_index=pid),
        _meta("thread_name", pid, _STEPS, name="steps"),
        _meta("thread_sort_index", pid, _STEPS, sort_index=-1),
    ]
    tracks = _tracks(analysis, out, pid)
    kernels = {kernel.event: kernel for kernel in analysis.kernels}
    for i, (start, end, thread, kind, label, _) in enumerate(recording.events):
        lane = analysis.line.lane[i]
        event = _complete(label, _CATEGORIES[kind], start - zero, end - start, pid, tracks[thread] + lane * _LANES)
        if i in kernels:
            event["args"] = _arguments(kernels[i])
        out.append(event)
    for step in recording.steps:
        event = _complete(f"ProfilerStep#{step.number}", "step", step.start - zero, step.end - step.start, pid, _STEPS)
        event["args"] = {"loss": _finite(step.loss), "tokens": step.tokens, "page faults": step.minor_faults}
        out.append(event)
    out += _counters(analysis, list(kernels.values()), zero, pid)
    return {
        "traceEvents": out,
        "displayTimeUnit": "ms",
        "otherData": {
            "fastnll": {"start_unix_ns": zero + recording.epoch_ns, "rank": recording.rank, "size": recording.size,
                        "dropped_events": recording.dropped},
        },
    }  # fmt: skip


def _meta(what: str, pid: int, tid: int, **arguments: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": arguments}


def _complete(name: str, category: str, start: int, duration: int, pid: int, tid: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "ts": start / 1000,
        "dur": duration / 1000,
        "pid": pid,
        "tid": tid,
    }


def _tracks(analysis: Analysis, out: list[dict[str, Any]], pid: int) -> dict[int, int]:
    """Number the threads from 1, the one that profiled first, and name their tracks."""
    recording = analysis.recording
    lanes: dict[int, int] = {recording.thread: 0}
    for lane, event in zip(analysis.line.lane, recording.events, strict=True):
        lanes[event[2]] = max(lane, lanes.get(event[2], 0))
    tracks = {thread: number for number, thread in enumerate(lanes, 1)}
    for thread, number in tracks.items():
        name = recording.thread_names.get(thread, f"thread {number}")
        for lane in range(lanes[thread] + 1):
            tid = number + lane * _LANES
            out.append(_meta("thread_name", pid, tid, name=name + (" (overlapping)" if lane else "")))
            out.append(_meta("thread_sort_index", pid, tid, sort_index=tid))
    return tracks


def _arguments(kernel: Kernel) -> dict[str, Any]:
    call, work = kernel.call, kernel.work
    arguments: dict[str, Any] = {
        "shape": list(call.shape),
        "dtype": str(call.dtype),
        "mode": call.mode,
        "threads": call.threads,
        "backend": call.backend,
        "bytes": work.bytes,
        "GB/s": 1e-9 * work.bytes / kernel.seconds if kernel.seconds else 0.0,
    }
    if work.flops:
        arguments["flops"] = work.flops
    if kernel.bound is not None and kernel.seconds:
        arguments["% of limit"] = 100 * kernel.bound.seconds / kernel.seconds
        arguments["bound by"] = kernel.bound.name
    if kernel.faults:
        arguments["page faults"] = kernel.faults
    return arguments


def _finite(value: float | None) -> float | None:
    """Return the number, or None for what JSON has no word for."""
    return value if value is not None and abs(value) < float("inf") else None


def _counters(analysis: Analysis, kernels: Sequence[Kernel], zero: int, pid: int) -> Iterable[dict[str, Any]]:
    def counter(name: str, moment: int, value: float) -> dict[str, Any]:
        return {"ph": "C", "name": name, "pid": pid, "ts": (moment - zero) / 1000, "args": {name: value}}

    events = analysis.events
    for step in analysis.recording.steps:
        loss = _finite(step.loss)
        if loss is not None:
            yield counter("loss", step.end, loss)
        if step.tokens is not None and step.end > step.start:
            yield counter("tokens/s", step.end, 1e9 * step.tokens / (step.end - step.start))
    # Rates of kernels that run at the same time add up; after a kernel its share is gone.
    turns: list[tuple[int, float]] = []
    for kernel in kernels:
        start, end = events[kernel.event][:2]
        if end > start and kernel.work.bytes:
            rate = kernel.work.bytes / (end - start)  # bytes a nanosecond are GB/s
            turns += [(start, rate), (end, -rate)]
    turns.sort()
    total, running = 0.0, 0
    for i, (moment, change) in enumerate(turns):
        total, running = total + change, running + (1 if change > 0 else -1)
        total = total if running else 0.0  # no rounding is left over
        if i + 1 == len(turns) or turns[i + 1][0] > moment:
            yield counter("GB/s", moment, total)


def write_trace(analysis: Analysis, path: str | Path) -> Path:
    """Write the trace, compressed where the name ends in ``.gz``.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    return _write(trace_dict(analysis), Path(path))


def _write(trace: dict[str, Any], path: Path) -> Path:
    text = json.dumps(trace, separators=(",", ":"), allow_nan=False).encode()
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    os.replace(temporary, path)
    return path


def merge_traces(paths: Iterable[str | Path], out: str | Path) -> Path:
    """Put the traces of several ranks into one file, on one clock, each rank a process.

    Parameters
    ----------
    paths : iterable of path
        Written by `profile.export_chrome_trace`, one a rank.
    out : path

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ValueError
        No files, a file that is no trace of a profile, or two of the same rank.
    OSError
        A file that cannot be read or written.

    Notes
    -----
    Ranks on one machine share its clock. Between machines the clocks are as close as the system keeps them.
    """
    traces: dict[int, tuple[int, list[dict[str, Any]]]] = {}
    named: dict[int, str] = {}
    for path in map(Path, paths):
        data = path.read_bytes()
        try:
            found = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
            ours = found["otherData"]["fastnll"]
            rank, start, events = int(ours["rank"]), int(ours["start_unix_ns"]), list(found["traceEvents"])
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise ValueError(f"{path}: expected a trace that a profile has written, got something else") from error
        if rank in traces:
            raise ValueError(f"{path}: expected one file a rank, got rank {rank} in {named[rank]} too")
        traces[rank], named[rank] = (start, events), str(path)
    if not traces:
        raise ValueError("paths: expected at least one trace, got none")
    zero = min(start for start, _ in traces.values())
    merged: list[dict[str, Any]] = []
    for rank, (start, events) in sorted(traces.items()):
        shift = (start - zero) / 1000
        merged += [{**e, "pid": rank, "ts": e["ts"] + shift} if "ts" in e else {**e, "pid": rank} for e in events]
    other = {"fastnll": {"start_unix_ns": zero, "rank": 0, "size": len(traces), "ranks": sorted(traces)}}
    return _write({"traceEvents": merged, "displayTimeUnit": "ms", "otherData": other}, Path(out))
