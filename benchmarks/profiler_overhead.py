"""What profiling costs: off (a branch a call), on (an event), and in a training step.

``python benchmarks/profiler_overhead.py [--json FILE]`` prints the three beside their limits: 50 ns, 1 us, 2 %. What is
compared runs in turns, in one process; each line is the median of the rounds, of steps with its standard error. Times
are CPU time: what other programs do is no cost of these. Exit code 1 if a limit is broken, by two errors for steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import fastnll
from fastnll import events
from fastnll.models import NGram

LIMITS = {"off": 50.0, "on": 1000.0, "step": 2.0}


def plain(x: int) -> int:
    return x


def hooked(x: int) -> int:
    """`plain` with the lines that every operation has."""
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    result = x
    if recorder is not None:
        recorder.done(events.OP, "hooked", start)
    return result


def seconds_a_call(call: Callable[[], object], number: int) -> float:
    # CPU time of this thread: these calls run on one, and what other programs do is no cost of theirs.
    start = time.thread_time()
    for _ in range(number):
        call()
    return (time.thread_time() - start) / number


def in_turns(calls: list[Callable[[], float]], rounds: int) -> list[list[float]]:
    """What each call returns in every round, the calls taken in turns; their order changes from round to round."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds):
        for i in sorted(range(len(calls)), reverse=bool(number % 2)):
            times[i].append(calls[i]())
    return times


def recorded(measure: Callable[[], float]) -> float:
    with fastnll.profile(limits=None):
        return measure()


def calls_ns(rounds: int) -> dict[str, float]:
    """Nanoseconds: the branch while off, and an event while on, of several kinds of calls."""
    logits, targets = np.zeros((8, 10), np.float32), np.arange(8)
    general = fastnll.CrossEntropy(reduction="sum")
    # As many events as a few hundred steps make; their memory is taken anew in every round.
    few = 5000
    shorter = few // 5

    def short() -> object:
        return fastnll.cross_entropy(logits, targets)

    def whole() -> object:
        return general(logits, targets)

    short()
    whole()
    found = in_turns(
        [
            lambda: seconds_a_call(lambda: plain(1), few),
            lambda: seconds_a_call(lambda: hooked(1), few),
            lambda: recorded(lambda: seconds_a_call(lambda: hooked(1), few)),
            lambda: seconds_a_call(short, few),
            lambda: recorded(lambda: seconds_a_call(short, few)),
            lambda: seconds_a_call(whole, shorter),
            lambda: recorded(lambda: seconds_a_call(whole, shorter)),
        ],
        rounds,
    )
    base, off, on, short_off, short_on, general_off, general_on = (1e9 * statistics.median(values) for values in found)
    return {
        "off: branch": off - base,
        "on: event": on - base,
        "on: event of a small batch (8 x 10)": short_on - short_off,
        "on: event of the general path, each of three": (general_on - general_off) / 3,
    }


def step_percent(rounds: int) -> dict[str, tuple[float, float]]:
    """Percent that a small and a usual training step take longer while they are recorded, and its standard error."""
    found = {}
    dataset = fastnll.SequenceDataset(np.random.default_rng(0).integers(0, 256, 200_000), vocab_size=256)
    for batch, block in ((1024, 20), (16384, 3)):
        objective = fastnll.Objective(NGram(256, context=4), dataset)

        def steps(batch: int = batch, block: int = block, objective: fastnll.Objective = objective) -> float:
            optimizer = fastnll.SGD(objective.model.init(0), lr=0.01)
            start = time.process_time()
            fastnll.fit(objective, optimizer, steps=block, batch_tokens=batch, evaluate=False)
            return (time.process_time() - start) / block

        steps()
        off, on = in_turns([steps, lambda steps=steps: recorded(steps)], rounds)  # type: ignore[misc]
        # Neighbours in time, and short blocks: what else the machine does changes from round to round.
        ratios = [100 * (b / a - 1) for a, b in zip(off, on, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        # Of a median, from the quartiles: 0.93 (high - low) / sqrt(n) for normal noise.
        error = 0.93 * (high - low) / len(ratios) ** 0.5
        found[f"step of {batch} tokens ({1e3 * statistics.median(off):.1f} ms)"] = (middle, error)
    return found


def main() -> int:
    """Measure and print; returns 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", metavar="FILE", help="write the numbers")
    args = parser.parse_args()
    calls, steps = calls_ns(args.rounds), step_percent(4 * args.rounds)
    broken = []
    for name, value in calls.items():
        limit = LIMITS["off" if name.startswith("off") else "on"]
        broken += [name] if value > limit else []
        print(f"{name:<48}{value:>9.1f} ns   (limit {limit:.0f})")
    for name, (value, error) in steps.items():
        broken += [name] if value > LIMITS["step"] + 2 * error else []
        print(f"{name:<48}{value:>9.2f} %    +- {error:.2f} (limit {LIMITS['step']:.0f})")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"calls_ns": calls, "step_percent": steps, "limits": LIMITS}, file, indent=1)
    for name in broken:
        print(f"over its limit: {name}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
