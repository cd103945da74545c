"""What the linear head gains from rows that do not count and elements too small to matter: times in turns.

``python benchmarks/head_options.py [--rows N] [--features D] [--classes V] [--rounds R] [--isa NAME]``. Value and all
gradients in float32, into arrays that exist. Peaked rows have an entropy near 1.5 nats and a power-law tail, as
those of a large model; flat ones are those of an untrained one. Filtered gradients are compared with the whole ones.

For times that mean something: an idle machine, OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE not set.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastnll as fn

Array = np.ndarray[Any, Any]


def peaked(n: int, d: int, v: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return hidden, weight and targets: each feature has a power law over a random order of the classes."""
    weight = np.empty((v, d), np.float32)
    tail = -2.1 * np.log(np.arange(1, v + 1))
    for k in range(d):
        weight[rng.permutation(v), k] = tail
    hidden = (np.eye(d)[rng.integers(0, d, n)] + 0.01 * rng.standard_normal((n, d))).astype(np.float32)
    logits = hidden @ weight.T
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    p = fn.softmax(logits[:256])
    print(f"peaked rows: entropy {float(-(p * np.log(p)).sum(axis=1).mean()):.2f} nats")
    return hidden, weight, targets


def flat(n: int, d: int, v: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return the head of a model that has learned nothing."""
    hidden = rng.standard_normal((n, d), dtype=np.float32)
    weight = rng.standard_normal((v, d), dtype=np.float32) * np.float32(0.02)
    return hidden, weight, rng.integers(0, v, n)


def ratio(plain: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """Return the median of other / plain over neighbouring calls."""
    found = []
    for _ in range(rounds + 1):
        a = time.perf_counter()
        plain()
        b = time.perf_counter()
        other()
        found.append((time.perf_counter() - b) / (b - a))
    return float(np.median(found[1:]))


def compare(name: str, head: tuple[Array, Array, Array], allowed: float, rounds: int) -> None:
    """Print what half of the rows and a filter take, in shares of the whole."""
    hidden, weight, targets = head
    half = targets.copy()
    half[::2] = -100
    out = fn.LinearGrads(np.zeros_like(hidden), np.zeros_like(weight), None)
    other = fn.LinearGrads(np.zeros_like(hidden), np.zeros_like(weight), None)
    wrt = ("hidden", "weight")

    def whole() -> None:
        fn.linear_cross_entropy_value_and_grad(hidden, weight, targets, out=out, wrt=wrt)

    def ignored() -> None:
        fn.linear_cross_entropy_value_and_grad(hidden, weight, half, out=other, wrt=wrt)

    def filtered() -> Any:
        return fn.linear_cross_entropy_value_and_grad(hidden, weight, targets, out=other, wrt=wrt, filter=allowed)[1]

    whole()
    report = filtered().filtered
    pairs = ((other.weight, out.weight), (other.hidden, out.hidden))
    errors = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]
    proved = (report.weight_error, report.hidden_error)
    print(f"{name}: half of the rows ignored {ratio(whole, ignored, rounds):.2f} of the time")
    faster = 1 / ratio(whole, filtered, rounds)
    print(
        f"{name}: filter={allowed:g} {faster:.2f} x as fast, {100 * report.kept:.2f} % kept; "
        f"errors {errors[0]:.1e} and {errors[1]:.1e}, proved {proved[0]:.1e} and {proved[1]:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--allowed", type=float, default=1e-3, help="relative error of the gradients")
    parser.add_argument("--isa", help="instruction set (default: the best)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    sizes = (options.rows, options.features, options.classes)
    with fn.using(isa=options.isa):
        for name, make in (("peaked", peaked), ("flat", flat)):
            compare(name, make(*sizes, rng), options.allowed, options.rounds)


if __name__ == "__main__":
    main()
