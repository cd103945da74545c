"""Run folders: ``config.json``, ``metrics.jsonl`` and ``.csv``, ``checkpoint/``, ``curve.png`` of one training run."""

from __future__ import annotations

import errno
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from fastnll.arrayfiles import read_json, write_json
from fastnll.checkpoint import Checkpoint, checkpoints_in, load_checkpoint
from fastnll.data import tokenizer_from_dict
from fastnll.errors import DataError
from fastnll.models import Model, make

__all__ = ["RunFolder", "create_run", "newest_run", "open_run"]

FORMAT = "fastnll-run"
VERSION = 1


class RunFolder:
    """Where the files of a run are.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    config : dict
        What ``config.json`` holds; empty for a new run.

    Examples
    --------
    >>> RunFolder("runs/first").metrics.as_posix()
    'runs/first/metrics.jsonl'
    """

    def __init__(self, path: str | os.PathLike[str], config: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.config = config or {}

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def table(self) -> Path:
        """The same as comma-separated values."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """The log folder for TensorBoard, where that was asked for."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoint"

    @property
    def curve(self) -> Path:
        """The picture of the loss."""
        return self.path / "curve.png"

    def write_config(self, config: dict[str, Any]) -> None:
        """Write ``config.json``, with the format and version of the folder.

        Raises
        ------
        OSError
            What the operating system refuses.
        """
        self.config = {"format": FORMAT, "format_version": VERSION, **config}
        write_json(self.path / "config.json", self.config)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer the run's data were made with, or None.

        Raises
        ------
        DataError
            A description that no tokenizer of this version fits.
        """
        described = self.config.get("data", {}).get("tokenizer")
        return None if described is None else tokenizer_from_dict(described)

    def load(self) -> tuple[Model, Checkpoint]:
        """The model and its newest checkpoint.

        Raises
        ------
        DataError
            A checkpoint that is missing, torn, or not of the model in ``config.json``.
        """
        model = self.model()
        checkpoint = load_checkpoint(self.checkpoints, model=model)
        model.check_params(checkpoint.params)
        return model, checkpoint

    def model(self) -> Model:
        """The model that ``config.json`` describes.

        Raises
        ------
        DataError
            A description that is missing or of no model of this version.
        """
        try:
            return make(**self.config["model"])
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.path / 'config.json'}: expected the description of a model, got none ({error})"
            ) from None

    def newest_whole_checkpoint(self, model: Model) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that can be read, and what is wrong with those after it.

        Returns
        -------
        Checkpoint or None
            None of a run that was stopped before its first.
        list of str
            A sentence for each that is torn.

        Raises
        ------
        DataError
            If there are checkpoints, and none is whole.
        """
        torn: list[str] = []
        for path in reversed(checkpoints_in(self.checkpoints)):
            try:
                checkpoint = load_checkpoint(path, model=model)
            except DataError as error:
                torn.append(str(error))
            else:
                model.check_params(checkpoint.params)
                return checkpoint, torn
        if torn:
            raise DataError(torn[0])
        return None, torn

    def records(self) -> list[dict[str, Any]]:
        """What ``metrics.jsonl`` says of each step that is in it.

        Raises
        ------
        DataError
            A line that is no JSON object.
        """
        found = []
        with open(self.metrics, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    record = json.loads(line)
                    if "train/loss" in record:
                        found.append(record)
                except (ValueError, TypeError):
                    raise DataError(
                        f"{self.metrics}: expected a JSON object in each line, got other text in line {number}"
                    ) from None
        return found


def create_run(out: str | os.PathLike[str] | None, name: str, config: dict[str, Any] | None = None) -> RunFolder:
    """Make an empty run folder.

    Parameters
    ----------
    out : path or None
        Must not exist or be empty. None makes ``runs/<name>-<date>-<time>``.
    name : str
    config : dict, optional
        What ``config.json`` is to hold. The folder then appears with it, at once: a process that dies leaves no
        folder without.

    Raises
    ------
    DataError
        A folder that holds something already, a file of that name, a place that may not be written.
    """
    if out is not None:
        path = Path(out)
        if path.is_dir() and any(path.iterdir()):
            raise DataError(f"{path}: expected a new or empty folder for the run, got one with files; name another one")
    else:
        stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
        path, count = Path("runs") / stem, 1
        while path.exists():
            count += 1
            path = Path("runs") / f"{stem}-{count}"
    try:
        if config is not None:
            return _create_with(path, config)
        path.mkdir(parents=True, exist_ok=True)
        # Better now than after the training: whether files can be made here is known only by making one.
        probe = path / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"{path}: expected a folder that can be written, got{_got(path, error)}; name another one"
        ) from None
    return RunFolder(path)


def _got(path: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return " a file"
    if isinstance(error, NotADirectoryError):
        return f" one below the file {next(part for part in path.parents if part.exists())}"
    return f": {error.strerror}"


def _create_with(path: Path, config: dict[str, Any]) -> RunFolder:
    if path.exists() and not path.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = f".{path.name}.writing-"
    for left in [other for other in path.parent.iterdir() if other.name.startswith(hidden)]:
        # Of a process that died here.
        shutil.rmtree(left, ignore_errors=True)
    beside = RunFolder(path.with_name(f"{hidden}{os.getpid()}"))
    beside.path.mkdir()
    try:
        beside.write_config(config)
        # An empty folder of that name is replaced.
        beside.path.rename(path)
    except BaseException:
        shutil.rmtree(beside.path, ignore_errors=True)
        raise
    return RunFolder(path, beside.config)


def newest_run(folder: str | os.PathLike[str] = "runs") -> RunFolder:
    """Open the run in a folder of runs that was begun last.

    Raises
    ------
    DataError
        If there is none.
    """
    # The time to the second is in the name as well; the file's own tells runs of one second apart.
    found = sorted(Path(folder).glob("*/config.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    if not found:
        raise DataError(f"{folder}: expected a folder with a run in it, got none; name the run: --resume RUN")
    return open_run(found[-1].parent)


def open_run(path: str | os.PathLike[str]) -> RunFolder:
    """Open the folder of an earlier run.

    Raises
    ------
    DataError
        A folder that is not there or not of a run, a torn ``config.json``, one of a newer fastnll.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: expected the folder of a run, got {'a file' if root.exists() else 'no such folder'}")
    if not (root / "config.json").exists():
        raise DataError(f"{root}: expected the folder of a run, got one without config.json; 'fastnll train' makes one")
    config = read_json(root / "config.json")
    if config.get("format") != FORMAT:
        raise DataError(f"{root}: expected the folder of a fastnll run, got a config.json of {config.get('format')!r}")
    if config.get("format_version", 0) > VERSION:
        raise DataError(
            f"{root}: expected run format {VERSION} or older, got {config['format_version']} "
            f"(written by fastnll {config.get('fastnll')}); update fastnll"
        )
    return RunFolder(root, config)
