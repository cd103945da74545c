"""Peak memory of one call, for each contender in a process of its own.

What is reported is the most that the process grew by during the call, beyond the arrays it was given: results,
temporaries, and pages that the library touches for the first time. Before that the contender has run on the small
shape of the case, so that imports, thread pools and compiled kernels are not counted; those that compile for each shape
have run on the full one, for it is not the compiler's memory that is asked for.

Linux resets a process' peak resident set when 5 is written to ``/proc/self/clear_refs``; elsewhere nothing is measured.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastnll.bench.cases import CASES, Case
from fastnll.bench.contenders import CONTENDERS, NotOfferedError, Run
from fastnll.bench.data import make_data

__all__ = ["MEMORY_CASES", "measure_memory", "peak_of"]

# A loss, its gradient to fresh memory and in place: 262 MB of logits, and half of that in 16 bits.
MEMORY_CASES = (
    "cross_entropy-2048x32000-float32-value",
    "cross_entropy_value_and_grad-2048x32000-float32-fresh",
    "cross_entropy_value_and_grad-2048x32000-float32-inplace",
    "cross_entropy_value_and_grad-2048x32000-bfloat16-fresh",
    "linear_cross_entropy-2048x32000xd512-float32-value",
    "linear_cross_entropy_value_and_grad-2048x32000xd512-float32-out",
)
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident(field: str) -> int:
    """Bytes of a line of the process' status: VmRSS now, VmHWM at most since the last reset."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_STATUS} has no line {field}")


# Memory that is freed goes back to the system at once: what making the data has left behind must not serve the call.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def _call(run: Run) -> None:
    with run.context():
        if run.before:
            run.before()
        run.outputs(run.call())


def peak_of(case: Case, contender: str, threads: int) -> dict[str, Any]:
    """Measure one call in this process.

    Parameters
    ----------
    case : Case
    contender : str
        Key of `CONTENDERS`.
    threads : int

    Returns
    -------
    dict
        ``peak_bytes``, ``logits_bytes`` and ``mode``: what the contender does with its result.

    Raises
    ------
    NotOfferedError
        If the contender has nothing for the case.
    OSError
        Where the system does not say.
    """
    entry = CONTENDERS[contender]
    _call(entry.setup(make_data(case if entry.compiled else case.quick()), threads))
    data = make_data(case)
    run = entry.setup(data, threads)
    with run.context():
        if run.before:
            run.before()
        gc.collect()
        _RESET.write_text("5")
        before = _resident("VmRSS")
        result = run.call()
        peak = _resident("VmHWM") - before
        del result
    return {"peak_bytes": max(0, peak), "logits_bytes": data.x.nbytes, "mode": run.mode}


def measure_memory(
    names: Iterable[str], threads: int, *, cases: Iterable[str] = MEMORY_CASES, quick: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the peak memory of every contender in every case.

    Parameters
    ----------
    names : iterable of str
        Keys of `CONTENDERS`.
    threads : int
    cases : iterable of str
        Names of cases.
    quick : bool
        The small shapes.

    Yields
    ------
    dict
        ``case``, ``contender``, and what `peak_of` returns or ``left_out``, the reason why not.
    """
    chosen = [case for case in CASES if case.name in set(cases)]
    for case in chosen:
        for name in names:
            # Each in a fresh process: what one library keeps for itself must not serve the next.
            request = json.dumps({"case": case.name, "contender": name, "threads": threads, "quick": quick})
            done = subprocess.run(
                [sys.executable, "-m", "fastnll.bench.memory", request],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **_MALLOC},
            )
            if done.returncode == 0:
                answer = json.loads(done.stdout.splitlines()[-1])
            else:
                answer = {"left_out": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
            if answer is not None:
                yield {"case": case.name, "contender": name, **answer}


def _main(request: dict[str, Any]) -> None:
    case = next(case for case in CASES if case.name == request["case"])
    if request["quick"]:
        case = case.quick()
    try:
        answer: dict[str, Any] | None = peak_of(case, request["contender"], request["threads"])
    except NotOfferedError:
        answer = None
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
