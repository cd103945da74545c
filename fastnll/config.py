"""Which backend, instruction set and number of threads a call uses.

Order of precedence, the first that speaks wins: an argument of the call (``threads=``), the innermost
`using` block, the environment (``FASTNLL_BACKEND``, ``FASTNLL_ISA``, ``FASTNLL_NUM_THREADS``, then
``OMP_NUM_THREADS``), and last the cores that affinity and cgroup leave to this process.
"""

from __future__ import annotations

import contextvars
import functools
import math
import operator
import os
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, SupportsIndex

from fastnll import events
from fastnll.errors import BackendError, OptionError

__all__ = ["BACKENDS", "ISAS", "Settings", "available_cores", "current", "resolve_threads", "threads_for", "using"]

BACKENDS = ("native", "numba", "reference")
ISAS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")


class Settings(NamedTuple):
    """What `using` has pinned; None means "not pinned"."""

    backend: str | None = None
    isa: str | None = None
    threads: int | None = None


settings: contextvars.ContextVar[Settings] = contextvars.ContextVar("fastnll_settings", default=Settings())  # noqa: B039
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    # libgomp keeps a pool of threads that fork does not copy: a parallel region entered in the child
    # waits for them for ever. The child therefore computes on its calling thread.
    os.register_at_fork(after_in_child=_after_fork)


def current() -> Settings:
    """Return the settings pinned by the innermost `using` block.

    Examples
    --------
    >>> with using(threads=1):
    ...     current().threads
    1
    """
    return settings.get()


def _checked(name: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise OptionError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
    return value


class using:  # noqa: N801 - reads as a statement
    """Pin the backend, the instruction set or the thread count for a block of code.

    Settings belong to the thread (or async task) that enters the block and nest; whatever is not named
    keeps its outer value.

    Parameters
    ----------
    backend : {"native", "numba", "reference"}, optional
        Which implementation of the kernels runs.
    isa : {"baseline", "avx2", "avx512", "avx512_bf16", "amx"}, optional
        Which table of the native backend runs; the best the machine has where not named. "avx512_bf16" is "avx512"
        with the processor's instructions for bfloat16, "amx" that with tile registers for the matrix products of the
        linear head.
    threads : int, optional
        Threads per call, at least 1. Results do not depend on it, to the bit.

    Raises
    ------
    OptionError
        For a name that does not exist or a thread count below 1.
    BackendError
        When a call needs a backend or table that this installation or machine does not have.

    Examples
    --------
    >>> import numpy as np, fastnll as fn
    >>> with fn.using(backend="reference", threads=1):
    ...     float(fn.logsumexp(np.zeros(8)))
    2.0794415416798357
    """

    def __init__(
        self, backend: str | None = None, *, isa: str | None = None, threads: SupportsIndex | None = None
    ) -> None:
        self._new = Settings(
            _checked("backend", backend, BACKENDS),
            _checked("isa", isa, ISAS),
            None if threads is None else _thread_count("threads", threads),
        )
        self._tokens: list[contextvars.Token[Settings]] = []

    def __enter__(self) -> using:
        old = settings.get()
        new = self._new
        self._tokens.append(
            settings.set(Settings(new.backend or old.backend, new.isa or old.isa, new.threads or old.threads))
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        settings.reset(self._tokens.pop())


def _thread_count(name: str, value: SupportsIndex) -> int:
    try:
        # Asked, not tested for: isinstance with a protocol takes 5 us, at every call with threads=.
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise OptionError(f"{name}: expected an integer of at least 1, got {value!r}")
    if count < 1:
        raise OptionError(f"{name}: expected an integer of at least 1, got {count}")
    return count


def _cgroup_quota() -> float:
    """Return the CPUs that the control group grants (version 2, then 1), or infinity."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    if quota in {"max", "-1"}:
        return math.inf
    return int(quota) / int(period)


def available_cores() -> int:
    """Return how many cores affinity and the control group leave to this process, at least 1.

    Examples
    --------
    >>> available_cores() >= 1
    True
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, math.ceil(_cgroup_quota()) if _cgroup_quota() < affinity else affinity))


@functools.cache
def _default_threads() -> int:
    for name in ("FASTNLL_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text:
            if not text.isdigit() or int(text) < 1:
                raise OptionError(f"{name}: expected an integer of at least 1, got {text!r}; unset it or correct it")
            return int(text)
    return available_cores()


def resolve_threads(threads: SupportsIndex | None = None) -> int:
    """Return how many threads a call may use.

    Parameters
    ----------
    threads : int, optional
        The call's own argument; it wins over everything but a fork.

    Raises
    ------
    OptionError
        For a count below 1, from the argument or the environment.

    Examples
    --------
    >>> resolve_threads(3)
    3
    """
    if threads is not None:
        count = _thread_count("threads", threads)
    else:
        count = settings.get().threads or _default_threads()
    return 1 if _forked else count


# Waking a second thread costs some microseconds, in which one core gets through about this many logits.
ELEMENTS_PER_THREAD = 32768
events.facts["elements_per_thread"] = lambda: ELEMENTS_PER_THREAD


def threads_for(n_elements: int, threads: SupportsIndex | None = None) -> int:
    """Return how many threads a call over so many logits runs on: `resolve_threads`, fewer for little work.

    Examples
    --------
    >>> threads_for(80, threads=4), threads_for(80_000, threads=4)
    (1, 2)
    """
    return max(1, min(resolve_threads(threads), n_elements // ELEMENTS_PER_THREAD))


def pinned_backend() -> str | None:
    """Return the backend that `using` or ``FASTNLL_BACKEND`` asks for, or None.

    Examples
    --------
    >>> with using(backend="reference"):
    ...     pinned_backend()
    'reference'
    """
    return settings.get().backend or _env_name("FASTNLL_BACKEND", BACKENDS)


def pinned_isa() -> str | None:
    """Return the instruction set that `using` or ``FASTNLL_ISA`` asks for, or None.

    Examples
    --------
    >>> with using(isa="baseline"):
    ...     pinned_isa()
    'baseline'
    """
    return settings.get().isa or _env_name("FASTNLL_ISA", ISAS)


@functools.cache
def _env_name(name: str, allowed: tuple[str, ...]) -> str | None:
    text = os.environ.get(name, "").strip().lower()
    if text and text not in allowed:
        raise BackendError(f"{name}: expected one of {', '.join(allowed)}, got {text!r}; unset it or correct it")
    return text or None
