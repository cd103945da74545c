"""Tokens per second of training an n-gram model: fastnll and PyTorch on the same parameters, batches and updates.

    python benchmarks/ngram_training.py                        BPE of 8192 and of 32768 tokens, float32
    python benchmarks/ngram_training.py --vocab 8192 --steps 20 --rounds 5 --json result.json

The model is that of Bengio et al. (2003): embeddings of the last K tokens, a hidden layer of tanh units, a softmax over
all tokens. Both sides start from the numbers of ``NGram.init`` and see the same batches, drawn from the text that ships
with Python through a byte-level BPE trained on it; both take the same steps of SGD with momentum. Rounds of a few steps
alternate between the two, each side on its own parameters, and the losses of all steps are compared: they agree to
1e-4, or there is no figure. What is timed is a whole step: gradient of the mean over the batch, then the update.

For times that mean something: an idle machine, OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE not set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fastnll import config
from fastnll.data import BpeTokenizer, SequenceDataset, python_docs, python_source
from fastnll.models import NGram
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.sampling import Sampler

# The language reference alone has fewer distinct merges than that.
LARGE = 16384


def dataset_of(vocab_size: int) -> SequenceDataset:
    """The embedded text as ids of a BPE of that size: the reference, with library sources where it is too short."""
    documents = python_docs()
    assert documents.tokenizer is not None
    texts = [documents.tokenizer.decode(ids) for ids in documents]
    source = documents.source
    if vocab_size > LARGE:
        library = python_source()
        assert library.tokenizer is not None
        texts += [library.tokenizer.decode(ids) for ids in library]
        source = f"{source}, {library.source}"
    tokenizer = BpeTokenizer.train(texts, vocab_size)
    return SequenceDataset.from_text(texts, tokenizer, source=source)


class Fastnll:
    """The objective and SGD of this package."""

    name = "fastnll"

    def __init__(self, objective: Objective, options: dict[str, float]) -> None:
        self.objective = objective
        self.optimizer = SGD(objective.model.init(0), **options)

    def step(self, batch: tuple[Any, Any, Any]) -> float:
        total, n, grads = self.objective.batch_value_and_grad(self.optimizer.params, batch[0])
        self.optimizer.step(grads, scale=1.0 / n)
        return total / n


class Torch:
    """The same in PyTorch: F.embedding, matrix products, F.cross_entropy, torch.optim.SGD."""

    name = "torch"

    def __init__(self, objective: Objective, options: dict[str, float]) -> None:
        import torch

        self.torch, self.model = torch, objective.model
        start = objective.model.init(0)
        self.params = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in start.items()}
        self.optimizer = torch.optim.SGD(self.params.values(), **options)

    def step(self, batch: tuple[Any, Any, Any]) -> float:
        torch, p = self.torch, self.params
        functional = torch.nn.functional
        inputs, targets = torch.from_numpy(batch[1]), torch.from_numpy(batch[2])
        self.optimizer.zero_grad(set_to_none=True)
        x = functional.embedding(inputs, p["embedding"]).flatten(1)
        hidden = torch.tanh(torch.addmm(p["b1"], x, p["w1"]))
        loss = functional.cross_entropy(torch.addmm(p["bias"], hidden, p["weight"].T), targets)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def batches_of(objective: Objective, batch_tokens: int, count: int) -> tuple[Objective, list[tuple[Any, Any, Any]]]:
    """The objective over the pieces that `fit` trains on; of each batch sequence ids, and contexts and targets."""
    sampler = Sampler(objective, batch_tokens, seed=0)
    pieces, model = sampler.objective, objective.model
    found: list[tuple[Any, Any, Any]] = []
    for epoch in range(count):
        for ids, _ in sampler.epoch(epoch):
            spans = pieces._rows.spans.take(ids)
            positions, depth = spans.rows(0, spans.n_rows)
            data = pieces._rows.data
            found.append((ids, model.inputs(data, positions, depth), data.tokens[positions].astype(np.int64)))
            if len(found) == count:
                return pieces, found
    return pieces, found


def measure(vocab_size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Alternate the two and return medians, ratios and the largest difference of losses."""
    dataset = dataset_of(vocab_size)
    model = NGram(dataset.vocab_size, context=args.context, dim=args.dim, hidden=args.hidden)
    n_batches = args.warmup + args.rounds * args.steps
    objective, batches = batches_of(Objective(model, dataset), args.batch_tokens, n_batches)
    n_tokens = [batch[2].size for batch in batches]
    options = {"lr": args.lr, "momentum": 0.9}
    sides: list[Any] = [Fastnll(objective, options)]
    if not args.alone:
        sides.append(Torch(objective, options))
    losses: dict[str, list[float]] = {side.name: [] for side in sides}
    speeds: dict[str, list[float]] = {side.name: [] for side in sides}
    for first, stop in spans_of(args):
        for side in sides:
            begin = time.perf_counter()
            losses[side.name] += [side.step(batch) for batch in batches[first:stop]]
            if first:
                speeds[side.name].append(sum(n_tokens[first:stop]) / (time.perf_counter() - begin))
        sides.reverse()
    result: dict[str, Any] = {
        "vocab_size": dataset.vocab_size,
        "model": model.config(),
        "n_parameters": model.n_parameters,
        "data": dataset.source,
        "n_tokens": dataset.n_tokens,
        "batch_tokens": args.batch_tokens,
        "predicted_per_step": statistics.mean(n_tokens),
        "threads": config.resolve_threads(None),
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "rounds": speeds,
        "losses": {name: [values[0], values[-1]] for name, values in losses.items()},
    }
    if not args.alone:
        apart = np.abs(np.subtract(losses["fastnll"], losses["torch"]))
        result["largest_difference"] = float(apart.max())
        ratios = [a / b for a, b in zip(speeds["fastnll"], speeds["torch"], strict=True)]
        result["ratio"] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        if not apart.max() < 1e-4:
            raise SystemExit(f"losses: expected the same to 1e-4, got a difference of {apart.max():.3g}")
    return result


def spans_of(args: argparse.Namespace) -> list[tuple[int, int]]:
    """First and last batch of the warm-up and of each round."""
    starts = [0, *(args.warmup + i * args.steps for i in range(args.rounds + 1))]
    return list(pairwise(starts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[8192, 32768], metavar="V")
    parser.add_argument("--context", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=5, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="steps before the first round")
    parser.add_argument("--threads", type=int, help="of both sides (default: all cores this process may use)")
    parser.add_argument("--alone", action="store_true", help="fastnll without PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the raw numbers there")
    args = parser.parse_args()
    threads = config.resolve_threads(args.threads)
    if not args.alone:
        import torch

        torch.set_num_threads(threads)
    results = []
    with config.using(threads=threads):
        for vocab_size in args.vocab:
            result = measure(vocab_size, args)
            results.append(result)
            speed = ", ".join(f"{name} {value:,.0f} tokens/s" for name, value in result["tokens_per_second"].items())
            ratio = f"; ratio {result['ratio']['median']:.2f}" if "ratio" in result else ""
            apart = f"; losses within {result['largest_difference']:.1e}" if "ratio" in result else ""
            print(f"V = {result['vocab_size']}, {result['n_parameters']:,} parameters: {speed}{ratio}{apart}")
            sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
