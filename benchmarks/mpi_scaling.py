"""How a training step scales over ranks: what is measured on this machine, and a model of it for others.

    python benchmarks/mpi_scaling.py                        1, 2 and 4 ranks here, and the table of docs/mpi.md
    python benchmarks/mpi_scaling.py --ranks 1 2 --vocab 8192 --dim 256 --hidden 512 --batch-tokens 16384

A step on R ranks with G groups of blocks, P parameters of 4 bytes, a latency a per message and a bandwidth b per rank:

    compute        ceil(G / R) * t          t: one group of blocks on one rank, measured
    by rank        12 P (R - 1) / (R b) + 2 a log2 R
    deterministic  4 P (ceil(G / R) + 1) (R - 1) / (R b) + (ceil(G / R) (R - 1) + log2 R) a
    update         u                        u: the optimiser's, and drawing the batch, measured

b and a of this machine are measured with the same collectives; those of a network are given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Bandwidth of a rank in bytes a second, and latency of a message in seconds.
NETWORKS = {"10 Gbit/s Ethernet": (1.1e9, 30e-6), "100 Gbit/s": (11e9, 3e-6), "400 Gbit/s": (45e9, 2e-6)}
RANKS = (1, 2, 4, 8, 16, 64, 256, 1024)


def best_time(function: Callable[[], Any], rounds: int, barrier: Callable[[], Any]) -> float:
    """Seconds of the fastest round: what other programs on the machine take away is never less than nothing."""
    times = []
    for _ in range(rounds):
        barrier()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """What one job measures: run by every rank."""
    from fastnll.data import SequenceDataset
    from fastnll.distributed import DistributedObjective, current
    from fastnll.models import NGram
    from fastnll.objective import Objective
    from fastnll.optim import SGD
    from fastnll.sampling import Sampler

    ranks = current()
    assert ranks is not None
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.zipf(1.2, (args.steps + 8) * args.batch_tokens) - 1, args.vocab - 1).astype(np.uint16)
    model = NGram(args.vocab, context=4, dim=args.dim, hidden=args.hidden)
    alone = Objective(model, SequenceDataset(tokens, vocab_size=args.vocab), block_rows=args.block_rows)
    params = model.init(0)
    optimizer = SGD(params, lr=0.01)
    found: dict[str, Any] = {"ranks": ranks.size, "parameters": model.n_parameters}
    for deterministic in (False, True):
        sampler = Sampler(DistributedObjective(alone, deterministic=deterministic), args.batch_tokens, seed=0)
        batches = iter([ids for (ids, _), _ in zip(sampler.epoch(0), range(args.steps + 2), strict=False)])
        shared = sampler.objective

        def step(shared: Any = shared, batches: Any = batches) -> None:
            _, n, grads = shared.batch_value_and_grad(params, next(batches))
            optimizer.step(grads, scale=1 / n)

        step()
        counter = shared.ranks
        before = counter.sent
        step()
        name = "deterministic" if deterministic else "by rank"
        found[f"{name} bytes"] = max(ranks.comm.allgather(counter.sent - before))
        found[name] = best_time(step, args.steps, ranks.comm.Barrier)
    ids = next(iter(Sampler(alone, args.batch_tokens, seed=1).epoch(0)))[0]
    rows = shared._rows.of(shared._rows.spans.take(ids))
    found["groups"] = rows.n_groups
    threads = max(1, rows._threads(params))
    # One group on each thread at once, as in a step: the threads of a rank and its neighbours share the memory.
    some = range(min(threads, rows.n_groups))

    def groups() -> None:
        for _, grads in rows._group_sums(params, some):
            rows._clear(grads)

    groups()
    found["group"] = best_time(groups, args.steps, ranks.comm.Barrier) / len(some)
    grads = {name: np.zeros_like(array) for name, array in params.items()}
    found["update"] = best_time(lambda: optimizer.step(grads), args.steps, ranks.comm.Barrier)
    small, large = np.zeros(ranks.size), np.zeros(model.n_parameters)
    found["latency"] = best_time(lambda: ranks.reduce_scatter(small), 200, ranks.comm.Barrier)
    found["reduce"] = best_time(lambda: ranks.reduce_scatter(large), args.steps, ranks.comm.Barrier)
    return found


def predicted(base: dict[str, Any], n: int, bandwidth: float, latency: float, deterministic: bool) -> float:
    """Seconds of a step on n ranks, from what one rank measured."""
    rounds, p = math.ceil(base["groups"] / n), base["parameters"]
    seconds = rounds * base["group"] + base["update"]
    if n == 1:
        return float(seconds)
    share = (n - 1) / n
    if deterministic:
        messages = rounds * (n - 1) + math.log2(n)
        return float(seconds + 4 * p * (rounds + 1) * share / bandwidth + messages * latency)
    return float(seconds + 12 * p * share / bandwidth + 2 * math.log2(n) * latency)


def run(args: argparse.Namespace, n: int) -> dict[str, Any]:
    from fastnll.distributed import launch_command, launch_environment

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in SIZES]
        command = launch_command(n, [os.path.abspath(__file__), "--out", str(out), *options])
        subprocess.run(command, env=launch_environment(n), check=True)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


SIZES = {"vocab": 1024, "dim": 64, "hidden": 256, "batch_tokens": 8192, "block_rows": 512, "steps": 20}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    for name, default in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--out", help="of a rank: where the figures go")
    args = parser.parse_args(argv)
    if args.out:
        found = measure(args)
        from fastnll.distributed import current

        ranks = current()
        if ranks is not None and ranks.root:
            Path(args.out).write_text(json.dumps(found))
        return 0
    results = [run(args, n) for n in args.ranks]
    base = results[0]
    print(f"{base['parameters']:,} parameters, {base['groups']} groups of {args.block_rows} rows in a batch")
    print("\nMeasured here, against the model with what a rank measured of its own work and of the collectives\n")
    print("| ranks | bytes sent, by rank | deterministic | by rank, ms | model | deterministic, ms | model |")
    print("|---|---|---|---|---|---|---|")
    for found in results:
        n = found["ranks"]
        share = (n - 1) / n
        moved = 8 * found["parameters"] * share
        bandwidth = moved / max(1e-9, found["reduce"] - found["latency"]) if n > 1 else math.inf
        latency = found["latency"] / max(1, 2 * math.log2(n))
        cells = [f"{n}", f"{found['by rank bytes'] / 1e6:.2f} MB", f"{found['deterministic bytes'] / 1e6:.2f} MB"]
        for name in ("by rank", "deterministic"):
            model = predicted(found, n, bandwidth, latency, name == "deterministic")
            cells += [f"{1e3 * found[name]:.1f}", f"{1e3 * model:.1f}"]
        print("| " + " | ".join(cells) + " |")
    print("\nThe model for other networks: times as fast as one rank, and tokens a second, by rank / deterministic\n")
    print("| ranks | tokens of a batch | " + " | ".join(NETWORKS) + " |")
    print("|---|---|" + "---|" * len(NETWORKS))
    for n in RANKS:
        # The batch grows with the ranks where it has too few groups for them.
        scale = max(1, math.ceil(n / base["groups"]))
        larger = {**base, "groups": base["groups"] * scale}
        cells = [f"{n}", f"{args.batch_tokens * scale:,}"]
        for bandwidth, latency in NETWORKS.values():
            one = predicted(larger, 1, bandwidth, latency, False)
            speeds = [one / predicted(larger, n, bandwidth, latency, order) for order in (False, True)]
            cells.append(" / ".join(f"{speed:.3g}" for speed in speeds))
        print("| " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
