"""The options of ``fastnll train``: what they are, and what they come to where nothing is said."""

from __future__ import annotations

import argparse
from typing import Any

from fastnll.cli.common import DATASETS, add_compute_options, number, tokenizer_kind, whole
from fastnll.cli.parameter_groups import group as parameter_group
from fastnll.errors import OptionError
from fastnll.objective import Objective
from fastnll.schedules import Schedule, cosine, linear_warmup
from fastnll.training import total_steps

__all__ = ["DEFAULTS", "SIZES", "add_options", "flag", "make_schedule", "model_sizes", "resolved"]

# What each model is trained with where nothing else is said, found on both embedded datasets. The two tables are
# convex with tiny curvature (a row that makes up a share s of the data has at most s/2), so that a large rate with
# much momentum is stable; the steps bound the time whatever the size of the text, for vocabularies up to _USUAL_V.
DEFAULTS: dict[str, dict[str, Any]] = {
    "categorical": {"steps": 2000, "lr": 2.0, "momentum": 0.9, "batch_tokens": 4096},
    "bigram": {"steps": 8000, "lr": 20.0, "momentum": 0.95, "batch_tokens": 4096},
    "ngram": {"steps": 5000, "lr": 0.6, "momentum": 0.9, "batch_tokens": 1024, "max_norm": 1.0},
}
SIZES = {"context": 6, "dim": 32, "hidden": 128}
# A step of the bigram table costs V * V: above this V its default steps fall as fast, down to a floor.
_USUAL_V, _LEAST_STEPS = 512, 1000
# Evaluations of held-out data, and checkpoints, in a run.
_EVALUATIONS, _CHECKPOINTS = 50, 10


def flag(name: str) -> str:
    """How an option is written on the command line.

    Examples
    --------
    >>> flag("batch_tokens")
    '--batch-tokens'
    """
    return "--" + name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of the command, all without defaults: a run that is continued has its own."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="text, or any file that 'fastnll data' reads")
    data = parser.add_argument_group("data and model")
    data.add_argument(
        "--data", choices=list(DATASETS), help="an embedded dataset (default, without files: python_docs)"
    )
    data.add_argument(
        "--tokenizer", type=tokenizer_kind, metavar="KIND", help="of text: bytes, chars, bpe or bpe:V (default: chars)"
    )
    data.add_argument("--model", choices=list(DEFAULTS), help="default: bigram")
    data.add_argument("--context", type=whole(1), metavar="K", help="ngram: tokens it looks back (default: 6)")
    data.add_argument("--dim", type=whole(1), metavar="D", help="ngram: numbers per embedding (default: 32)")
    data.add_argument("--hidden", type=whole(1), metavar="H", help="ngram: hidden units (default: 128)")
    data.add_argument("--dtype", choices=["float32", "float64"], help="default: float32")
    _add_training(parser)
    _add_held_out(parser)
    _add_folder(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
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
    group.add_argument("--nesterov", action=argparse.BooleanOptionalAction, help="Nesterov's form of it (default: on)")
    group.add_argument(
        "--batch-tokens", type=whole(1), metavar="N", help=f"tokens of a batch (default: {per_model('batch_tokens')})"
    )
    group.add_argument("--accumulate", type=whole(1), metavar="K", help="batches of a step (default: 1)")
    group.add_argument("--schedule", choices=["cosine", "constant"], help="default: cosine")
    group.add_argument("--warmup", type=whole(0), metavar="N", help="steps of linear warm-up (default: 1/50 of all)")
    group.add_argument("--max-norm", type=number(0, above=True), metavar="X", help="clip gradients (default: ngram 1)")
    group.add_argument("--weight-decay", type=number(0), metavar="X", help="default: 0")
    group.add_argument(
        "--group",
        type=parameter_group,
        action="append",
        metavar="NAMES:KEY=X",
        help="lr, momentum or weight_decay of some parameters alone, named as in ngram's embedding, w1, b1, weight, "
        "bias, or by wildcards: --group 'b*:lr=0.1,weight_decay=0'; may be given several times",
    )
    group.add_argument("--seed", type=whole(0), metavar="N", help="of batches and parameters (default: 0)")
    group.add_argument(
        "--deterministic", action=argparse.BooleanOptionalAction, help="launch: the same bits on any number of ranks"
    )
    add_compute_options(group)


def _add_held_out(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("held-out data and early stopping")
    group.add_argument(
        "--held-out",
        type=_share_or_file,
        metavar="X",
        help="evaluate on the way, and do not train on, this share of the sequences (0.1), or another FILE",
    )
    group.add_argument(
        "--eval-every", type=whole(1), metavar="K", help=f"steps between evaluations (default: 1/{_EVALUATIONS} of all)"
    )
    group.add_argument(
        "--patience", type=whole(1), metavar="N", help="stop after N evaluations without a lower loss; the best is kept"
    )
    group.add_argument(
        "--min-delta", type=number(0), metavar="X", help="nats per token that count as lower (default: 0)"
    )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run folder")
    group.add_argument("--out", metavar="RUN", help="where to make it (default: runs/<model>-<date-time>)")
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run that was stopped or killed, with its own options, to the same bits; without RUN the one "
        "named by --out, which is begun if it is not there, or the newest in runs/",
    )
    group.add_argument(
        "--checkpoint-every", type=whole(1), metavar="K", help=f"steps (default: 1/{_CHECKPOINTS} of all)"
    )
    group.add_argument("--keep", type=whole(1), metavar="K", help="checkpoints that stay (default: 2)")
    group.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, help="log for TensorBoard too")
    group.add_argument("--json", action="store_true", help="end with one JSON object instead of the table")


def _share_or_file(text: str) -> float | str:
    try:
        share = float(text)
    except ValueError:
        return text
    if 0 < share < 1:
        return share
    raise argparse.ArgumentTypeError(f"expected a share above 0 and below 1, or a file, got {text!r}")


def model_sizes(args: argparse.Namespace) -> dict[str, int]:
    """The sizes of the model that the options ask for.

    Raises
    ------
    OptionError
        A size of another model.
    """
    given = {size: getattr(args, size) for size in SIZES if getattr(args, size) is not None}
    if args.model == "ngram":
        return {**SIZES, **given}
    if given:
        raise OptionError(f"--{next(iter(given))}: expected with --model ngram alone, got --model {args.model}")
    return {}


def resolved(args: argparse.Namespace, objective: Objective) -> dict[str, Any]:
    """Every training option as a number: what was given, else the model's default.

    Raises
    ------
    OptionError
        An option that needs another one.
    """
    _check_together(args)
    options: dict[str, Any] = {"max_norm": None, "nesterov": True, "accumulate": 1, "schedule": "cosine"}
    options |= {
        "weight_decay": 0.0,
        "seed": 0,
        "dtype": "float32",
        "keep": 2,
        "tensorboard": False,
        "deterministic": False,
        **DEFAULTS[args.model],
    }
    if args.model == "bigram":
        share = min(1.0, (_USUAL_V / objective.model.vocab_size) ** 2)
        options["steps"] = max(_LEAST_STEPS, round(share * options["steps"]))
    names = (*options, "steps")
    options.update({name: getattr(args, name) for name in names if getattr(args, name) is not None})
    if args.epochs is not None:
        budget, seed, accumulate = options["batch_tokens"], options["seed"], options["accumulate"]
        options["steps"] = total_steps(objective, budget, args.epochs, seed=seed, accumulate=accumulate)
    steps = options["steps"]
    options["nesterov"] = options["nesterov"] and options["momentum"] > 0
    shares = {"warmup": steps // 50, "checkpoint_every": max(1, steps // _CHECKPOINTS)}
    for name, default in shares.items():
        options[name] = default if getattr(args, name) is None else getattr(args, name)
    if args.held_out is not None:
        options["eval_every"] = max(1, steps // _EVALUATIONS) if args.eval_every is None else args.eval_every
        options["patience"] = args.patience
    if args.patience is not None:
        options["min_delta"] = args.min_delta or 0.0
    for name in ("epochs", "threads", "backend", "group"):
        options[name] = getattr(args, name)
    return options


def _check_together(args: argparse.Namespace) -> None:
    for name in ("eval_every", "patience"):
        if getattr(args, name) is not None and args.held_out is None:
            raise OptionError(f"{flag(name)}: expected --held-out beside it, got none; add --held-out 0.1")
    if args.min_delta is not None and args.patience is None:
        raise OptionError("--min-delta: expected --patience beside it, got none; add --patience 5")


def make_schedule(options: dict[str, Any]) -> Schedule:
    """The learning rate by step that the options describe.

    Raises
    ------
    OptionError
        A warm-up as long as the run.
    """
    if options["schedule"] == "constant":
        return linear_warmup(options["lr"], options["warmup"])
    return cosine(options["lr"], options["steps"], warmup_steps=options["warmup"])
