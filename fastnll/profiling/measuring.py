"""Measuring the limits: the probes over arrays of the right sizes, in the right order."""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll.profiling.machine import Machine, available_memory, describe
from fastnll.profiling.probes import Floats, Probes, make_probes, missing_reason
from fastnll.profiling.roofline import CEILINGS, Rate, Roofline, format_bytes
from fastnll.profiling.sgemm import measure_sgemm

__all__ = ["measure"]

MAX_ARRAY_BYTES = 2**30
_SWEPT = ("read", "copy", "copy_nt", "update")


def _time(call: Callable[[], Any], rounds: int) -> list[float]:
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _array_bytes(machine: Machine) -> tuple[int, list[str]]:
    """Return the size of the arrays, and notes where it is not what it should be."""
    wanted = 4 * machine.llc_bytes or 2**28
    memory = available_memory()
    size = min(max(wanted, 2**26), MAX_ARRAY_BYTES, *((memory // 6,) if memory else ()))
    if size >= wanted:
        return size, []
    why = "the cap" if size == MAX_ARRAY_BYTES else "a sixth of the free memory"
    return size, [
        f"4 x the last-level cache would be {format_bytes(wanted)}; "
        f"{format_bytes(size)} is {why}: part of an array may stay in the cache"
    ]


def _memory_calls(probes: Probes, a: Floats, b: Floats, reps: int) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return for each kind of traffic the bytes it moves and the call."""
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "read": (a.nbytes * reps, lambda: probes.read(a, reps)),
        "copy": (2 * b.nbytes * reps, lambda: probes.copy(b, a[: b.size], reps)),
        "update": (2 * a.nbytes * reps, lambda: probes.update(a, reps)),
    }
    if probes.has_stream:
        calls["copy_nt"] = (2 * b.nbytes * reps, lambda: probes.copy(b, a[: b.size], reps, stream=True))
    return calls


def _first_write(probes: Probes, nbytes: int, *, small_pages: bool) -> Callable[[], None]:
    def call() -> None:
        if small_pages:
            with mmap.mmap(-1, nbytes) as memory:
                memory.madvise(mmap.MADV_NOHUGEPAGE)
                view = np.frombuffer(memory, dtype=np.float32)
                probes.fill(view)
                del view  # the mapping cannot be closed while an array looks at it
        else:
            probes.fill(np.empty(nbytes // 4, dtype=np.float32))

    return call


def measure(threads: int, *, quick: bool = False, compiled: bool | None = None) -> Roofline:
    """Measure the limits of this machine; takes some seconds and up to two arrays of 1 GB.

    Parameters
    ----------
    threads : int
        Threads of every probe.
    quick : bool
        Small arrays and two rounds: a check that everything runs, not a measurement.
    compiled : bool, optional
        Insist on the compiled probes or on NumPy; None takes what there is.

    Raises
    ------
    ValueError
        For a thread count below 1.
    ImportError
        If `compiled` is True and the compiled probes are not there.

    Examples
    --------
    >>> "read" in measure(1, quick=True).rates
    True
    """
    machine = describe()
    probes = make_probes(threads, compiled=compiled)
    rounds = 2 if quick else 9
    size, notes = (2**22, ["quick: far too small to mean anything"]) if quick else _array_bytes(machine)
    if probes.threads != threads:
        notes.append(f"{threads} threads were asked for, {probes.threads} ran")
    if compiled is None and missing_reason():
        notes.append(f"NumPy measured these: {missing_reason()}")
    rates: dict[str, Rate] = {}
    sweep: dict[str, list[tuple[int, float]]] = {}

    a, b = (np.empty(size // 4, dtype=np.float32) for _ in range(2))
    probes.fill(a)
    probes.fill(b)
    for kind, (amount, call) in _memory_calls(probes, a, b, 1).items():
        rates[kind] = Rate.of(amount, _time(call, rounds))
    # Powers of four up to the arrays; `working` counts all bytes in use, so a copy gets half for each side.
    for working in [size >> shift for shift in range(16, -1, -2) if size >> shift >= 2**16]:
        reps = max(1, 2**20 // working if quick else 2**26 // working)
        whole, half = a[: working // 4], b[: working // 8]
        for kind, (amount, call) in _memory_calls(probes, whole, half, reps).items():
            sweep.setdefault(kind, []).append((working, Rate.of(amount, _time(call, min(rounds, 5))).median))
    del a, b

    fresh = size // 4
    rates["fresh"] = Rate.of(fresh, _time(_first_write(probes, fresh, small_pages=False), rounds))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        rates["fresh_4k"] = Rate.of(fresh, _time(_first_write(probes, fresh, small_pages=True), rounds))
    for name, itemsize in (("exp_f32", 4), ("exp_f64", 8)):
        amount = probes.exps(1, itemsize)
        reps = max(1, (2**18 if quick else 2**24) // amount)
        amount *= reps
        rates[name] = Rate.of(amount, _time(lambda r=reps, i=itemsize: probes.exps(r, i), rounds))  # type: ignore[misc]
    product = measure_sgemm(threads, n=256 if quick else 2048, rounds=rounds)
    if "error" in product:
        notes.append(product["error"])
    else:
        flops = [1e9 * rate for rate in product["gflops"]]
        rates["sgemm"] = Rate(statistics.median(flops), max(flops))
        notes.append(f"matrix product: {product['library']}, {256 if quick else 2048} on a side")
    ordered = {name: rates[name] for name in CEILINGS if name in rates}
    swept = {kind: sweep[kind] for kind in _SWEPT if kind in sweep}
    return Roofline(machine, probes.threads, probes.label, size, ordered, swept, notes)
