"""Work on a dataset in a file against the same work in memory: tokens per second, largest resident set, the same bits.

    python benchmarks/make_large_dataset.py large.fnll
    python benchmarks/large_dataset.py large.fnll                   every job, from the file and from memory
    python benchmarks/large_dataset.py large.fnll --job count --where file --cold

Each measurement is a process of its own, so that its resident set is that of the one job; file and memory alternate.
`--cold` drops the file from the page cache first, so that reading it from the disk is part of the time. Beside the
time stands what the processors worked, which other programs on the machine disturb less.

Jobs: `count` evaluates a bigram model and its gradient (from counts, one pass over the data), `walk` evaluates a model
without counts, block by block, on the first 2 % of the rows, `train` makes 300 steps of an n-gram model on batches
drawn from all of the data, `tables` 300 steps of the bigram model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll.data import SequenceDataset, open_dataset
from fastnll.models import Bigram, Categorical, NGram
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.training import fit

STEPS = 300


def count(dataset: SequenceDataset) -> tuple[int, float]:
    objective = Objective(Bigram(dataset.vocab_size), dataset)
    value, _ = objective.value_and_grad(objective.model.init())
    return objective.n_predicted, value


def walk(dataset: SequenceDataset) -> tuple[int, float]:
    model = Categorical(dataset.vocab_size)
    part = dataset[: max(1, len(dataset) // 50)]
    objective = Objective(model, part, counts=False)
    params = {"logits": np.linspace(-1, 1, dataset.vocab_size, dtype=np.float32)}
    return objective.n_predicted, objective.value(params)


def _train(dataset: SequenceDataset, model: Any, batch_tokens: int) -> tuple[int, float]:
    objective = Objective(model, dataset)
    optimizer = SGD(model.init(0), lr=0.1)
    history = fit(objective, optimizer, steps=STEPS, batch_tokens=batch_tokens, evaluate=False)
    return history.tokens[-1], history.loss[-1]


def train(dataset: SequenceDataset) -> tuple[int, float]:
    return _train(dataset, NGram(dataset.vocab_size, context=4, dim=32, hidden=64), 2048)


def tables(dataset: SequenceDataset) -> tuple[int, float]:
    return _train(dataset, Bigram(dataset.vocab_size), 4096)


JOBS: dict[str, Callable[[SequenceDataset], tuple[int, float]]] = {
    "count": count,
    "walk": walk,
    "train": train,
    "tables": tables,
}


def measure(path: str, job: str, where: str) -> dict[str, Any]:
    """Do one job in this process."""
    dataset = open_dataset(path)
    if where == "memory":
        kept = {"vocab_size": dataset.vocab_size, "check": False}
        dataset = SequenceDataset(np.array(dataset.tokens), np.array(dataset.offsets), **kept)
    start, worked = time.perf_counter(), time.process_time()
    n_tokens, value = JOBS[job](dataset)
    result = {"job": job, "where": where, "tokens": n_tokens, "value": value.hex()}
    result |= {"seconds": time.perf_counter() - start, "cpu": time.process_time() - worked}
    return result | {"peak_gb": peak_gb()}


def peak_gb() -> float:
    """Largest resident set of this process so far, pages of mapped files included."""
    try:
        with open("/proc/self/status", encoding="ascii") as stream:
            # Not ru_maxrss: that begins with what the process that started this one had.
            return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM:")) / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def drop_from_cache(path: str) -> None:
    """Ask the system to forget the pages of a file, so that the next reader waits for the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--job", choices=list(JOBS), action="append")
    parser.add_argument("--where", choices=["file", "memory"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="from the disk, not from the page cache")
    parser.add_argument("--once", action="store_true", help="in this process; prints one JSON object")
    args = parser.parse_args(argv)
    jobs, places = args.job or list(JOBS), args.where or ["file", "memory"]
    if args.once:
        print(json.dumps(measure(args.path, jobs[0], places[0])))
        return 0
    for job in jobs:
        found: dict[str, list[dict[str, Any]]] = {where: [] for where in places}
        for _ in range(args.rounds):
            for where in places:
                if args.cold:
                    drop_from_cache(args.path)
                command = [sys.executable, __file__, args.path, "--job", job, "--where", where, "--once"]
                found[where].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        for where, results in found.items():
            seconds, cpu = (statistics.median(result[key] for result in results) for key in ("seconds", "cpu"))
            rate = results[0]["tokens"] / seconds / 1e6
            peak = max(result["peak_gb"] for result in results)
            print(
                f"{job:8} {where:8} {rate:10.3f} M tokens/s {seconds:8.2f} s, {cpu:8.2f} s of processors, "
                f"resident at most {peak:.2f} GB",
                flush=True,
            )
        if len({result["value"] for results in found.values() for result in results}) > 1:
            print(f"{job}: expected the same bits everywhere, got {found}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
