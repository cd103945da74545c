"""Progress of what reads whole files, where somebody is looking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastnll.data.watching import watched

__all__ = ["progress", "progress_over"]

# Draws nothing where stderr is no terminal; what is done in half a second needs no bar.
_OPTIONS: dict[str, Any] = {"disable": None, "mininterval": 0.5, "delay": 0.5, "dynamic_ncols": True, "leave": False}


@contextmanager
def progress(name: str) -> Iterator[None]:
    """Show how far the passes over a dataset in this block have come: one bar for each pass."""
    from tqdm.auto import tqdm

    bars: list[Any] = []

    def close() -> None:
        while bars:
            bars.pop().close()

    def advance(read: int, total: int) -> None:
        if not bars or read <= bars[0].n:
            close()
            bars.append(tqdm(total=total, desc=name, unit="tok", unit_scale=True, **_OPTIONS))
        bars[0].update(read - bars[0].n)
        if read >= total:
            close()

    try:
        with watched(advance):
            yield
    finally:
        close()


def progress_over(items: Iterable[Any], name: str, total: int | None = None) -> Iterator[Any]:
    """Yield the items, with a bar that counts them."""
    from tqdm.auto import tqdm

    yield from tqdm(items, desc=name, total=total, unit=" sequences", unit_scale=True, **_OPTIONS)
