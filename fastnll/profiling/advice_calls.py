"""Advice about how the operations were called: their arrays, dtypes, sizes, backends."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fastnll.events import KERNEL, OP, SHORT
from fastnll.profiling.analysis import Analysis, Kernel
from fastnll.profiling.table import duration, scaled

__all__ = [
    "Advice",
    "backend",
    "float64_logits",
    "fresh_results",
    "op_of",
    "overhead",
    "own_seconds",
    "pinned_isa",
    "read_twice",
    "share_text",
    "small_batches",
    "strided_classes",
    "validation",
]

# Shares of the recorded time from which on a thing is worth a sentence.
_FAULTS, _SHARE, _MOST = 0.02, 0.05, 0.20
_FEW, _MANY = 10, 100
# Kernels that walk rows of logits, and what their result is called.
_RESULT = {"cross_entropy": "gradient", "softmax": "result", "softmax_vjp": "gradient"}


class Advice(NamedTuple):
    """One sentence.

    Attributes
    ----------
    rule : str
        Name of the function that says it.
    seconds : float
        About what it is worth over the recording; an upper bound where nothing better is known.
    text : str
    """

    rule: str
    seconds: float
    text: str

    def __str__(self) -> str:
        return self.text


def share_text(analysis: Analysis, seconds: float) -> str:
    """Return a time and its share of the recorded one."""
    return f"{duration(1e6 * seconds)}, {100 * seconds / analysis.wall:.0f}% of the time"


def op_of(analysis: Analysis, kernel: Kernel) -> str:
    """Return the public operation that ran a kernel."""
    i = kernel.event
    while i >= 0:
        if analysis.events[i][3] in (OP, SHORT):
            return analysis.events[i][4]
        i = analysis.line.parent[i]
    name: str = kernel.call.spec.name
    return name


def own_seconds(analysis: Analysis, kernels: Iterable[Kernel]) -> float:
    """Return the part of the clock that belongs to some kernels."""
    return 1e-9 * sum(analysis.line.wall_ns[kernel.event] for kernel in kernels)


def _shape(kernel: Kernel) -> str:
    n, v = math.prod(kernel.call.shape[:-1]), kernel.call.shape[-1]
    return f"{n} x {v}"


def _logits(analysis: Analysis) -> list[Kernel]:
    return [k for k in analysis.kernels if len(k.call.shape) > 1]


def _times(count: int) -> str:
    return f"{count} call" + ("" if count == 1 else "s")


def fresh_results(analysis: Analysis) -> Advice | None:
    """Results that go to new memory at every call, where that costs page faults."""
    groups: dict[tuple[str, int], list[Kernel]] = defaultdict(list)
    for kernel in analysis.kernels:
        if kernel.call.fresh and kernel.faults:
            groups[op_of(analysis, kernel), kernel.call.fresh].append(kernel)
    costs = {key: sum(k.fault_seconds for k in group) for key, group in groups.items() if len(group) > 1}
    if not costs:
        return None
    (op, nbytes), seconds = max(costs.items(), key=lambda item: item[1])
    if seconds < _FAULTS * analysis.wall:
        return None
    group = groups[op, nbytes]
    what = _RESULT.get(group[0].call.spec.name, "result")
    faults = sum(k.faults for k in group)
    other = (
        "out=logits, where those are not needed any more" if what == "gradient" else "out=x, to write over the input"
    )
    return Advice(
        "fresh_results",
        seconds,
        f"the {what} of {op} went to a fresh {scaled(nbytes)}B array in {_times(len(group))} ({scaled(faults)} page "
        f"faults, about {share_text(analysis, seconds)}): pass out= an array that you keep, or {other}",
    )


def small_batches(analysis: Analysis) -> Advice | None:
    """Batches that run on one thread because a second one would cost more than it gains."""
    threads, least = analysis.recording.facts.get("threads", 1), analysis.recording.facts.get("elements_per_thread", 0)
    thread = analysis.recording.thread
    small = [
        k
        for k in _logits(analysis)
        if k.call.threads == 1 and math.prod(k.call.shape) < 2 * least and analysis.events[k.event][2] == thread
    ]
    if threads < 2 or len(small) < _FEW:
        return None
    ops = {_outermost_op(analysis, k.event) for k in small}
    seconds = 1e-9 * sum(analysis.events[i][1] - analysis.events[i][0] for i in ops)
    if seconds < _MOST * analysis.wall:
        return None
    shapes = Counter(_shape(k) for k in small)
    elements = statistics.median(math.prod(k.call.shape) for k in small)
    return Advice(
        "small_batches",
        seconds * (1 - 1 / threads),
        f"the batch is too small for {'two' if threads == 2 else threads} threads: {_times(len(ops))} on "
        f"{shapes.most_common(1)[0][0]} logits ran on one ({share_text(analysis, seconds)}), for below {2 * least} "
        f"logits waking another costs more than it gains; batches of {math.ceil(2 * least / elements)} times as many "
        "rows would use them",
    )


def _outermost_op(analysis: Analysis, index: int) -> int:
    found = index
    while index >= 0:
        if analysis.events[index][3] in (OP, SHORT):
            found = index
        index = analysis.line.parent[index]
    return found


def overhead(analysis: Analysis) -> Advice | None:
    """Checks and results that take more than the kernels they surround."""
    events, line = analysis.events, analysis.line
    ops = [i for i, event in enumerate(events) if event[3] == OP]
    seconds = 1e-9 * sum(line.wall_ns[i] for i in ops)
    if len(ops) < _MANY or seconds < _MOST * analysis.wall:
        return None
    name = Counter(events[i][4] for i in ops).most_common(1)[0][0]
    each = 1e6 * seconds / len(ops)
    return Advice(
        "overhead",
        seconds / 2,
        f"what surrounds the kernels (checks, options, results) took {share_text(analysis, seconds)}, {duration(each)} "
        f"a call of {name}: make batches larger, or the loss once, loss = fastnll.CrossEntropy(...), and call that",
    )


def float64_logits(analysis: Analysis) -> Advice | None:
    """Logits in double precision, which NumPy makes of everything that does not say otherwise."""
    double = [k for k in _logits(analysis) if k.call.dtype == np.float64 and math.prod(k.call.shape) >= 1 << 12]
    seconds = own_seconds(analysis, double)
    if seconds < _SHARE * analysis.wall:
        return None
    op = Counter(op_of(analysis, k) for k in double).most_common(1)[0][0]
    return Advice(
        "float64_logits",
        seconds / 2,
        f"{op} got float64 in {_times(len(double))} ({share_text(analysis, seconds)}): float32 is half of the bytes "
        "and its exp takes less than half of the time; unless double precision is meant, look for the array that was "
        "made without dtype=np.float32",
    )


def strided_classes(analysis: Analysis) -> Advice | None:
    """A class axis whose elements do not lie side by side."""
    strided = [k for k in _logits(analysis) if k.call.shape[-1] > 1 and k.call.stride != k.work.itemsize]
    seconds = own_seconds(analysis, strided)
    if seconds < _SHARE * analysis.wall:
        return None
    kernel = max(strided, key=lambda k: k.seconds)
    return Advice(
        "strided_classes",
        seconds / 2,
        f"the classes of {op_of(analysis, kernel)} on {_shape(kernel)} logits lie {kernel.call.stride} bytes apart, "
        f"not {kernel.work.itemsize} ({share_text(analysis, seconds)}): rows are then read piece by piece; let the "
        "model write its logits with the class axis last (C order)",
    )


def validation(analysis: Analysis) -> Advice | None:
    """The check of the targets, where it takes a visible part of the loss."""
    scans = [k for k in analysis.kernels if k.call.spec.name == "scan_targets"]
    seconds = own_seconds(analysis, scans)
    losses = {_outermost_op(analysis, k.event) for k in scans}
    total = 1e-9 * sum(analysis.events[i][1] - analysis.events[i][0] for i in losses)
    if len(scans) < 2 or seconds < _SHARE * analysis.wall or seconds < _SHARE * total:
        return None
    return Advice(
        "validation",
        seconds,
        f"checking that targets are class ids took {share_text(analysis, seconds)}: once the data are known to be "
        "good, validate='off' with ignore_index=None leaves the pass out (a bad target then makes its row nan)",
    )


def backend(analysis: Analysis) -> Advice | None:
    """A slower backend than this installation could have."""
    slow = [k for k in analysis.kernels if k.call.backend != "native"]
    seconds = own_seconds(analysis, slow)
    if seconds < _SHARE * analysis.wall:
        return None
    facts = analysis.recording.facts
    name = Counter(k.call.backend for k in slow).most_common(1)[0][0]
    reason = facts.get("backends", {}).get("native")
    if name == "numba" and reason is None:
        why = "about half as fast as the compiled one"
    else:
        why = "NumPy in double precision, meant for reading and checking" if name == "reference" else "the second best"
    what = f"{reason}" if reason else "the compiled one is available: remove using(backend=...) or FASTNLL_BACKEND"
    return Advice(
        "backend",
        seconds / 2,
        f"the {name} backend ran {_times(len(slow))} ({share_text(analysis, seconds)}), {why}; {what}",
    )


def pinned_isa(analysis: Analysis) -> Advice | None:
    """An instruction set below the best this processor has."""
    facts = analysis.recording.facts
    isas = tuple(facts.get("isas", ()))
    native = [
        k for k in analysis.kernels if k.call.backend == "native" and (k.call.isa or facts.get("isa")) in isas[:-1]
    ]
    seconds = own_seconds(analysis, native)
    if not isas or seconds < _SHARE * analysis.wall:
        return None
    isa = native[0].call.isa or facts["isa"]
    return Advice(
        "pinned_isa",
        seconds / 2,
        f"the kernels ran on {isa} ({share_text(analysis, seconds)}) where this processor has {isas[-1]}: remove "
        "using(isa=...) or FASTNLL_ISA",
    )


# First and second operation on the same logits -> the one that does both
_TWICE = {
    ("cross_entropy", "cross_entropy_value_and_grad"): "cross_entropy_value_and_grad returns the loss too",
    ("log_softmax", "nll_loss"): "cross_entropy takes the logits and does both in one pass",
    ("logsumexp", "selected_log_probs"): "selected_log_probs subtracts the logsumexp itself",
    ("softmax", "cross_entropy"): "cross_entropy_value_and_grad gives the loss and softmax - onehot in one pass",
}


def read_twice(analysis: Analysis) -> Advice | None:
    """Two operations on the same logits, one after the other, for which there is one."""
    events, line = analysis.events, analysis.line
    shapes: dict[int, str] = {}
    for kernel in analysis.kernels:
        if len(kernel.call.shape) > 1:
            i = _outermost_op(analysis, kernel.event)
            shapes[i] = f"{_shape(kernel)} {kernel.call.dtype}"
    pairs: Counter[tuple[str, str]] = Counter()
    seconds: Counter[tuple[str, str]] = Counter()
    last: dict[int, int] = {}
    for i in sorted(shapes, key=lambda i: events[i][0]):
        if events[i][3] == KERNEL or line.lane[i]:
            continue
        before = last.get(events[i][2])
        last[events[i][2]] = i
        if before is None or shapes[before] != shapes[i]:
            continue
        pair = events[before][4], events[i][4]
        if pair in _TWICE:
            pairs[pair] += 1
            seconds[pair] += events[before][1] - events[before][0]
    if not pairs:
        return None
    pair, nanoseconds = seconds.most_common(1)[0]
    if pairs[pair] < 3 or 1e-9 * nanoseconds < _SHARE * analysis.wall:
        return None
    return Advice(
        "read_twice",
        1e-9 * nanoseconds,
        f"{pair[0]} was followed by {pair[1]} on logits of the same shape {pairs[pair]} times "
        f"({share_text(analysis, 1e-9 * nanoseconds)} in the first): {_TWICE[pair]}",
    )
