"""``fastnll train --resume``: which run is meant, and whether the command line still says the same."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fastnll.checkpoint import Checkpoint
from fastnll.cli.common import load_dataset
from fastnll.cli.training_options import SIZES, flag
from fastnll.data import SequenceDataset
from fastnll.errors import DataError, OptionError
from fastnll.kernels import registry
from fastnll.models import Model
from fastnll.runs import RunFolder, newest_run, open_run

__all__ = ["adopt", "begun", "check_same_data", "load_like", "machine", "position"]

# What may be changed on the way: none of these changes a bit of the result.
_FREE = ("threads", "keep", "checkpoint_every", "tensorboard")
_OPTIONS = (
    *("lr", "momentum", "nesterov", "batch_tokens", "accumulate", "schedule", "warmup", "max_norm", "weight_decay"),
    *("group", "seed", "dtype", "backend", "deterministic", "eval_every", "patience", "min_delta"),
)


def begun(args: argparse.Namespace) -> RunFolder | None:
    """The run that --resume means, or None where one has to be begun.

    Raises
    ------
    OptionError
        Another folder in --out.
    DataError
        A folder that is no run.
    """
    if args.resume is None:
        return None
    if args.resume and args.out is not None and Path(args.out) != Path(args.resume):
        raise OptionError(f"--out: expected no other folder than --resume {args.resume}, got {args.out}; leave it out")
    if not args.resume and args.out is None:
        return newest_run()
    path = Path(args.resume or args.out)
    if not args.resume and (not path.exists() or (path.is_dir() and not any(path.iterdir()))):
        return None
    return open_run(path)


def adopt(args: argparse.Namespace, folder: RunFolder) -> None:
    """Give `args` the options of a run, where they do not say the same themselves.

    Raises
    ------
    OptionError
        An option that differs from the run's and would change its result.
    DataError
        A ``config.json`` without them.
    """
    try:
        model, training, source = (folder.config[key] for key in ("model", "training", "input"))
        stored = {name: training.get(name) for name in (*_OPTIONS, *_FREE)}
        stored |= {"model": model["name"], "data": source["data"], "tokenizer": source["tokenizer"]}
        stored |= {size: model.get(size) for size in SIZES}
        held_out, files, length = source["held_out"], source["files"], (training["epochs"], training["steps"])
    except KeyError as error:
        raise DataError(
            f"{folder.path / 'config.json'}: expected the options of a run to continue, got none of {error}; "
            "it was begun by an earlier fastnll, begin another one"
        ) from None
    for name, value in stored.items():
        given = getattr(args, name)
        if given is None:
            setattr(args, name, value)
        elif given != value and name not in _FREE:
            raise _other(name, folder, value, given)
    _adopt_length(args, folder, length)
    # Files may have moved: that they hold the same is checked when they are read.
    if args.held_out is None or isinstance(args.held_out, float) or isinstance(held_out, float):
        if args.held_out not in (None, held_out):
            raise _other("held_out", folder, held_out, args.held_out)
        args.held_out = held_out
    if args.files and stored["data"] is not None:
        raise OptionError(
            f"FILE: expected none to continue {folder.path}, which was begun on --data {stored['data']}, "
            f"got {args.files[0]!r}"
        )
    args.files = args.files or files


def _adopt_length(args: argparse.Namespace, folder: RunFolder, length: tuple[int | None, int]) -> None:
    training = folder.config["training"]
    name, value = ("steps", length[1]) if length[0] is None else ("epochs", length[0])
    other = "epochs" if name == "steps" else "steps"
    if getattr(args, other) is not None:
        raise _other(other, folder, None, getattr(args, other), f"; its length is {flag(name)} {value}")
    given = getattr(args, name)
    if given is None or given == value:
        setattr(args, name, value)
        return
    if given < value:
        raise _other(name, folder, value, given)
    if training["schedule"] != "constant":
        reason = "; its learning rate falls to 0 until then, only a run with --schedule constant can be made longer"
        raise _other(name, folder, value, given, reason)
    if training.get("patience") is not None:
        raise _other(name, folder, value, given, "; a run with --patience has been given its end")


def _other(name: str, folder: RunFolder, value: Any, given: Any, reason: str = "") -> OptionError:
    expected, given = (" ".join(each) if isinstance(each, list) else each for each in (value, given))
    expected = "none" if value is None else expected
    advice = reason or "; leave it out, or begin another run"
    return OptionError(f"{flag(name)}: expected {expected}, with which {folder.path} was begun, got {given}{advice}")


def load_like(folder: RunFolder, args: argparse.Namespace) -> SequenceDataset:
    """Load the data of a run again, with its own tokenizer.

    Raises
    ------
    DataError
        Data that are not there any more, or are others.
    """
    dataset, _ = load_dataset(args.files, args.data, folder.tokenizer, trained=True)
    check_same_data(folder, dataset, "data")
    return dataset


def check_same_data(folder: RunFolder, dataset: SequenceDataset, key: str) -> None:
    """Compare a dataset with the fingerprint in ``config.json``, and give it the name that it has there.

    Raises
    ------
    DataError
        If it is another one.
    """
    wanted = folder.config[key]
    if dataset.sha256() != wanted["sha256"]:
        raise DataError(
            f"{dataset.source}: expected the data that {folder.path} was begun on, {wanted['n_tokens']:,} tokens, got "
            f"others, {dataset.n_tokens:,} tokens; the file was changed, restore it or begin another run"
        )
    # As the run calls it, wherever it was found this time.
    dataset.source = wanted["source"]


def position(folder: RunFolder, model: Model, *, clean: bool) -> Checkpoint | None:
    """The checkpoint to go on from; None, and (if this process is the one to `clean`) an empty folder, without any.

    Raises
    ------
    DataError
        If no checkpoint is whole.
    """
    checkpoint, torn = folder.newest_whole_checkpoint(model)
    for sentence in torn:
        print(f"fastnll train: {sentence}", file=sys.stderr)
    if checkpoint is None and clean:
        folder.metrics.unlink(missing_ok=True)
        folder.table.unlink(missing_ok=True)
    before, now = folder.config.get("machine"), machine()
    if before != now:
        print(
            f"fastnll train: {folder.path} was begun with {_called(before)} and goes on with {_called(now)}: the "
            "result is the same up to rounding, not to the bit",
            file=sys.stderr,
        )
    return checkpoint


def machine() -> dict[str, str | None]:
    """What decides the last bits of a result on this machine."""
    return {"backend": registry.backend_name(), "isa": registry.isa_name()}


def _called(machine: dict[str, str | None] | None) -> str:
    return " ".join(name for name in (machine or {}).values() if name) or "another installation"
