"""Recordings made by hand, with times that do not depend on the machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnll.events import KERNEL, OP, SHORT, SPAN, USER, WAIT, Event
from fastnll.profiling.analysis import Analysis
from fastnll.profiling.machine import Machine
from fastnll.profiling.recording import Recording, Step
from fastnll.profiling.roofline import Rate, Roofline
from fastnll.profiling.work import Limits

MAIN, WORKER = 1, 2
MS = 1_000_000
FACTS: dict[str, Any] = {
    "threads": 2,
    "cores": 2,
    "backend": "native",
    "backends": {"native": None, "numba": None, "reference": None},
    "isa": "avx512",
    "isas": ("baseline", "avx2", "avx512"),
    "elements_per_thread": 32768,
    "pools": [("blas", "openblas", 1), ("openmp", "openmp", 2)],
}
LIMITS = Roofline(
    Machine("a cpu", 2, 32 << 20, "Linux x86_64"),
    2,
    "by hand",
    1 << 30,
    {
        name: Rate(rate, rate)
        for name, rate in {
            "read": 40e9,
            "copy": 30e9,
            "copy_nt": 50e9,
            "update": 50e9,
            "fresh": 5e9,
            "exp_f32": 8e9,
            "exp_f64": 2e9,
        }.items()
    },
)


def kernel(
    start: int,
    end: int,
    name: str = "cross_entropy",
    *,
    mode: str = "value",
    shape: tuple[int, ...] = (1, 2048, 32000),
    dtype: str = "float32",
    stride: int | None = None,
    threads: int = 2,
    backend: str = "native",
    isa: str | None = None,
    exps: int = 1,
    fresh: int = 0,
    usage: tuple[int, int, int, int, int] | None = None,
    thread: int = MAIN,
) -> Event:
    kind = np.dtype(dtype)
    strides = (*(0 for _ in shape[1:]), kind.itemsize if stride is None else stride)
    noted = ("task", name, mode, shape, kind, strides, threads, backend, isa, exps, fresh, usage)
    return (start, end, thread, KERNEL, f"kernel.{name}", noted)


def scan(start: int, end: int, size: int = 2048, thread: int = MAIN) -> Event:
    return (start, end, thread, KERNEL, "kernel.scan_targets", ("scan", size, np.dtype(np.int64), 2, "native"))


def op(start: int, end: int, name: str = "cross_entropy", thread: int = MAIN) -> Event:
    return (start, end, thread, OP, name, None)


def short(start: int, end: int, shape: tuple[int, int] = (8, 10), dtype: str = "float32") -> Event:
    return (start, end, MAIN, SHORT, "cross_entropy", ("short", shape, np.dtype(dtype), False, False))


def span(start: int, end: int, name: str = "model", thread: int = MAIN) -> Event:
    return (start, end, thread, SPAN, name, None)


def wait(start: int, end: int, name: str = "data", thread: int = MAIN) -> Event:
    return (start, end, thread, WAIT, name, None)


def user(start: int, end: int, name: str = "forward", thread: int = MAIN) -> Event:
    return (start, end, thread, USER, name, None)


def recording(*events: Event, wall: int = 100 * MS, steps: int = 0, faults: int = 0, **facts: Any) -> Recording:
    """A recording of `wall` nanoseconds, cut in equal steps of 1000 tokens with `faults` page faults each."""
    each = wall // max(steps, 1)
    marks = [Step(i, i * each, (i + 1) * each, 2.0 - 0.1 * i, 1000, faults, 0) for i in range(steps)]
    return Recording(
        events=list(events),
        windows=[(0, wall)],
        steps=marks,
        minor_faults=faults * max(steps, 1) + sum(e[5][-1][0] for e in events if e[5] and isinstance(e[5][-1], tuple)),
        thread=MAIN,
        thread_names={MAIN: "MainThread"},
        facts={**FACTS, **facts},
    )


def analysis(*events: Event, limits: Roofline | None = None, **options: Any) -> Analysis:
    return Analysis(recording(*events, **options), Limits(limits))
