"""``fastnll eval``: how well a trained model predicts other text."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import numpy as np

from fastnll.cli.common import DATASETS, add_compute_options, compute_options, load_dataset, print_table
from fastnll.cli.report import evaluation_rows
from fastnll.cli.sharing import shared
from fastnll.cli.sources import which_text
from fastnll.data import SequenceDataset
from fastnll.errors import DataError, OptionError
from fastnll.history import Evaluation
from fastnll.models.sums import fsum
from fastnll.objective import Objective
from fastnll.runs import RunFolder, open_run

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "eval",
        description="Evaluate the newest checkpoint of a run (its best parameters, if it was trained with --patience) "
        "on text files (one sequence a file) with the run's own tokenizer, on dataset files of the same ids, or on an "
        "embedded dataset.",
        epilog="examples:\n"
        "  fastnll eval runs/first other.txt\n"
        "  fastnll eval runs/first a.txt b.txt --per-sequence --json\n"
        "  fastnll eval runs/first --data python_docs",
    )
    parser.add_argument("run_folder", metavar="RUN", help="a folder that 'fastnll train' wrote")
    parser.add_argument("files", nargs="*", metavar="FILE", help="text, or any file that 'fastnll data' reads")
    parser.add_argument("--data", choices=list(DATASETS), help="an embedded dataset in place of files")
    parser.add_argument("--per-sequence", action="store_true", help="one line a sequence too")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    add_compute_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    if not args.files and args.data is None:
        raise OptionError("FILE: expected text files or --data NAME to evaluate on, got none")
    folder = open_run(args.run_folder)
    with compute_options(args):
        model, checkpoint = folder.load()
        dataset, names = _dataset(folder, args)
        objective = shared(Objective(model, dataset))
        per_sequence = objective.per_sequence(checkpoint.result)
    evaluation = Evaluation(fsum(per_sequence.tolist()), objective.n_predicted, dataset.n_bytes)
    sequences = _sequences(per_sequence, dataset, model.skip, names) if args.per_sequence else []
    if args.json:
        report = {
            "run": str(folder.path),
            "step": checkpoint.result_step,
            "n_sequences": dataset.n_sequences,
            "n_tokens": dataset.n_tokens,
            **evaluation.to_dict(),
            **({"sequences": sequences} if args.per_sequence else {}),
        }
        print(json.dumps(report, indent=2))
        return 0
    print_table(
        [
            ("model", f"{model.name} of {folder.path}, step {checkpoint.result_step:,}"),
            ("data", dataset.source or "tokens"),
            ("sequences", f"{dataset.n_sequences:,}"),
            ("tokens", f"{dataset.n_tokens:,} ({evaluation.n_predicted:,} predicted)"),
            ("NLL", f"{evaluation.nll:.4f} nats"),
            *evaluation_rows(evaluation),
        ]
    )
    if sequences:
        _print_sequences(sequences)
    return 0


def _dataset(folder: RunFolder, args: argparse.Namespace) -> tuple[SequenceDataset, list[str]]:
    tokenizer = folder.tokenizer
    if args.files and (tokenizer is None or tokenizer.token_bytes() is None) and which_text(args.files):
        source = folder.config["data"]["source"]
        raise DataError(f"{folder.path}: expected a model of text to evaluate files with, got one of {source}")
    return load_dataset(args.files, args.data, tokenizer, trained=True)


def _sequences(nll: Any, dataset: SequenceDataset, skip: int, names: list[str]) -> list[dict[str, Any]]:
    """One entry a sequence: its name or number, predicted tokens, nats, bits per token."""
    predicted = np.maximum(dataset.lengths - skip, 0).tolist()
    return [
        {
            "sequence": names[i] if names else i,
            "n_predicted": n,
            "nll": loss,
            "bits_per_token": loss / n / math.log(2) if n else None,
        }
        for i, (n, loss) in enumerate(zip(predicted, nll.tolist(), strict=True))
    ]


def _print_sequences(sequences: list[dict[str, Any]]) -> None:
    width = max(8, *(len(str(entry["sequence"])) for entry in sequences))
    print(f"\n{'sequence':<{width}}  {'predicted':>10}  {'NLL, nats':>14}  {'bits per token':>14}")
    for entry in sequences:
        bits = "-" if entry["bits_per_token"] is None else f"{entry['bits_per_token']:.4f}"
        print(f"{entry['sequence']!s:<{width}}  {entry['n_predicted']:>10,}  {entry['nll']:>14.4f}  {bits:>14}")
