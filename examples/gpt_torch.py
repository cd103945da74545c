"""A small GPT in PyTorch, trained with PyTorch's losses and with fastnll's in their place.

About ten million parameters learn the Python language reference, which ships with Python, in a byte-pair vocabulary
of 8192: no download. The same script runs four times, each in a process of its own, from the same seed: with the
library ``torch`` or ``fastnll``, and with a head that makes logits or one that is fused with its loss. All that differs
between libraries is the two lines of `library`.

    python examples/gpt_torch.py --steps 20

It prints the losses side by side, fails if they differ by more than the reordering of float32 sums explains, and then
tokens per second and peak memory. Needs ``pip install torch 'fastnll[bpe]'``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Two runs that add the same float32 numbers in another order are some 1e-7 apart at first, relatively, and training
# multiplies that. How much, PyTorch's own two heads tell, which compute the same loss: up to a step, fastnll may be
# this much farther from PyTorch than they have been from each other. More would be another loss, not another order.
TIMES, LEAST, MOST = 10.0, 1e-5, 1e-2

RUNS = [(name, head) for head in ("logits", "linear") for name in ("torch", "fastnll")]


def library(name: str) -> tuple[ModuleType, type[torch.optim.Optimizer]]:
    """Return where the losses come from, and SGD: the only difference between the runs."""
    if name == "torch":
        return torch.nn.functional, torch.optim.SGD
    import fastnll.interop.torch as drop_in

    return drop_in, drop_in.SGD


class Block(nn.Module):
    """Attention over what came before, then a small network at each position; both added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after this block; (B, T, D) in and out."""
        b, t, d = x.shape
        parts = self.queries_keys_values(self.before_attention(x)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(b, t, d))
        return x + self.network(self.before_network(x))


class Gpt(nn.Module):
    """Token and position embeddings, blocks, a norm; the head is a matrix that the loss is given."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Return hidden states (B, T, D) of token ids (B, T)."""
        positions = torch.arange(ids.shape[1])
        hidden: Tensor = self.norm(self.blocks(self.tokens(ids) + self.positions(positions)))
        return hidden


def corpus(vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return the token ids of the embedded corpus and what follows each: -100 at the end of a document."""
    from fastnll import data

    documents = data.python_docs()
    texts = [documents.tokenizer.decode(documents[i]) for i in range(len(documents))]
    tokenizer = data.BpeTokenizer.train(texts, vocabulary)
    encoded = data.python_docs(tokenizer)
    ids = torch.from_numpy(encoded.tokens.astype(np.int64))
    following = torch.cat([ids[1:], ids[:1]])
    following[torch.from_numpy(np.array(encoded.offsets[1:]) - 1)] = -100
    return ids, following


def train(options: argparse.Namespace, name: str, head: str) -> dict[str, Any]:
    """Train from the seed and return the losses, the speed and the memory."""
    torch.manual_seed(options.seed)
    functional, sgd = library(name)
    ids, following = corpus(options.vocabulary)
    model = Gpt(options.vocabulary, options.context, options.width, options.depth, options.heads)
    optimizer = sgd(model.parameters(), lr=options.lr, momentum=0.9)
    starts = torch.Generator().manual_seed(options.seed)
    at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses, seconds = [], []
    for _ in range(options.steps):
        first = torch.randint(len(ids) - options.context, (options.batch, 1), generator=starts)
        window = first + torch.arange(options.context)
        began = time.perf_counter()
        hidden = model(ids[window]).flatten(0, 1)
        targets = following[window].flatten()
        if head == "linear":
            # PyTorch's own works in chunks if it is given options; otherwise it holds all logits.
            chunks = nn.LinearCrossEntropyOptions()
            loss = functional.linear_cross_entropy(hidden, model.head.weight, targets, options=chunks)
        else:
            loss = functional.cross_entropy(model.head(hidden), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
        losses.append(loss.item())
    return {
        "library": name,
        "head": head,
        "parameters": sum(p.numel() for p in model.parameters()),
        "losses": losses,
        # The first steps warm up: caches, pools, the threads.
        "tokens_per_second": options.batch * options.context / float(np.median(seconds[min(2, len(seconds) - 1) :])),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "above_start_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_start) / 1024,
    }


def in_own_process(arguments: list[str], name: str, head: str) -> dict[str, Any]:
    """Run one training in a fresh process: its peak of memory is its own."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--only", name, head]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def differences(results: list[dict[str, Any]]) -> tuple[float, float, bool]:
    """Return how far PyTorch's two heads are apart, how far fastnll is from PyTorch, and whether that is allowed."""
    losses = {(r["library"], r["head"]): np.array(r["losses"]) for r in results}
    base = losses["torch", "logits"]
    order = np.abs(losses["torch", "linear"] - base)
    ours = np.max([np.abs(losses["fastnll", head] - base) for head in ("logits", "linear")], axis=0)
    allowed = np.minimum(LEAST + TIMES * np.maximum.accumulate(order), MOST)
    return float(order.max()), float(ours.max()), bool((ours <= allowed).all())


def report(results: list[dict[str, Any]]) -> bool:
    """Print the losses and the table; return whether the losses agree."""
    print(f"{results[0]['parameters'] / 1e6:.1f} million parameters")
    print("step  " + "  ".join(f"{r['library'] + ' ' + r['head']:>16}" for r in results))
    for step, row in enumerate(zip(*(r["losses"] for r in results), strict=True)):
        print(f"{step:4d}  " + "  ".join(f"{loss:16.6f}" for loss in row))
    order, ours, agree = differences(results)
    print(f"\nfarthest apart at the same step: PyTorch's two heads {order:.1e}, fastnll and PyTorch {ours:.1e}")
    print("the losses agree\n" if agree else "the losses do not agree\n")
    print("| library | head | tokens/s | peak memory (MB) | above start (MB) |")
    print("|---|---|---|---|---|")
    for r in results:
        print(
            f"| {r['library']} | {r['head']} | {r['tokens_per_second']:.0f} | {r['peak_mb']:.0f} "
            f"| {r['above_start_mb']:.0f} |"
        )
    return agree


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16, help="windows per step")
    parser.add_argument("--context", type=int, default=128, help="tokens per window")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=7)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="PyTorch's number of threads, which fastnll follows")
    parser.add_argument("--quick", action="store_true", help="a tiny model and a few steps, to see that it runs")
    parser.add_argument("--only", nargs=2, metavar=("LIBRARY", "HEAD"), help="one run, in this process, as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.batch, options.context = min(options.steps, 4), 8, 64
        options.vocabulary, options.width, options.depth, options.heads = 1024, 32, 2, 2
    return options


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; 1 if the losses do not agree."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(train(options, *options.only)))
        return 0
    if not report([in_own_process(arguments, name, head) for name, head in RUNS]):
        print("the losses differ by more than the reordering of float32 sums explains", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
