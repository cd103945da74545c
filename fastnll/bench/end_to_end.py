"""End to end: tokens a second of training a neural n-gram model, data, loss, gradient and update included.

Both sides get the same tokens, initial parameters and batches, and make the inputs of a batch with the same function.
Their losses are compared step by step before any time counts: a contender whose losses differ is left out.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnll as fn
from fastnll.data import BpeTokenizer, CharTokenizer, SequenceDataset, python_docs
from fastnll.models import NGram

__all__ = ["JOBS", "Job", "measure_end_to_end"]

_LENGTH = 64
_LR, _MOMENTUM = 0.05, 0.9
# Both compute in float32 with sums in another order; the difference grows with the steps.
_TOLERANCE = 1e-4
_COMPARED = 5
Ids = npt.NDArray[np.int64]
Step = Callable[[Ids], float]


@dataclass(frozen=True)
class Job:
    """One thing to train: V = 0 is the characters of the text, else byte pairs learnt from it."""

    name: str
    vocabulary: int
    context: int
    dim: int
    hidden: int
    batch_tokens: int

    def missing(self) -> str | None:
        """Return what is not installed, or None."""
        if self.vocabulary and importlib.util.find_spec("tokenizers") is None:
            return "not installed: tokenizers"
        return None

    def quick(self) -> Job:
        """Return the same in small, on characters."""
        return Job(self.name, 0, 3, 16, 32, 256)


JOBS = (
    Job("characters, D = 32, H = 128, batch of 1024", 0, 6, 32, 128, 1024),
    Job("byte pairs, V = 8192, D = 256, H = 512, batch of 4096", 8192, 4, 256, 512, 4096),
)


def _dataset(job: Job) -> SequenceDataset:
    """The embedded text as sequences of one length, so that every batch is equally large."""
    text = python_docs()
    if job.vocabulary:
        assert isinstance(text.tokenizer, CharTokenizer)
        documents = [text.tokenizer.decode(text[i]) for i in range(len(text))]
        tokenizer = BpeTokenizer.train(documents, vocab_size=job.vocabulary)
        tokens = np.concatenate([tokenizer.encode(document) for document in documents])
        size = job.vocabulary
    else:
        tokens, size = np.asarray(text.tokens), text.vocab_size
    n = tokens.size // _LENGTH
    return SequenceDataset(tokens[: n * _LENGTH], np.arange(n + 1) * _LENGTH, vocab_size=size)


def _fastnll(job: Job, model: NGram, dataset: SequenceDataset) -> Step:
    objective = fn.Objective(model, dataset)
    params = model.init(0)
    optimizer = fn.SGD(params, lr=_LR, momentum=_MOMENTUM)

    def step(ids: Ids) -> float:
        loss, n, grads = objective.batch_value_and_grad(params, ids)
        optimizer.step(grads, scale=1.0 / n)
        return loss / n

    return step


def _torch(job: Job, model: NGram, dataset: SequenceDataset) -> Step:
    import torch
    from torch.nn import functional

    params = {name: torch.from_numpy(array).requires_grad_() for name, array in model.init(0).items()}
    optimizer = torch.optim.SGD(params.values(), lr=_LR, momentum=_MOMENTUM)

    def step(ids: Ids) -> float:
        tokens = dataset.tokens.reshape(-1, _LENGTH)[ids].reshape(-1)
        inputs, targets, _ = model.examples(tokens, np.arange(ids.size + 1) * _LENGTH)
        embedded = functional.embedding(torch.from_numpy(inputs), params["embedding"]).flatten(1)
        hidden = torch.tanh(torch.addmm(params["b1"], embedded, params["w1"]))
        logits = functional.linear(hidden, params["weight"], params["bias"])
        loss = functional.cross_entropy(logits, torch.from_numpy(targets.astype(np.int64)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    return step


_CONTENDERS: dict[str, Callable[[Job, NGram, SequenceDataset], Step]] = {"native": _fastnll, "torch": _torch}


def measure_end_to_end(
    names: Iterable[str], threads: int, *, jobs: Iterable[Job] = JOBS, rounds: int = 5, quick: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the speed of every contender in every job.

    Parameters
    ----------
    names : iterable of str
        "native" is fastnll and always there; "torch" is PyTorch, eager.
    threads : int
    jobs : iterable of Job
    rounds : int
        Timed turns of each contender; they alternate.
    quick : bool
        Small models, on characters.

    Yields
    ------
    dict
        ``job``, ``contender``, ``tokens_per_second`` (median), ``rounds`` (each), ``loss`` (after the compared steps),
        or ``job``, ``contender``, ``left_out``.

    Examples
    --------
    >>> [row] = measure_end_to_end([], 1, jobs=JOBS[:1], rounds=1, quick=True)
    >>> row["contender"], row["tokens_per_second"] > 0
    ('native', True)
    """
    chosen = ["native", *(name for name in names if name in _CONTENDERS and name != "native")]
    for job in jobs:
        reason = None if quick else job.missing()
        if reason:
            yield {"job": job.name, "contender": "native", "left_out": reason}
            continue
        yield from _measure(job.quick() if quick else job, chosen, threads, rounds)


def _measure(job: Job, names: list[str], threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    dataset = _dataset(job)
    model = NGram(dataset.vocab_size, job.context, job.dim, job.hidden)
    steps = {name: _CONTENDERS[name](job, model, dataset) for name in names}
    per_batch = max(1, job.batch_tokens // _LENGTH)
    rng = np.random.default_rng(0)
    with fn.using(threads=threads), _torch_threads(threads if "torch" in names else None):
        first = [rng.choice(len(dataset), per_batch, replace=False) for _ in range(_COMPARED)]
        losses = {name: [step(ids) for ids in first] for name, step in steps.items()}
        left_out = {name: _difference(losses[name], losses["native"]) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names if left_out[name] is None}
        n_steps = 1 if rounds == 1 else max(1, round(40_000 / (per_batch * _LENGTH)))
        for _ in range(rounds):
            batches = [rng.choice(len(dataset), per_batch, replace=False) for _ in range(n_steps)]
            for name, times in seconds.items():
                begin = time.perf_counter()
                for ids in batches:
                    steps[name](ids)
                times.append(time.perf_counter() - begin)
                # Pools that still spin would take the cores of the next.
                time.sleep(0.02)
    predicted = n_steps * per_batch * (_LENGTH - model.skip)
    for name in names:
        if name in seconds:
            rates = [predicted / s for s in seconds[name]]
            yield {
                "job": job.name,
                "contender": name,
                "tokens_per_second": statistics.median(rates),
                "rounds": rates,
                "loss": losses[name][-1],
            }
        else:
            yield {"job": job.name, "contender": name, "left_out": left_out[name]}


def _difference(losses: list[float], expected: list[float]) -> str | None:
    worst = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
    return None if worst <= _TOLERANCE else f"losses differ by up to {worst:.2g} of the loss"


class _torch_threads:  # noqa: N801 - a context manager that reads as a function
    """Set PyTorch's thread count for a block; None leaves PyTorch alone."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads

    def __enter__(self) -> None:
        if self._threads is not None:
            import torch

            self._old = torch.get_num_threads()
            torch.set_num_threads(self._threads)

    def __exit__(self, *error: object) -> None:
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._old)
