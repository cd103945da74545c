"""What each option of the loss costs: its time over the plain loss's, in turns, after a check of its result.

``python benchmarks/option_costs.py [--rows N] [--classes V] [--rounds R] [--quick]``. Value and gradient into an
array that exists, float32; `cross_entropy_details` against the plain value. Medians of the ratios of neighbouring
calls, so that a machine that others slow down slows both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastnll as fn


def cases(n: int, v: int, rng: np.random.Generator) -> dict[str, tuple[dict[str, Any], float]]:
    """Return option name -> (keywords, the share of the plain time that is asked for)."""
    return {
        "weight": ({"weight": rng.random(v) + 0.5}, 1.15),
        "token_weight": ({"token_weight": rng.random(n) + 0.5}, 1.15),
        "mask": ({"mask": rng.random(n) < 0.999}, 1.15),
        "label_smoothing": ({"label_smoothing": 0.1}, 1.15),
        "z_loss": ({"z_loss": 1e-4}, 1.15),
        "valid_classes": ({"valid_classes": v - 7}, 1.15),
        "softcap": ({"softcap": 30.0}, 1.5),
        "temperature": ({"temperature": 0.7}, 1.5),
        "class_mask": ({"class_mask": rng.random(v) < 0.9}, 1.5),
    }


def check(x: np.ndarray, t: np.ndarray, options: dict[str, Any]) -> float:
    """Return the largest error of the gradient against float64, in shares of its largest entry, on a few rows."""
    few = {k: (o[:8] if k in ("token_weight", "mask") else o) for k, o in options.items()}
    loss, grad = fn.cross_entropy_value_and_grad(x[:8], t[:8], **few)
    with fn.using(backend="reference"):
        want, exact = fn.cross_entropy_value_and_grad(x[:8].astype(np.float64), t[:8], **few)
    if not np.isclose(loss, want, rtol=1e-6):
        raise SystemExit(f"{options}: the loss is {loss}, the reference says {want}")
    error = float(np.abs(grad - exact).max() / np.abs(exact).max())
    if error > 1e-6:
        raise SystemExit(f"{options}: the gradient is off by {error:.2g} of its largest entry")
    return error


def ratio(plain: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Return the medians of other / plain over neighbouring calls and of plain's seconds."""
    times = []
    for _ in range(rounds + 1):
        a = time.perf_counter()
        plain()
        b = time.perf_counter()
        other()
        times.append((b - a, time.perf_counter() - b))
    pairs = np.array(times[1:])
    return float(np.median(pairs[:, 1] / pairs[:, 0])), float(np.median(pairs[:, 0]))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--quick", action="store_true", help="small: for the checks")
    parser.add_argument("--json", metavar="FILE")
    a = parser.parse_args()
    n, v, rounds = (64, 1000, 3) if a.quick else (a.rows, a.classes, a.rounds)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, v), dtype=np.float32)
    t = rng.integers(0, v - 8, n)
    out = np.zeros_like(x)
    value_and_grad = fn.cross_entropy_value_and_grad
    rows = []
    print(f"{n} x {v} float32, value and gradient into out=: time over the plain loss's\n")
    print(f"{'option':18s} {'x plain':>8s} {'asked':>7s} {'error':>9s}")
    for name, (options, asked) in cases(n, v, rng).items():
        if name == "class_mask":
            t = np.flatnonzero(options["class_mask"])[t % int(options["class_mask"].sum())]
        error = check(x, t, options)
        cost, _ = ratio(
            lambda t=t: value_and_grad(x, t, out=out),
            lambda t=t, options=options: value_and_grad(x, t, out=out, **options),
            rounds,
        )
        rows.append({"option": name, "ratio": cost, "asked": asked, "error": error})
        print(f"{name:18s} {cost:8.2f} {asked:7.2f} {error:9.1e}", flush=True)
    cost, _ = ratio(lambda: fn.cross_entropy(x, t), lambda: fn.cross_entropy_details(x, t), rounds)
    rows.append({"option": "details", "ratio": cost, "asked": 1.5})
    print(f"{'details':18s} {cost:8.2f} {1.5:7.2f}           (over the value)")
    if a.json:
        with open(a.json, "w") as file:
            json.dump({"shape": [n, v], "rounds": rounds, "rows": rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
