"""Runs `fastnll train` in children and kills them; a program of its own, because a process with threads cannot fork.

    python -m tests.cli.killing KILLS SEED ARGUMENT ...

The same command line every time: the first run begins the folder ``whole`` and is left alone, the others begin or go on
with ``cut`` until it has been killed often enough and then ends. Prints one JSON object: how long the undisturbed run
took, and which checkpoints were there after each kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from fastnll.cli.main import main


def child(argv: list[str], folder: str) -> int:
    """Start a run; its process id."""
    pid = os.fork()
    if pid:
        return pid
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os._exit(main(["train", *argv, "--out", folder, "--resume"]))


def steps(folder: str) -> list[int]:
    """The checkpoints that can be seen in a run folder."""
    return sorted(int(path.name.split("-")[1]) for path in Path(folder, "checkpoint").glob("step-*"))


def begin_and_wait(argv: list[str], folder: str) -> tuple[float, float]:
    """Run undisturbed; seconds until the first record was there, and in all."""
    begin, first = time.monotonic(), 0.0
    pid = child(argv, folder)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        metrics = Path(folder, "metrics.jsonl")
        if not first and (done or (metrics.exists() and metrics.stat().st_size)):
            first = time.monotonic() - begin
        if done:
            assert status == 0, status
            return first, time.monotonic() - begin
        time.sleep(0.001)


def live(argv: list[str], folder: str, checkpoints: int, wait: float) -> int:
    """Run until so many more checkpoints are there, then kill it a moment later; what it ended with."""
    before = max(steps(folder), default=0)
    pid = child(argv, folder)
    met: set[int] = set()
    while len(met) < checkpoints and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        met.update(step for step in steps(folder) if step > before)
        time.sleep(0.0005)
    time.sleep(wait)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def run(kills: int, seed: int, argv: list[str]) -> dict[str, object]:
    """Kill runs until there were enough, then let the last one end."""
    start, seconds = begin_and_wait(argv, "whole")
    # While it begins, or behind the first few checkpoints of this life, within the time that one more takes.
    every = int(argv[argv.index("--checkpoint-every") + 1])
    pause = (seconds - start) * every / max(steps("whole"))
    chance, seen = random.Random(seed), []
    while len(seen) < kills:
        checkpoints = chance.choice([0, 1, 1, 2, 3])
        status = live(argv, "cut", checkpoints, chance.uniform(0.0, pause if checkpoints else start))
        assert os.WIFSIGNALED(status), f"the run ended before it was killed {kills} times"
        seen.append(steps("cut"))
    pid = child(argv, "cut")
    assert os.waitpid(pid, 0)[1] == 0
    return {"first_record_s": start, "seconds": seconds, "seen": seen}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
