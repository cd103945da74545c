"""Correctness first, then time: contenders alternate in one process, round by round.

Each turn of a contender is one call that is not timed, which wakes its threads and brings its arrays back, and one
block of calls that is. The contenders of a round run within a second of each other, so that a slow moment of the
machine slows them all, and ratios are taken within a round. Between turns the process sleeps for some milliseconds:
thread pools that still spin from the last contender would take the cores of the next.
"""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastnll.bench.cases import Case
from fastnll.bench.contenders import CONTENDERS, NotOfferedError, Run
from fastnll.bench.data import Data, make_data
from fastnll.bench.limits import limit_runs
from fastnll.bench.oracle import Error, Oracle
from fastnll.profiling.machine import available_memory

if TYPE_CHECKING:
    from fastnll.bench.linear import LinearOracle

__all__ = ["QUICK", "Admitted", "CaseResult", "Effort", "Timing", "admit", "interleave", "make_oracle", "measure_case"]


def make_oracle(data: Data) -> Oracle | LinearOracle:
    """Return what knows the truth about a case: with or without logits.

    Examples
    --------
    >>> make_oracle(make_data(Case("large", "cross_entropy", (4, 8), (4, 8)))).mean_loss() > 0
    np.True_
    """
    if data.case.features:
        from fastnll.bench.linear import LinearOracle

        return LinearOracle(data)
    return Oracle(data)


@dataclass(frozen=True)
class Effort:
    """How much time to spend.

    Attributes
    ----------
    rounds : int
        Most rounds of a contender.
    least : int
        Fewest, however slow it is.
    seconds : float
        Time for the timed blocks of one contender in one case, between those two.
    block : float
        Seconds of one timed block; short calls are repeated to fill it.
    settle : float
        Sleep before each turn: the idle threads of GNU OpenMP spin for 300,000 pauses, 14 ms on recent Intel cores.
    """

    rounds: int = 15
    least: int = 3
    seconds: float = 2.0
    block: float = 0.003
    settle: float = 0.02


QUICK = Effort(rounds=2, least=2, seconds=0.05, block=0.0005, settle=0.015)


@dataclass
class Admitted:
    """A contender whose result was right."""

    run: Run
    errors: dict[str, Error]
    first_seconds: float


@dataclass
class Timing:
    """The times of one contender: seconds a call, one number a round."""

    seconds: list[float] = field(default_factory=list)
    number: int = 1

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds)

    def ratio_to(self, other: Timing) -> float:
        """Return the median over common rounds of this time over the other's.

        Examples
        --------
        >>> Timing([4.0, 9.0, 2.0]).ratio_to(Timing([2.0, 3.0]))
        2.5
        """
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=False))


@dataclass
class CaseResult:
    """All that was measured in one case.

    Attributes
    ----------
    case : Case
    timings : dict of str to Timing
        By contender.
    modes : dict of str to str
        What each contender did with memory.
    errors : dict of str to dict of str to Error
        By contender and output.
    limits : dict of str to Timing
        The limits, scaled to the bytes and exps of the case.
    left_out : dict of str to str
        Contenders that were asked for and did not take part, with the reason. Those that have nothing to offer
        for the case are not listed.
    """

    case: Case
    timings: dict[str, Timing]
    modes: dict[str, str]
    errors: dict[str, dict[str, Error]]
    limits: dict[str, Timing]
    left_out: dict[str, str]

    def binding(self) -> str | None:
        """Return the limit that binds: the slower of memory and exp, of a copy the faster kind."""
        memory = [name for name in self.limits if name != "exp"]
        if not memory:
            return None
        best = min(memory, key=lambda name: self.limits[name].median)
        return max([best, *(["exp"] if "exp" in self.limits else [])], key=lambda name: self.limits[name].median)

    def share(self, name: str) -> float | None:
        """Return the share of the binding limit that a contender reaches: 1 is the limit itself."""
        limit = self.binding()
        return self.limits[limit].ratio_to(self.timings[name]) if limit and name in self.timings else None


def admit(data: Data, names: Iterable[str], threads: int) -> tuple[dict[str, Admitted], dict[str, str]]:
    """Set the contenders up, run each once and keep those whose result is right.

    Parameters
    ----------
    data : Data
    names : iterable of str
        Keys of `CONTENDERS`.
    threads : int

    Returns
    -------
    admitted : dict of str to Admitted
    left_out : dict of str to str
        The reasons; a contender that offers nothing for the case is in neither.
    """
    oracle = make_oracle(data)
    admitted, left_out = {}, {}
    for name in names:
        try:
            run = CONTENDERS[name].setup(data, threads)
            with run.context():
                if run.before:
                    run.before()
                run.call()  # compiles, loads, touches
                if run.before:
                    run.before()
                start = time.perf_counter()
                raw = run.call()
                first = time.perf_counter() - start
                errors, reason = oracle.check(run.outputs(raw))
                del raw
        except NotOfferedError as error:
            if error.shown:
                left_out[name] = str(error)
            continue
        except Exception as error:  # whatever a peer raises, the others still run; the reason is shown
            left_out[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        if reason is None:
            admitted[name] = Admitted(run, errors, first)
        else:
            left_out[name] = reason
    return admitted, left_out


def _block(run: Run, number: int) -> float:
    if run.before:
        run.before()
    return timeit.timeit(run.call, number=number) / number


def _plan(run: Run, first: float, effort: Effort, *, autorange: bool) -> tuple[int, int]:
    """Return the calls of a block and the rounds."""
    if autorange:
        with run.context():
            number, taken = timeit.Timer(run.call).autorange()
        return number, max(effort.least, min(effort.rounds, int(effort.seconds / taken)))
    number = max(1, int(effort.block / max(first, 1e-7)))
    return number, max(effort.least, min(effort.rounds, int(effort.seconds / max(first * number, 1e-9))))


def interleave(runs: dict[str, tuple[Run, float]], effort: Effort, *, autorange: bool = False) -> dict[str, Timing]:
    """Time the runs in turns.

    Parameters
    ----------
    runs : dict of str to (Run, float)
        Each with the seconds of its first warm call.
    effort : Effort
    autorange : bool
        Let timeit choose the calls of a block (0.2 s): for calls of microseconds.

    Returns
    -------
    dict of str to Timing
        Contenders that ran out of time have fewer rounds, the first ones.
    """
    plans = {name: _plan(run, first, effort, autorange=autorange) for name, (run, first) in runs.items()}
    timings = {name: Timing(number=number) for name, (number, _) in plans.items()}
    for turn in range(max((rounds for _, rounds in plans.values()), default=0)):
        for name, (run, first) in runs.items():
            number, rounds = plans[name]
            if turn >= rounds:
                continue
            time.sleep(effort.settle)
            with run.context():
                if first < 0.5:  # a slower call is its own warm-up
                    _block(run, 1)
                timings[name].seconds.append(_block(run, number))
    return timings


def measure_case(case: Case, names: Iterable[str], threads: int, effort: Effort | None = None) -> CaseResult:
    """Check and time the contenders and the limits of one case.

    Parameters
    ----------
    case : Case
    names : iterable of str
        Keys of `CONTENDERS`.
    threads : int
    effort : Effort, optional
    """
    effort = effort or Effort()
    memory = available_memory()
    if memory and case.memory() > memory:
        reason = f"needs about {case.memory() / 2**30:.1f} GB of memory, {memory / 2**30:.1f} GB are free"
        return CaseResult(case, {}, {}, {}, {}, dict.fromkeys(names, reason))
    try:
        data = make_data(case)
    except ImportError as error:  # bfloat16 without ml_dtypes
        return CaseResult(case, {}, {}, {}, {}, dict.fromkeys(names, str(error)))
    admitted, left_out = admit(data, names, threads)
    runs = {name: (a.run, a.first_seconds) for name, a in admitted.items()}
    limits = limit_runs(case, threads)
    for name, (run, _) in limits.items():
        _block(run, 1)
        runs["limit:" + name] = (run, _block(run, 1))
    timings = interleave(runs, effort, autorange=case.group == "call" and effort is not QUICK)
    scaled = {
        name: Timing([s * factor for s in timings["limit:" + name].seconds], timings["limit:" + name].number)
        for name, (_, factor) in limits.items()
    }
    return CaseResult(
        case,
        {name: timings[name] for name in admitted},
        {name: a.run.mode for name, a in admitted.items()},
        {name: a.errors for name, a in admitted.items()},
        scaled,
        left_out,
    )
