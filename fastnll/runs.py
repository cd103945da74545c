"""Run folders: ``config.json``, ``metrics.jsonl``, ``checkpoint/`` and ``curve.png`` of one training run."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from fastnll.arrayfiles import read_json, write_json
from fastnll.checkpoint import Checkpoint, load_checkpoint
from fastnll.data import tokenizer_from_dict
from fastnll.errors import DataError
from fastnll.models import Model, make

__all__ = ["RunFolder", "create_run", "open_run"]

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
        try:
            model = make(**self.config["model"])
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.path / 'config.json'}: expected the description of a model, got none ({error})"
            ) from None
        checkpoint = load_checkpoint(self.checkpoints, model=model)
        model.check_params(checkpoint.params)
        return model, checkpoint


def create_run(out: str | os.PathLike[str] | None, name: str) -> RunFolder:
    """Make an empty run folder.

    Parameters
    ----------
    out : path or None
        Must not exist or be empty. None makes ``runs/<name>-<date>-<time>``.
    name : str

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
        path.mkdir(parents=True, exist_ok=True)
        # Better now than after the training: whether files can be made here is known only by making one.
        probe = path / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"{path}: expected a folder that can be written, got: {error.strerror}; name another one"
        ) from None
    return RunFolder(path)


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
