"""What the subcommands share: option types, datasets by name or file, tables."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastnll import config
from fastnll.cli.sources import DATASETS, load_dataset, tokenizer_kind
from fastnll.data import SequenceDataset

__all__ = [
    "DATASETS",
    "add_compute_options",
    "compute_options",
    "describe",
    "load_dataset",
    "number",
    "print_table",
    "tokenizer_kind",
    "version",
    "whole",
]


def version() -> str:
    """The version of this installation.

    Examples
    --------
    >>> version() != ""
    True
    """
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("fastnll")
    except PackageNotFoundError:
        return "unknown (source tree)"


def whole(least: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least `least`, ``1_000`` and ``1e6`` included.

    Examples
    --------
    >>> whole(1)("1e4")
    10000
    """

    def parse(text: str) -> int:
        try:
            value = float(text)
            if value == int(value) >= least:
                return int(value)
        except (ValueError, OverflowError):
            pass
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text!r}")

    return parse


def number(least: float, *, above: bool = False, below: float = math.inf) -> Callable[[str], float]:
    """An argparse type: a finite number of at least `least` (`above`: more than it), less than `below`.

    Examples
    --------
    >>> number(0.0)("0.5")
    0.5
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if (value > least if above else value >= least) and value < below:
            return value
        rule = f"{'above' if above else 'of at least'} {least:g}"
        rule += f" and below {below:g}" if below < math.inf else ""
        raise argparse.ArgumentTypeError(f"expected a number {rule}, got {text!r}")

    return parse


def add_compute_options(parser: argparse._ActionsContainer) -> None:
    """Add --threads and --backend."""
    parser.add_argument(
        "--threads", type=whole(1), metavar="N", help="threads (default: all cores this process may use)"
    )
    parser.add_argument("--backend", choices=config.BACKENDS, help="implementation of the kernels (default: the best)")


@contextlib.contextmanager
def compute_options(args: argparse.Namespace) -> Iterator[None]:
    """Apply --threads and --backend to a block of code."""
    with config.using(backend=args.backend, threads=args.threads):
        yield


def describe(dataset: SequenceDataset) -> dict[str, Any]:
    """What a run notes about its data: JSON values."""
    return {
        "source": dataset.source,
        "n_sequences": dataset.n_sequences,
        "n_tokens": dataset.n_tokens,
        "vocab_size": dataset.vocab_size,
        "n_bytes": dataset.n_bytes,
        "sha256": dataset.sha256(),
        "tokenizer": None if dataset.tokenizer is None else dataset.tokenizer.to_dict(),
    }


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns.

    Examples
    --------
    >>> print_table([("tokens", "12"), ("perplexity", "3.4")])
    tokens      12
    perplexity  3.4
    """
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
