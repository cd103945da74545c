"""What the subcommands share: option types, datasets by name or file, tables."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastnll import config
from fastnll.data import (
    ByteTokenizer,
    CharTokenizer,
    SequenceDataset,
    Tokenizer,
    opcodes,
    python_docs,
    read_text,
)
from fastnll.errors import DataError, OptionError

__all__ = [
    "DATASETS",
    "add_compute_options",
    "compute_options",
    "describe",
    "load_dataset",
    "number",
    "print_table",
    "version",
    "whole",
]

DATASETS: dict[str, Callable[..., SequenceDataset]] = {
    "python_docs": python_docs,
    "opcodes": opcodes,
}


def version() -> str:
    """The version of this installation.

    Examples
    --------
    >>> version() != ""
    True
    """
    try:
        return importlib.metadata.version("fastnll")
    except importlib.metadata.PackageNotFoundError:
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


def load_dataset(
    files: Sequence[str], name: str | None, tokenizer: Tokenizer | str | None
) -> tuple[SequenceDataset, list[str]]:
    """The dataset of some text files, one sequence a file, or the embedded one of a name.

    Parameters
    ----------
    files : sequence of str
    name : str or None
        Key of `DATASETS`; used if there are no files.
    tokenizer : Tokenizer, "bytes", "chars" or None
        None: characters for text.

    Returns
    -------
    dataset : SequenceDataset
    names : list of str
        What to call the sequences of files; empty for an embedded dataset.

    Raises
    ------
    OptionError
        Files and a name, or a text tokenizer for data that are not text.
    DataError
        A file that is missing or not text; a character that the tokenizer does not know.
    """
    if files and name:
        raise OptionError(
            f"--data: expected files or an embedded dataset, got --data {name} and {files[0]!r}; leave one out"
        )
    if files:
        texts = [read_text(file) for file in files]
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = ByteTokenizer() if tokenizer == "bytes" else CharTokenizer.train(texts)
        source = files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} to {files[-1]}"
        return SequenceDataset.from_text(texts, tokenizer, source=source), list(files)
    assert name is not None
    if name == "opcodes":
        if isinstance(tokenizer, str):
            raise OptionError(f"--tokenizer: expected none for --data opcodes, which is not text, got {tokenizer}")
        dataset = opcodes()
        if tokenizer is not None and dataset.tokenizer != tokenizer:
            raise DataError(
                "opcodes: expected the opcodes the model was trained on, got those of another Python version"
            )
        return dataset, []
    if isinstance(tokenizer, str):
        tokenizer = ByteTokenizer() if tokenizer == "bytes" else None
    return DATASETS[name](tokenizer), []


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
