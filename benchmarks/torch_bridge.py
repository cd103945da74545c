"""The PyTorch bridge against PyTorch: how many times longer PyTorch takes, and what a small call costs.

``python benchmarks/torch_bridge.py [--json FILE]`` prints, for each case, the median of both in turns in one process,
and their ratio, after their results have agreed. Two ratios are promised: 2048 x 32000 forward and backward at least
10, and 8 x 10 at least 1 / 1.5. Exit code 1 if one is broken (with ``--quick``, shapes are small and only the agreement
counts).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

import fastnll.interop.torch as bridge

Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """What both libraries do: a call of (library) that returns tensors, its promise, and calls in a block."""

    name: str
    call: Call
    least: float | None = None
    number: int = 1


def backward(x: torch.Tensor, loss: Call) -> Call:
    def call(lib: Any) -> Any:
        x.grad = None
        value = loss(lib)
        value.backward()
        return value, x.grad

    return call


def small_cases(number: int) -> list[Case]:
    x, t = torch.randn(8, 10), torch.randint(10, (8,))
    leaf = x.clone().requires_grad_()
    least = 1 / 1.5
    return [
        Case("8 x 10, forward", lambda lib: lib.cross_entropy(x, t), least, number),
        Case("8 x 10, forward for a backward", lambda lib: lib.cross_entropy(leaf, t), least, number),
        Case("8 x 10, forward and backward", backward(leaf, lambda lib: lib.cross_entropy(leaf, t)), least, number),
        Case(
            "8 x 10, label smoothing, both",
            backward(leaf, lambda lib: lib.cross_entropy(leaf, t, label_smoothing=0.1)),
            least,
            number,
        ),
        Case("8 x 10, one row's loss each", lambda lib: lib.cross_entropy(x, t, reduction="none"), least, number),
        Case("8 x 10, log_softmax", lambda lib: lib.log_softmax(x, 1), least, number),
        Case("8 x 10, nll_loss", lambda lib: lib.nll_loss(x, t), least, number),
    ]


def large_cases(n: int, v: int, promised: bool) -> list[Case]:
    t = torch.randint(v, (n,))
    leaf = torch.randn(n, v).requires_grad_()
    half = leaf.detach().bfloat16().requires_grad_()
    wide = leaf.detach().view(n // 64, 64, v).clone().requires_grad_()
    targets = t.view(n // 64, 64)
    shape = f"{n} x {v}"
    return [
        Case(f"{shape}, forward", lambda lib: lib.cross_entropy(leaf.detach(), t)),
        Case(
            f"{shape}, forward and backward",
            backward(leaf, lambda lib: lib.cross_entropy(leaf, t)),
            10.0 if promised else None,
        ),
        Case(f"{shape}, loss / 3", backward(leaf, lambda lib: lib.cross_entropy(leaf, t) / 3)),
        Case(
            f"{shape}, one row's loss each, their mean",
            backward(leaf, lambda lib: lib.cross_entropy(leaf, t, reduction="none").mean()),
        ),
        Case(
            f"{shape}, label smoothing",
            backward(leaf, lambda lib: lib.cross_entropy(leaf, t, label_smoothing=0.1)),
        ),
        Case(f"{shape}, bfloat16", backward(half, lambda lib: lib.cross_entropy(half, t))),
        Case(
            f"{n // 64} x 64 x {v}, transposed",
            backward(wide, lambda lib: lib.cross_entropy(wide.transpose(1, 2), targets)),
        ),
        Case(
            f"{shape}, nll_loss(log_softmax)",
            backward(leaf, lambda lib: lib.nll_loss(lib.log_softmax(leaf, 1), t)),
        ),
    ]


def head_case(n: int, d: int, v: int) -> Case:
    hidden, weight = torch.randn(n, d).requires_grad_(), (0.02 * torch.randn(v, d)).requires_grad_()
    t, options = torch.randint(v, (n,)), torch.nn.LinearCrossEntropyOptions()

    def call(lib: Any) -> Any:
        hidden.grad = weight.grad = None
        loss = lib.linear_cross_entropy(hidden, weight, t, options=options)
        loss.backward()
        return loss, hidden.grad, weight.grad

    return Case(f"linear head {n}, {d}, {v}, all gradients", call)


def seconds(case: Case, lib: Any) -> float:
    start = time.perf_counter()
    for _ in range(case.number):
        case.call(lib)
    return (time.perf_counter() - start) / case.number


def agreement(case: Case) -> None:
    """Raise AssertionError if the two do not return the same."""
    results = []
    for lib in (functional, bridge):
        found = case.call(lib)
        found = found if isinstance(found, tuple) else (found,)
        results.append([r.detach().clone() for r in found])
    for theirs, ours in zip(*results, strict=True):
        bound = 0.05 if ours.dtype == torch.bfloat16 else 1e-4
        size = float(theirs.abs().max())
        assert ours.dtype == theirs.dtype and float((ours - theirs).abs().max()) <= bound * size, case.name


def measure(case: Case, rounds: int) -> dict[str, Any]:
    agreement(case)
    times: dict[str, list[float]] = {"torch": [], "fastnll": []}
    for i in range(rounds):
        order = [("torch", functional), ("fastnll", bridge)]
        for name, lib in order if i % 2 else order[::-1]:
            times[name].append(seconds(case, lib))
    theirs, ours = (statistics.median(times[name]) for name in ("torch", "fastnll"))
    # Ratios within a round: what slows the machine for a while slows both.
    ratio = statistics.median(a / b for a, b in zip(times["torch"], times["fastnll"], strict=True))
    return {"case": case.name, "torch": theirs, "fastnll": ours, "ratio": ratio, "least": case.least, "times": times}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small shapes: the agreement alone")
    parser.add_argument("--small", action="store_true", help="the 8 x 10 cases alone")
    parser.add_argument("--json", help="write every time to this file")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    cases = small_cases(20 if options.quick else 2000)
    if not options.small:
        cases += large_cases(*((128, 500) if options.quick else (2048, 32000)), promised=not options.quick)
        cases.append(head_case(*((128, 16, 500) if options.quick else (2048, 512, 32000))))
    results, broken = [], []
    print("| case | PyTorch | fastnll | ratio | promised |\n|---|---|---|---|---|")
    for case in cases:
        result = measure(case, 1 if options.quick else options.rounds)
        results.append(result)
        unit, scale = ("us", 1e6) if result["torch"] < 1e-3 else ("ms", 1e3)
        least = "" if case.least is None else f"{case.least:.2f}"
        print(
            f"| {case.name} | {scale * result['torch']:.3g} {unit} | {scale * result['fastnll']:.3g} {unit} "
            f"| {result['ratio']:.2f} | {least} |",
            flush=True,
        )
        if case.least is not None and result["ratio"] < case.least and not options.quick:
            broken.append(case.name)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    if broken:
        print(f"not reached: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
