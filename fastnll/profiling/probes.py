"""The probes behind one face: compiled where there was a compiler, NumPy elsewhere.

Both classes have the same methods, `threads`, `label` (what ran) and `has_stream`. The NumPy twin is honest but
weaker: its exp writes an array, its update goes through a ufunc, and it has no non-temporal store; tables that
show its numbers say so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["CompiledProbes", "NumpyProbes", "Probes", "make_probes", "missing_reason"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def _compiled() -> Any:
    """Return the extension module, which exists only where there was a compiler."""
    return importlib.import_module("fastnll.profiling._probes")


class Probes(Protocol):
    """What a set of probes can do; every method sweeps its whole array `reps` times."""

    label: str
    threads: int
    has_stream: bool

    def fill(self, x: Floats) -> None:
        """Write to x, each thread the slice that it uses later (first touch)."""

    def read(self, x: Floats, reps: int = 1) -> float:
        """Sum x."""

    def copy(self, dst: Floats, src: Floats, reps: int = 1, *, stream: bool = False) -> None:
        """Copy, with non-temporal stores if `stream`."""

    def update(self, x: Floats, reps: int = 1) -> None:
        """Multiply x by one, in place."""

    def exps(self, reps: int, itemsize: int) -> int:
        """Compute exp in the first-level cache on every thread; returns how many were computed."""


class CompiledProbes:
    """The C probes, on the widest instruction set of this processor.

    Parameters
    ----------
    threads : int
        Threads to ask for; `threads` of the object is what OpenMP gives.
    """

    def __init__(self, threads: int) -> None:
        _probes = _compiled()
        self._c = _probes
        self._isa = len(_probes.isas()) - 1
        self.threads = int(_probes.team(threads))
        self.label = f"compiled, {_probes.isas()[-1]}" + ("" if _probes.has_openmp() else ", no OpenMP: one thread")
        self.has_stream = bool(_probes.has_stream(self._isa))
        # 8 KB each: small enough for any first-level cache, values of a few units as in a softmax.
        self._exp_args: dict[int, Array] = {4: np.linspace(-8, 0, 2048, dtype=np.float32), 8: np.linspace(-8, 0, 1024)}

    def fill(self, x: Floats) -> None:
        """See `Probes.fill`."""
        self._c.fill(x, self.threads)

    def read(self, x: Floats, reps: int = 1) -> float:
        """See `Probes.read`."""
        return float(self._c.read(x, self._isa, reps, self.threads))

    def copy(self, dst: Floats, src: Floats, reps: int = 1, *, stream: bool = False) -> None:
        """See `Probes.copy`."""
        self._c.copy(dst, src, stream, self._isa, reps, self.threads)

    def update(self, x: Floats, reps: int = 1) -> None:
        """See `Probes.update`."""
        self._c.update(x, 1.0, self._isa, reps, self.threads)

    def exps(self, reps: int, itemsize: int) -> int:
        """See `Probes.exps`."""
        args = self._exp_args[itemsize]
        (self._c.exp_f32 if itemsize == 4 else self._c.exp_f64)(args, self._isa, reps, self.threads)
        return args.size * reps * self.threads


class NumpyProbes:
    """The same sweeps with NumPy, which releases the GIL inside each slice.

    Parameters
    ----------
    threads : int
        Python threads that share an array, one slice each.
    """

    has_stream = False

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.label = "NumPy: the compiled probes are not there"
        self._pool = ThreadPoolExecutor(threads)
        # Longer than the compiled probe's: a NumPy call of 2048 elements would measure the call.
        double = np.linspace(-8, 0, 65536)
        self._exp_args: dict[int, Array] = {4: double.astype(np.float32), 8: double}
        self._exp_out = {size: [np.empty_like(x) for _ in range(threads)] for size, x in self._exp_args.items()}

    def _each(self, size: int, work: Callable[[slice], Any], reps: int) -> list[Any]:
        step = -(-size // self.threads)
        parts = [slice(start, min(start + step, size)) for start in range(0, size, step)]

        def repeat(part: slice) -> Any:
            return [work(part) for _ in range(reps)][-1]

        return list(self._pool.map(repeat, parts))

    def fill(self, x: Floats) -> None:
        """See `Probes.fill`."""

        def work(part: slice) -> None:
            x[part] = 1.0

        self._each(x.size, work, 1)

    def read(self, x: Floats, reps: int = 1) -> float:
        """See `Probes.read`."""
        return float(sum(self._each(x.size, lambda part: np.add.reduce(x[part]), reps))) * reps

    def copy(self, dst: Floats, src: Floats, reps: int = 1, *, stream: bool = False) -> None:
        """See `Probes.copy`."""
        if stream:
            raise ValueError("stream: NumPy has no non-temporal store")
        self._each(src.size, lambda part: np.copyto(dst[part], src[part]), reps)

    def update(self, x: Floats, reps: int = 1) -> None:
        """See `Probes.update`."""
        self._each(x.size, lambda part: np.multiply(x[part], np.float32(1), out=x[part]), reps)

    def exps(self, reps: int, itemsize: int) -> int:
        """See `Probes.exps`."""
        args, out = self._exp_args[itemsize], self._exp_out[itemsize]
        self._each(self.threads, lambda part: np.exp(args, out=out[part.start]), reps)
        return args.size * reps * self.threads


def missing_reason() -> str | None:
    """Return why the compiled probes cannot be used, or None.

    Examples
    --------
    >>> missing_reason() is None or "compiled" in missing_reason()
    True
    """
    try:
        _compiled()
    except ImportError as error:
        return f"the compiled probes are not there ({error}); install a C compiler and reinstall"
    return None


def make_probes(threads: int, *, compiled: bool | None = None) -> Probes:
    """Return the best probes of this installation.

    Parameters
    ----------
    threads : int
        At least 1.
    compiled : bool, optional
        Insist on the compiled probes, or on NumPy; None takes what there is.

    Raises
    ------
    ValueError
        For a thread count below 1.
    ImportError
        If `compiled` is True and they are not there.

    Examples
    --------
    >>> make_probes(1, compiled=False).label
    'NumPy: the compiled probes are not there'
    """
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    if compiled is None:
        compiled = missing_reason() is None
    return CompiledProbes(threads) if compiled else NumpyProbes(threads)
