"""The limits of this machine, measured: memory by kind of traffic, exp, page faults, one matrix product.

A kernel that streams an array cannot beat the memory, and one that computes an exp for each element cannot
beat the exp. Which of them binds, and how close a kernel comes, can only be said with numbers taken on the same
machine with the same number of threads. STREAM's rules are kept: arrays of four times the last-level cache where
that is affordable, first touch by the thread that uses the page, several rounds.

Bytes are counted as the program sees them: a copy of b bytes moves 2 b. A regular store also makes the processor
read the line first; that this costs a third of the copy's speed shows as the difference to the non-temporal copy.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fastnll.profiling.machine import Machine

__all__ = ["CEILINGS", "Bound", "Rate", "Roofline", "format_bytes"]

# name -> (what it is, unit, factor from the stored number to the unit)
CEILINGS: dict[str, tuple[str, str, float]] = {
    "read": ("read only (sum)", "GB/s", 1e-9),
    "copy": ("copy, regular stores, read + write", "GB/s", 1e-9),
    "copy_nt": ("copy, non-temporal stores, read + write", "GB/s", 1e-9),
    "update": ("update in place, read + write", "GB/s", 1e-9),
    "fresh": ("first write to memory from NumPy", "GB/s", 1e-9),
    "fresh_4k": ("first write to memory in 4 KB pages", "GB/s", 1e-9),
    "exp_f32": ("exp, float32", "G/s", 1e-9),
    "exp_f64": ("exp, float64", "G/s", 1e-9),
    "sgemm": ("matrix product, float32", "GFLOP/s", 1e-9),
}


@dataclass(frozen=True)
class Rate:
    """One measured rate, in bytes, exps or floating-point operations a second."""

    median: float
    best: float

    @classmethod
    def of(cls, amount: float, seconds: list[float]) -> Rate:
        """Return the rate of doing `amount` in each of the times.

        Examples
        --------
        >>> Rate.of(8.0, [2.0, 1.0, 4.0])
        Rate(median=4.0, best=8.0)
        """
        return cls(amount / statistics.median(seconds), amount / min(seconds))


class Bound(NamedTuple):
    """The least time a piece of work can take here, and the name of the limit that says so."""

    seconds: float
    name: str


@dataclass(frozen=True)
class Roofline:
    """The limits of one machine for one thread count.

    Attributes
    ----------
    machine : Machine
    threads : int
    method : str
        Which probes ran.
    array_bytes : int
        Size of each array of the memory rates.
    rates : dict of str to Rate
        Keys as in `CEILINGS`; a rate that this machine or installation cannot measure is not there.
    sweep : dict of str to list of (int, float)
        Median rate by working set, in bytes and bytes a second: what a smaller array gets from the caches.
    notes : list of str
        What a reader of the numbers has to know.
    """

    machine: Machine
    threads: int
    method: str
    array_bytes: int
    rates: dict[str, Rate]
    sweep: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def memory_rate(self, kind: str, working_set: int | None = None) -> float:
        """Return the bytes a second of one kind of traffic.

        Parameters
        ----------
        kind : str
            "read", "copy" (the better of the two), "copy_nt" or "update".
        working_set : int, optional
            Bytes of all arrays together; the rate is interpolated in the logarithm of the size between the
            measured ones. None gives the rate of the largest arrays, the memory itself.

        Examples
        --------
        >>> from fastnll.profiling import measure
        >>> limits = measure(1, quick=True)
        >>> limits.memory_rate("read") > 0
        True
        """
        if kind == "copy" and "copy_nt" in self.rates:
            return max(self._rate_at("copy", working_set), self._rate_at("copy_nt", working_set))
        return self._rate_at(kind, working_set)

    def _rate_at(self, kind: str, working_set: int | None) -> float:
        points = self.sweep.get(kind, [])
        if working_set is None or not points:
            return self.rates[kind].median
        sizes = [math.log(size) for size, _ in points]
        return float(np.interp(math.log(max(working_set, 1)), sizes, [rate for _, rate in points]))

    def bound(
        self,
        kind: str,
        *,
        read: int,
        written: int = 0,
        exps: int = 0,
        itemsize: int = 4,
        working_set: int | None = None,
    ) -> Bound:
        """Return the least time for some traffic and exps, and which of the two it is.

        Parameters
        ----------
        kind : str
            "read", "copy", "update", or "fresh": a copy to memory that was never touched.
        read, written : int
            Bytes.
        exps : int
            Exponentials.
        itemsize : int
            8 takes the rate of the double-precision exp, anything less the single-precision one.
        working_set : int, optional
            As in `memory_rate`.
        """
        if kind == "fresh":
            reading = read / self.memory_rate("read", working_set)
            memory = Bound(reading + written / self.rates["fresh"].median, "fresh memory")
        else:
            memory = Bound((read + written) / self.memory_rate(kind, working_set), kind)
        compute = Bound(exps / self.rates["exp_f64" if itemsize == 8 else "exp_f32"].median, "exp")
        return max(memory, compute)

    def table(self) -> str:
        """Return the limits as text."""
        cache = format_bytes(self.machine.llc_bytes) if self.machine.llc_bytes else "not reported"
        lines = [
            f"machine   {self.machine.cpu}, {self.machine.cores} cores, {self.machine.system}",
            f"threads   {self.threads}",
            f"cache     {cache} (last level)",
            f"probes    {self.method}; arrays of {format_bytes(self.array_bytes)}",
            *(f"note      {note}" for note in self.notes),
            "",
            f"{'limit':<42}{'median':>9}{'best':>9}",
        ]
        for name, rate in self.rates.items():
            label, unit, factor = CEILINGS[name]
            lines.append(f"{label:<42}{rate.median * factor:>9.1f}{rate.best * factor:>9.1f} {unit}")
        if self.sweep:
            sizes = [size for size, _ in self.sweep["read"]]
            lines += ["", "GB/s by bytes in use  " + "".join(f"{format_bytes(size):>9}" for size in sizes)]
            for kind, points in self.sweep.items():
                lines.append(f"{kind:<22}" + "".join(f"{rate * 1e-9:>9.1f}" for _, rate in points))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Roofline:
        """Build the object that `to_dict` described.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the values are not those of a roofline.

        Examples
        --------
        >>> from fastnll.profiling import measure
        >>> limits = measure(1, quick=True)
        >>> Roofline.from_dict(limits.to_dict()) == limits
        True
        """
        return cls(
            machine=Machine(**values["machine"]),
            threads=int(values["threads"]),
            method=str(values["method"]),
            array_bytes=int(values["array_bytes"]),
            rates={name: Rate(**rate) for name, rate in values["rates"].items() if name in CEILINGS},
            sweep={kind: [(int(s), float(r)) for s, r in points] for kind, points in values["sweep"].items()},
            notes=[str(note) for note in values["notes"]],
        )


def format_bytes(count: float) -> str:
    """Return a size in binary units.

    Examples
    --------
    >>> format_bytes(503316480)
    '480 MB'
    """
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GB"
