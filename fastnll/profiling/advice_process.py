"""Advice about what happens around the operations: data, other libraries, memory, threads."""

from __future__ import annotations

from collections import Counter

from fastnll.events import USER, WAIT
from fastnll.profiling.advice_calls import Advice, share_text
from fastnll.profiling.analysis import Analysis
from fastnll.profiling.averages import averages
from fastnll.profiling.faults import lost
from fastnll.profiling.table import duration, scaled

__all__ = ["first_call", "other_faults", "outside", "oversubscribed", "pools", "waiting"]

_WAITING, _OUTSIDE, _SHARE = 0.10, 0.50, 0.05
# What the objective and `fit` call their own fetching of rows.
_LOOKING_UP = ("data: rows", "data: batches")
# A pool of OpenMP threads spins for some milliseconds (libgomp: 2.5 to 3) after its last loop before it sleeps. What
# other threads burn beyond that, while the calling thread is elsewhere, is somebody else's work.
_SPIN_NS = 4_000_000
_BUSY = 0.4
# A first call this much longer than the median one, and at least this long (seconds), compiled or loaded something.
_FIRST, _LEAST = 20, 0.05


def waiting(analysis: Analysis) -> Advice | None:
    """Waiting for data."""
    seconds = analysis.waiting
    if seconds < _WAITING * analysis.wall:
        return None
    disk = analysis.recording.major_faults
    read = f" ({scaled(disk)} pages came from disk)" if disk else ""
    own: Counter[str] = Counter()
    for nanoseconds, event in zip(analysis.line.wall_ns, analysis.events, strict=True):
        if event[3] == WAIT:
            own[event[4]] += round(nanoseconds)
    name = own.most_common(1)[0][0]
    if name in _LOOKING_UP:
        what = "larger batches look up more rows at a time, and tokens on a slow disk are better copied to a local one"
    else:
        what = (
            "load the next batch in a thread while this one is computed, keep the tokens in a memory-mapped file "
            "(fastnll.data.write_dataset), or make batches larger"
        )
    text = f"waiting for data took {share_text(analysis, seconds)}{read}, most of it in {name!r}: {what}"
    return Advice("waiting", seconds, text)


def outside(analysis: Analysis) -> Advice | None:
    """Most of the time elsewhere: no faster loss would help."""
    seconds = analysis.outside
    if not analysis.kernels or seconds < _OUTSIDE * analysis.wall:
        return None
    named = analysis.wall_of(USER)
    where = f", {duration(1e6 * named)} of it in blocks that you named" if named else ""
    hint = "" if named >= seconds / 2 else "; give parts of the loop a name with fastnll.record_function to see which"
    return Advice(
        "outside",
        0.0,
        f"{share_text(analysis, seconds)}, passed outside fastnll{where}: a faster loss cannot win more than the other "
        f"{100 - 100 * seconds / analysis.wall:.0f}%{hint}",
    )


def pools(analysis: Analysis) -> Advice | None:
    """A BLAS and an OpenMP pool that keep each other from the cores."""
    found = analysis.recording.facts.get("pools") or []
    blas = [(name, n) for api, name, n in found if api == "blas" and n > 1]
    openmp = [(name, n) for api, name, n in found if api == "openmp" and n > 1]
    many = [k for k in analysis.kernels if k.call.threads > 1 and k.call.usage is not None]
    if not (blas and openmp) or len(many) < 3:
        return None
    others = main = 0
    last: dict[int, tuple[int, int]] = {}
    for kernel in sorted(many, key=lambda k: analysis.events[k.event][0]):
        assert kernel.call.usage is not None
        _, process, thread, process_after, thread_after = kernel.call.usage
        before = last.get(analysis.events[kernel.event][2])
        if before is not None:
            mine = thread - before[1]
            others += max(0, process - before[0] - mine - _SPIN_NS * (kernel.call.threads - 1))
            main += mine
        last[analysis.events[kernel.event][2]] = process_after, thread_after
    if not main or others < _BUSY * main or 1e-9 * main < _SHARE * analysis.wall:
        return None
    return Advice(
        "pools",
        1e-9 * min(others, main) / 2,
        f"the BLAS ({blas[0][0]}, {blas[0][1]} threads) and OpenMP ({openmp[0][0]}, {openmp[0][1]} threads) pools both "
        f"spin: between the kernels, other threads burnt {duration(1e-3 * others)} of CPU time beside the "
        f"{duration(1e-3 * main)} of the one that called, and each pool takes the cores from the other for some "
        "milliseconds at every change; give one of them one thread, with threadpoolctl.threadpool_limits(1, 'blas') or "
        "fastnll.using(threads=1), or both with OMP_WAIT_POLICY=passive",
    )


def oversubscribed(analysis: Analysis) -> Advice | None:
    """More threads than cores."""
    cores = analysis.recording.facts.get("cores", 0)
    most = max((k.call.threads for k in analysis.kernels), default=0)
    if not cores or most <= cores:
        return None
    seconds = 1e-9 * sum(analysis.line.wall_ns[k.event] for k in analysis.kernels if k.call.threads > cores)
    if seconds < _SHARE * analysis.wall:
        return None
    return Advice(
        "oversubscribed",
        seconds / 2,
        f"kernels ran on {most} threads, but this process has {cores} core{'s' if cores > 1 else ''} "
        f"({share_text(analysis, seconds)}): threads then wait for each other; leave out threads= and "
        "FASTNLL_NUM_THREADS",
    )


def other_faults(analysis: Analysis) -> Advice | None:
    """New memory outside the kernels, at every step."""
    recording = analysis.recording
    faults = recording.minor_faults - sum(k.faults for k in analysis.kernels)
    seconds = lost(faults, 0)
    steps = len(recording.steps)
    if steps < 3 or seconds < _SHARE * analysis.wall:
        return None
    # In every step, not once: the median step has them too.
    median = sorted(step.minor_faults for step in recording.steps)[steps // 2]
    inside = sum(k.faults for k in analysis.kernels) / steps
    if median - inside < 0.5 * faults / steps:
        return None
    each = faults / steps
    return Advice(
        "other_faults",
        seconds,
        f"{scaled(round(each))} page faults a step happened outside the kernels (about "
        f"{share_text(analysis, seconds)}): some {scaled(4096 * each)}B of arrays are made anew in every step; make "
        "them once and write into them (out=)",
    )


def first_call(analysis: Analysis) -> Advice | None:
    """A first call that compiled or loaded something."""
    rows = [row for row in averages(analysis) if row.count >= 3 and row.kind in ("op", "kernel")]
    slow = [
        row
        for row in rows
        if row.first >= 1e6 * _LEAST and row.first >= _FIRST * row.median and row.first * 1e-6 >= _SHARE * analysis.wall
    ]
    if not slow:
        return None
    row = max(slow, key=lambda row: (row.first, row.kind == "op"))
    return Advice(
        "first_call",
        1e-6 * row.first,
        f"the first call of {row.key} took {duration(row.first)}, the median one {duration(row.median)}: something was "
        "compiled or loaded; leave it out with fastnll.profile(schedule=fastnll.schedule(wait=0, warmup=1, active=10))",
    )
