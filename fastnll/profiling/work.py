"""What a recorded call moved and computed, by the model, and the least time that could take on this machine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastnll.events import Call
from fastnll.profiling.cache import load, load_or_measure
from fastnll.profiling.roofline import Bound, Roofline

__all__ = ["Limits", "Work", "plain", "work_of"]

# Floating-point operations an element, an exp counted as one: what the formula needs, not what a kernel does.
# x - max, exp, add; with an output also the multiplication or subtraction that makes it.
_FLOPS = {
    ("logsumexp", "value"): 3,
    ("softmax", "out"): 4,
    ("softmax", "inplace"): 4,
    ("softmax_vjp", "out"): 4,
    ("softmax_vjp", "inplace"): 4,
    ("cross_entropy", "value"): 3,
    ("cross_entropy", "out"): 4,
    ("cross_entropy", "inplace"): 4,
    ("gather", "value"): 3,
    ("sgd_update", "plain"): 2,
    ("sgd_update", "momentum"): 4,
}
# Fresh arrays below this come from memory that the allocator already has: no page is touched first.
_FRESH = 1 << 20
_LARGEST_PAGE = 2 << 20
# Rows of a block, as in the op table (a test compares the two).
ROW_BLOCK = 64


class Work(NamedTuple):
    """The model of one call.

    Attributes
    ----------
    kind : str
        Of its memory traffic, as `Roofline.bound` takes it, or "product".
    read, written : int
        Bytes, each array once: the op table's model, not what a counter would show.
    exps, flops : int
    itemsize : int
        Of an element.
    working_set : int
        Bytes of all arrays together.
    blocks : int
        Blocks of 64 rows that are dealt to threads and whose losses are summed; 0 where there are no rows.
    """

    kind: str
    read: int
    written: int
    exps: int
    flops: int
    itemsize: int
    working_set: int
    blocks: int

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read + self.written


def work_of(call: Call) -> Work:
    """Return the model of a call; an op whose operations are not in the table here has none.

    Examples
    --------
    >>> from fastnll.kernels.spec import OPS
    >>> shape, f4 = (1, 10, 8), np.dtype(np.float32)
    >>> work = work_of(Call(OPS["cross_entropy"], "out", shape, f4, 4, 1, "native", None, 1, 0, None))
    >>> work.kind, work.read, work.written, work.exps, work.flops, work.blocks
    ('copy', 400, 320, 80, 320, 1)
    """
    name = call.spec.name
    rows = len(call.shape) > 1
    v = call.shape[-1] if rows else 1
    n = math.prod(call.shape[:-1]) if rows else math.prod(call.shape)
    itemsize = np.dtype(call.dtype).itemsize
    total = int(call.spec.model_bytes(n, v, itemsize, call.mode))
    written = n * v * itemsize if call.mode in ("out", "inplace", "plain") else 0
    if name == "sgd_update":
        written = n * itemsize * (2 if call.mode == "momentum" else 1)
        kind = "update"
    elif call.mode == "inplace":
        kind = "update"
    elif call.mode == "product":
        kind = "product"
    elif call.mode == "out":
        kind = "fresh" if _touched_first(call) else "copy"
    else:
        kind = "read"
    flops = call.flops or n * v * _FLOPS.get((name, call.mode), 0)
    # An update in place is counted twice in the bytes but is in the cache once.
    working = total - written if kind == "update" else total
    blocks = -(-n // ROW_BLOCK) if rows else 0
    return Work(kind, total - written, written, n * v * call.exps, flops, itemsize, working, blocks)


def _touched_first(call: Call) -> bool:
    """Whether the result went to new pages: memory that is used again has no faults, and one makes at most 2 MB."""
    return call.fresh >= _FRESH and (call.usage is None or call.usage[0] * _LARGEST_PAGE >= call.fresh // 2)


class Limits:
    """The measured limits for the thread counts that come up.

    Parameters
    ----------
    source : "cached", "measure", Roofline or None
        Use those that ``fastnll roofline`` has kept; measure where there are none; these; none.

    Attributes
    ----------
    missing : set of int
        Thread counts that were asked for and have no limits.

    Raises
    ------
    ValueError
        For another source.

    Examples
    --------
    >>> Limits(None).of(1) is None
    True
    """

    def __init__(self, source: Roofline | str | None) -> None:
        if not (source is None or isinstance(source, Roofline) or source in ("cached", "measure")):
            raise ValueError(f'limits: expected "cached", "measure", a Roofline or None, got {source!r}')
        self.source = source
        self.missing: set[int] = set()
        find: Callable[[int], Roofline | None] = self._find
        self._cached = functools.cache(find)

    def _find(self, threads: int) -> Roofline | None:
        if isinstance(self.source, Roofline):
            return self.source if self.source.threads == threads else None
        if self.source is None:
            return None
        return load(threads) if self.source == "cached" else load_or_measure(threads)

    def of(self, threads: int) -> Roofline | None:
        """Return the limits for that many threads, or None."""
        found = self._cached(threads)
        if found is None and self.source is not None:
            self.missing.add(threads)
        return found

    def bound(self, work: Work, threads: int) -> Bound | None:
        """Return the least time of some work and what says so, or None where nothing was measured."""
        limits = self.of(threads)
        if limits is None or not work.bytes:
            return None
        if work.kind == "product":
            # Single precision, in which those of 16-bit numbers are computed too; float64 was not measured.
            rate = limits.rates.get("sgemm") if work.itemsize < 8 else None
            return None if rate is None else Bound(work.flops / rate.median, "sgemm")
        return limits.bound(
            work.kind,
            read=work.read,
            written=work.written,
            exps=work.exps,
            itemsize=work.itemsize,
            working_set=work.working_set,
        )

    def note(self) -> str | None:
        """Return what to do where limits are missing, or None."""
        if not self.missing:
            return None
        counts = sorted(self.missing)
        commands = ", ".join(f"fastnll roofline --threads {n}" for n in counts)
        words = " and ".join(str(n) for n in counts)
        return (
            f"the limits of this machine have not been measured for {words} thread{'s' if counts != [1] else ''}: "
            f"{commands} (half a minute, once), or profile(limits='measure')"
        )


def plain(value: Any) -> Any:
    """Return NumPy numbers and dtypes as plain JSON values.

    Examples
    --------
    >>> plain(np.float32(1.5)), plain(np.dtype("f4"))
    (1.5, 'float32')
    """
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, np.dtype) else value
