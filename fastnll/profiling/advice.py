"""What to do about what was measured, in sentences. A rule looks at one thing, and is silent without it."""

from __future__ import annotations

import math
from collections.abc import Callable

from fastnll.profiling import advice_calls as calls
from fastnll.profiling import advice_process as process
from fastnll.profiling.advice_calls import Advice
from fastnll.profiling.analysis import Analysis

__all__ = ["RULES", "Advice", "advise"]

RULES: tuple[Callable[[Analysis], Advice | None], ...] = (
    calls.fresh_results,
    calls.small_batches,
    calls.overhead,
    calls.float64_logits,
    calls.strided_classes,
    calls.validation,
    calls.backend,
    calls.pinned_isa,
    calls.read_twice,
    process.waiting,
    process.outside,
    process.pools,
    process.oversubscribed,
    process.other_faults,
    process.first_call,
)


def advise(analysis: Analysis) -> list[Advice]:
    """Return what every rule has to say, what costs most first.

    Examples
    --------
    >>> from fastnll.profiling.recording import Recording
    >>> from fastnll.profiling.work import Limits
    >>> waited = Recording(events=[(0, 90, 1, 4, "data", None), (90, 95, 1, 0, "op", None)], windows=[(0, 100)])
    >>> [item.rule for item in advise(Analysis(waited, Limits(None)))]
    ['waiting']
    """
    if not math.isfinite(analysis.wall) or not analysis.wall:
        return []
    found = [item for rule in RULES if (item := rule(analysis)) is not None]
    return sorted(found, key=lambda item: item.seconds, reverse=True)
