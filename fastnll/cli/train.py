"""``fastnll train``: from text files or an embedded dataset to a minimised objective and a run folder."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

from fastnll.callbacks import Callback, Checkpoints, JsonLines, ProgressBar, StopOnSignal
from fastnll.checkpoint import latest_checkpoint
from fastnll.cli.common import (
    DATASETS,
    add_compute_options,
    compute_options,
    describe,
    load_dataset,
    number,
    version,
    whole,
)
from fastnll.cli.report import Result, signal_code
from fastnll.clipping import DivergenceError
from fastnll.data import SequenceDataset, bigram_entropy, n_pairs
from fastnll.errors import DataError, OptionError
from fastnll.models import Model, make
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.runs import RunFolder, create_run
from fastnll.schedules import Schedule, cosine, linear_warmup
from fastnll.training import fit, total_steps

__all__ = ["DEFAULTS", "add_parser", "run"]

# What each model is trained with where nothing else is said, found on both embedded datasets. The two tables are
# convex with tiny curvature (a row that makes up a share s of the data has at most s/2), so that a large rate with
# much momentum is stable; the steps bound the time whatever the size of the text, for vocabularies up to _USUAL_V.
DEFAULTS: dict[str, dict[str, Any]] = {
    "categorical": {"steps": 2000, "lr": 2.0, "momentum": 0.9, "batch_tokens": 4096},
    "bigram": {"steps": 8000, "lr": 20.0, "momentum": 0.95, "batch_tokens": 4096},
    "ngram": {"steps": 5000, "lr": 0.6, "momentum": 0.9, "batch_tokens": 1024, "max_norm": 1.0},
}
_SIZES = ("context", "dim", "hidden")
_SGD = ("lr", "momentum", "nesterov", "weight_decay", "max_norm")
_CHECKPOINTS = 10
# A step of the bigram table costs V * V: above this V its default steps fall as fast, down to a floor.
_USUAL_V, _LEAST_STEPS = 512, 1000


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        description="Train a language model by minimising the negative log-likelihood of text files (one sequence a "
        "file) or of a dataset that ships with Python, and write a run folder: config.json, metrics.jsonl, "
        "checkpoint/, curve.png. Without arguments: a bigram model of the Python language reference.",
        epilog="examples:\n"
        "  fastnll train\n"
        "  fastnll train book.txt notes.txt --model ngram --context 8\n"
        "  fastnll train --data opcodes --epochs 5 --lr 10 --out runs/opcodes",
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="UTF-8 text, one sequence a file")
    data = parser.add_argument_group("data and model")
    data.add_argument(
        "--data", choices=list(DATASETS), help="an embedded dataset (default, without files: python_docs)"
    )
    data.add_argument("--tokenizer", choices=["bytes", "chars"], help="tokens of text (default: chars)")
    data.add_argument("--model", choices=list(DEFAULTS), default="bigram", help="default: bigram")
    data.add_argument("--context", type=whole(1), metavar="K", help="ngram: tokens it looks back (default: 6)")
    data.add_argument("--dim", type=whole(1), metavar="D", help="ngram: numbers per embedding (default: 32)")
    data.add_argument("--hidden", type=whole(1), metavar="H", help="ngram: hidden units (default: 128)")
    data.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: float32")
    _add_training_options(parser)
    parser.add_argument("--out", metavar="RUN", help="run folder (default: runs/<model>-<date-time>)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object instead of the table")
    parser.set_defaults(run=run)
    return parser


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    def per_model(key: str) -> str:
        return ", ".join(f"{model} {options[key]:g}" for model, options in DEFAULTS.items() if key in options)

    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=whole(1), metavar="N", help="passes over the data")
    length.add_argument("--steps", type=whole(1), metavar="N", help=f"updates (default: {per_model('steps')})")
    group.add_argument("--lr", type=number(0), metavar="X", help=f"learning rate (default: {per_model('lr')})")
    group.add_argument(
        "--momentum", type=number(0, below=1), metavar="X", help=f"momentum (default: {per_model('momentum')})"
    )
    group.add_argument("--nesterov", action=argparse.BooleanOptionalAction, default=True, help="Nesterov's form of it")
    group.add_argument(
        "--batch-tokens",
        type=whole(1),
        metavar="N",
        help=f"tokens of a batch (default: {per_model('batch_tokens')})",
    )
    group.add_argument("--schedule", choices=["cosine", "constant"], default="cosine", help="default: cosine")
    group.add_argument("--warmup", type=whole(0), metavar="N", help="steps of linear warm-up (default: 1/50 of all)")
    group.add_argument("--max-norm", type=number(0, above=True), metavar="X", help="clip gradients (default: ngram 1)")
    group.add_argument("--weight-decay", type=number(0), default=0.0, metavar="X", help="default: 0")
    group.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of batches and parameters (default: 0)")
    add_compute_options(group)


def run(args: argparse.Namespace) -> int:
    """Train, report, and leave a run folder."""
    with compute_options(args):
        name = args.data or (None if args.files else "python_docs")
        dataset, _ = load_dataset(args.files, name, args.tokenizer)
        model = make(args.model, vocab_size=dataset.vocab_size, **_sizes(args))
        objective = Objective(model, dataset)
        options = _options(args, objective)
        params = model.init(args.seed, args.dtype)
        schedule = _schedule(options)
        optimizer = SGD(params, **{name: options[name] for name in _SGD})
        folder = create_run(args.out, args.model)
        config = _config(dataset, model, options)
        folder.write_config(config)
        try:
            history = fit(
                objective,
                optimizer,
                steps=options["steps"],
                batch_tokens=options["batch_tokens"],
                schedule=schedule,
                seed=args.seed,
                callbacks=_callbacks(folder, options, config["data"]["sha256"]),
            )
        except DivergenceError as error:
            raise DivergenceError(f"{error}. {_kept(folder)}") from None
    result = Result(folder, dataset, model, history)
    _draw(folder, result)
    result.print(as_json=args.json)
    if history.stopped:
        print(f"fastnll train: stopped by {history.stopped} after step {history.progress.step}", file=sys.stderr)
    return signal_code(history.stopped)


def _sizes(args: argparse.Namespace) -> dict[str, int]:
    given = {size: getattr(args, size) for size in _SIZES if getattr(args, size) is not None}
    if args.model == "ngram":
        return {"context": 6, "dim": 32, "hidden": 128, **given}
    if given:
        raise OptionError(f"--{next(iter(given))}: expected with --model ngram alone, got --model {args.model}")
    return {}


def _options(args: argparse.Namespace, objective: Objective) -> dict[str, Any]:
    """Every training option as a number: what was given, else the model's default."""
    options = {"max_norm": None, **DEFAULTS[args.model]}
    if args.model == "bigram":
        share = min(1.0, (_USUAL_V / objective.model.vocab_size) ** 2)
        options["steps"] = max(_LEAST_STEPS, round(share * options["steps"]))
    names = ("steps", "lr", "momentum", "batch_tokens", "max_norm")
    options.update({name: getattr(args, name) for name in names if getattr(args, name) is not None})
    if args.epochs is not None:
        options["steps"] = total_steps(objective, options["batch_tokens"], args.epochs, seed=args.seed)
    options["warmup"] = options["steps"] // 50 if args.warmup is None else args.warmup
    options["nesterov"] = args.nesterov and options["momentum"] > 0
    for name in ("epochs", "schedule", "weight_decay", "seed", "dtype", "threads", "backend"):
        options[name] = getattr(args, name)
    return options


def _schedule(options: dict[str, Any]) -> Schedule:
    if options["schedule"] == "constant":
        return linear_warmup(options["lr"], options["warmup"])
    return cosine(options["lr"], options["steps"], warmup_steps=options["warmup"])


def _config(dataset: SequenceDataset, model: Model, options: dict[str, Any]) -> dict[str, Any]:
    data = describe(dataset)
    if n_pairs(dataset):
        # What every model with a context is measured against.
        data["bigram_nats_per_token"] = bigram_entropy(dataset)
    return {
        "fastnll": version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model.config(),
        "training": options,
        "data": data,
    }


def _callbacks(folder: RunFolder, options: dict[str, Any], sha256: str) -> list[Callback]:
    every = max(1, options["steps"] // _CHECKPOINTS)
    return [
        StopOnSignal(),
        ProgressBar(),
        JsonLines(folder.metrics, every=max(1, options["steps"] // 2000)),
        Checkpoints(folder.checkpoints, every=every, dataset_sha256=sha256),
    ]


def _kept(folder: RunFolder) -> str:
    try:
        return f"The last checkpoint before that is {latest_checkpoint(folder.checkpoints)}"
    except DataError:
        return f"No checkpoint had been written to {folder.path} yet"


def _draw(folder: RunFolder, result: Result) -> None:
    from fastnll.plots import plot_curve

    history, final = result.history, result.final
    try:
        plot_curve(
            folder.curve,
            history.tokens,
            history.loss,
            final=final.nll_per_token,
            floor=result.floor,
            floor_label=result.floor_name,
            title=result.title,
        )
    except ImportError:
        advice = "curve.png was not drawn, for matplotlib is not installed (pip install matplotlib)"
        print(f"fastnll train: {advice}", file=sys.stderr)
