"""Who wants to know how far a pass over a dataset has come: a progress bar, and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["report", "watched"]

_watcher: ContextVar[Callable[[int, int], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(callback: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``callback(read, total)`` after every part of a pass over the tokens of a dataset in this block.

    Parameters
    ----------
    callback : callable
        Given the tokens that the pass has read so far, and those it will have read at its end.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset, unigram_counts
    >>> ds = SequenceDataset([0, 2, 2])
    >>> with watched(lambda read, total: print(read, "of", total)):
    ...     _ = unigram_counts(ds)
    3 of 3
    """
    token = _watcher.set(callback)
    try:
        yield
    finally:
        _watcher.reset(token)


def report(read: int, total: int) -> None:
    """Tell the watcher, where there is one."""
    callback = _watcher.get()
    if callback is not None:
        callback(read, total)
