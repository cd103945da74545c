"""``fastnll train``: from files or an embedded dataset to a minimised objective and a run folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastnll.callbacks import Callback, Checkpoints, CsvLines, JsonLines, ProgressBar, StopOnSignal, TensorBoard
from fastnll.checkpoint import latest_checkpoint
from fastnll.cli import resume
from fastnll.cli.common import compute_options, describe, load_dataset, version
from fastnll.cli.parameter_groups import grouped
from fastnll.cli.profile import profiled
from fastnll.cli.report import Result, signal_code
from fastnll.cli.sharing import shared
from fastnll.cli.training_options import DEFAULTS, add_options, make_schedule, model_sizes, resolved
from fastnll.clipping import DivergenceError
from fastnll.data import SequenceDataset, bigram_entropy, n_pairs
from fastnll.errors import DataError
from fastnll.history import History
from fastnll.models import Model, make
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.runs import RunFolder, create_run
from fastnll.training import Split, fit, split

__all__ = ["DEFAULTS", "add_parser", "run"]

_SGD = ("lr", "momentum", "nesterov", "weight_decay", "max_norm")
_FIT = ("steps", "batch_tokens", "accumulate", "seed", "eval_every", "patience", "min_delta")
# Records in metrics.jsonl; held-out sequences that config.json lists.
_RECORDS, _LISTED = 2000, 1000


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        description="Train a language model by minimising the negative log-likelihood of text files (one sequence a "
        "file), of dataset files, or of a dataset that ships with Python, and write a run folder: config.json, "
        "metrics.jsonl, metrics.csv, checkpoint/, curve.png. Without arguments: a bigram model of the Python language "
        "reference. Ctrl-C and SIGTERM save and stop; --resume goes on, also after a crash.",
        epilog="examples:\n"
        "  fastnll train\n"
        "  fastnll train book.txt notes.txt --model ngram --context 8\n"
        "  fastnll train --data opcodes --epochs 5 --lr 10 --out runs/opcodes\n"
        "  fastnll train book.txt --model ngram --held-out 0.1 --patience 5\n"
        "  fastnll train book.txt --model ngram --weight-decay 1e-4 --group 'b*:weight_decay=0'\n"
        "  fastnll train book.txt --held-out other.txt --eval-every 100\n"
        "  fastnll train --resume runs/opcodes\n"
        "  fastnll train --data opcodes --out runs/opcodes --resume      begins the run, or goes on with it",
    )
    add_options(parser)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="say where the time went; profile.json, trace.json and profile.png in RUN",
    )
    parser.set_defaults(run=run)
    return parser


@dataclass
class _Job:
    """What is trained, and on what.

    Attributes
    ----------
    dataset : SequenceDataset
        All of the data; `parts` if a share of them is held out.
    held_out : Objective or None
    """

    dataset: SequenceDataset
    parts: Split | None
    model: Model
    objective: Any
    held_out: Any
    options: dict[str, Any]

    @property
    def trained_on(self) -> SequenceDataset:
        """What of the data is trained on."""
        return self.dataset if self.parts is None else self.parts.train


def run(args: argparse.Namespace) -> int:
    """Train, report, and leave a run folder."""
    folder = resume.begun(args)
    if folder is not None:
        resume.adopt(args, folder)
    args.model = args.model or "bigram"
    with compute_options(args):
        job = _job(args, folder)
        options = job.options
        params = grouped(job.model.init(options["seed"], options["dtype"]), options["group"], options)
        optimizer = SGD(params, **{name: options[name] for name in _SGD})
        schedule = make_schedule(options)
        if options["tensorboard"]:
            # A run that could not begin leaves no folder: whether it is installed is known before.
            TensorBoard(".")
        ranks = getattr(job.objective, "ranks", None)
        main, start = ranks is None or ranks.root, None
        if folder is not None:
            start = resume.position(folder, job.model, clean=main)
            if main and options != folder.config["training"]:
                folder.write_config({**folder.config, "training": options})
        elif main:
            folder = create_run(args.out, args.model, _config(job, args))
        folder = folder or RunFolder(args.out or ".")
        try:
            with profiled(folder.path if args.profile else None):
                history = fit(
                    job.objective,
                    optimizer,
                    **{name: options[name] for name in _FIT if name in options},
                    schedule=schedule,
                    held_out=job.held_out,
                    callbacks=_callbacks(folder, options),
                    start=start,
                )
        except DivergenceError as error:
            raise DivergenceError(f"{error}. {_kept(folder)}") from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise OSError(f"{where}{error.strerror or error}. {_kept(folder)}") from error
        if main:
            _report(job, folder, history, resumed=start is not None, as_json=args.json)
    return signal_code(history.stopped)


def _job(args: argparse.Namespace, folder: RunFolder | None) -> _Job:
    """Load the data and make model, objectives and options: what the arguments say, or a run that goes on."""
    if folder is None:
        name = args.data or (None if args.files else "python_docs")
        dataset, _ = load_dataset(args.files, name, args.tokenizer)
        model = make(args.model, vocab_size=dataset.vocab_size, **model_sizes(args))
    else:
        dataset, model = resume.load_like(folder, args), folder.model()
    parts = split(dataset, args.held_out, skip=model.skip) if isinstance(args.held_out, float) else None
    other = None if parts is None else parts.held_out
    if isinstance(args.held_out, str):
        other, _ = load_dataset([args.held_out], None, dataset.tokenizer, trained=True)
        if folder is not None:
            resume.check_same_data(folder, other, "held_out")
    deterministic = bool(args.deterministic)
    objective = shared(Objective(model, dataset if parts is None else parts.train), deterministic=deterministic)
    held_out = None if other is None else shared(Objective(model, other), deterministic=deterministic)
    return _Job(dataset, parts, model, objective, held_out, resolved(args, objective))


def _config(job: _Job, args: argparse.Namespace) -> dict[str, Any]:
    data = describe(job.dataset)
    if n_pairs(job.trained_on):
        # What every model with a context is measured against.
        data["bigram_nats_per_token"] = bigram_entropy(job.trained_on)
    config = {
        "fastnll": version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": job.model.config(),
        "training": job.options,
        "data": data,
        "input": {
            "files": [str(Path(file).resolve()) for file in args.files],
            "data": None if args.files else args.data or "python_docs",
            "tokenizer": args.tokenizer,
            "held_out": str(Path(args.held_out).resolve()) if isinstance(args.held_out, str) else args.held_out,
        },
        "machine": resume.machine(),
    }
    if job.held_out is not None:
        ids = None if job.parts is None or job.parts.ids is None else job.parts.ids.tolist()
        held_out = describe(job.held_out.dataset)
        del held_out["tokenizer"]
        config["held_out"] = {
            **held_out,
            "n_predicted": job.held_out.n_predicted,
            # Which sequences, where a reader would still look at the list.
            "sequences": ids if ids is None or len(ids) <= _LISTED else None,
        }
    return config


def _callbacks(folder: RunFolder, options: dict[str, Any]) -> list[Callback]:
    every = max(1, options["steps"] // _RECORDS)
    board = [TensorBoard(folder.tensorboard, every=every)] if options["tensorboard"] else []
    return [
        StopOnSignal(),
        ProgressBar(),
        JsonLines(folder.metrics, every=every),
        CsvLines(folder.table, every=every),
        *board,
        Checkpoints(
            folder.checkpoints,
            every=options["checkpoint_every"],
            keep=options["keep"],
            dataset_sha256=folder.config.get("data", {}).get("sha256"),
        ),
    ]


def _kept(folder: RunFolder) -> str:
    try:
        newest = latest_checkpoint(folder.checkpoints)
    except DataError:
        return f"No checkpoint had been written to {folder.path} yet"
    return f"The last checkpoint before that is {newest}; 'fastnll train --resume {folder.path}' goes on from it"


def _report(job: _Job, folder: RunFolder, history: History, *, resumed: bool, as_json: bool) -> None:
    result = Result(folder, job.trained_on, job.model, history, held_out=job.held_out, parts=job.parts)
    result.print(as_json=as_json)
    _draw(folder, result, resumed)
    if signal_code(history.stopped):
        print(
            f"fastnll train: stopped by {history.stopped} after step {history.progress.step}; "
            f"'fastnll train --resume {folder.path}' goes on",
            file=sys.stderr,
        )


def _draw(folder: RunFolder, result: Result, resumed: bool) -> None:
    from fastnll.plots import plot_curve

    try:
        plot_curve(
            folder.curve,
            *result.curve(resumed),
            final=result.final.nll_per_token,
            **result.held_out_curve(resumed),
            floor=result.floor,
            floor_label=result.floor_name,
            title=result.title,
        )
    except ImportError:
        advice = "curve.png was not drawn, for matplotlib is not installed (pip install matplotlib)"
        print(f"fastnll train: {advice}", file=sys.stderr)
