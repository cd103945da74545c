"""Checkpoints: a folder per step, whole or not there at all.

A checkpoint is ``step-000123/`` with the parameters, the best ones so far where they are others, the optimiser's
arrays and ``state.json``. It is written beside under a hidden name, read back, and renamed: a process that dies at any
moment leaves the checkpoints before it as they were. Nothing is pickled, so loading one from a stranger runs no code of
theirs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastnll.arrayfiles import Arrays, read_arrays, read_json, write_arrays, write_json
from fastnll.errors import DataError
from fastnll.history import Progress

__all__ = ["Checkpoint", "checkpoints_in", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = "fastnll-checkpoint"
# 2: the best parameters, states of callbacks.
VERSION = 2
_STEP = re.compile(r"step-(\d{6,})")
_HIDDEN = ".writing-"
_MOMENTUM = "momentum_buffer/"


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes
    ----------
    params : dict of ndarray
        Fresh, writeable arrays.
    optimizer : dict or None
        What ``SGD.load_state_dict`` takes.
    model : dict or None
        Name and arguments of the model, for ``fastnll.models.make(**model)``.
    progress : Progress
        Where the run was, for the `start` of ``fastnll.training.fit``.
    dataset_sha256 : str or None
        Fingerprint of the training data.
    version : str
        The fastnll that wrote it.
    path : Path
    callbacks : dict
        The state of each callback, by name.
    best : dict of ndarray or None
        The parameters with the lowest held-out loss, where the run stops early and these are not `params`.
    """

    params: Arrays
    optimizer: dict[str, Any] | None
    model: dict[str, Any] | None
    progress: Progress
    dataset_sha256: str | None
    version: str
    path: Path = field(repr=False)
    callbacks: dict[str, Any] = field(default_factory=dict, repr=False)
    best: Arrays | None = None

    @property
    def result(self) -> Arrays:
        """What the run is good for so far: the best parameters where it looks for them, else the last."""
        return self.params if self.best is None else self.best

    @property
    def result_step(self) -> int:
        """After which step `result` was reached."""
        best = self.progress.best_step
        return self.progress.step if self.best is None or best is None else best


def save_checkpoint(
    folder: str | os.PathLike[str],
    params: Mapping[str, Any],
    *,
    progress: Progress | None = None,
    optimizer: Any = None,
    model: Any = None,
    dataset_sha256: str | None = None,
    best: Mapping[str, Any] | None = None,
    callbacks: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint into `folder` and drop the oldest ones.

    Parameters
    ----------
    folder : path
        Holds the checkpoints of one run; made if it is not there.
    params : dict of ndarray
        Any strides; written C-contiguous.
    progress : Progress, optional
        Its `step` names the checkpoint.
    optimizer : SGD, optional
        Its options and momentum are written too.
    model : Model, optional
        Its ``config()`` is written, and compared when the checkpoint is loaded for a model.
    dataset_sha256 : str, optional
    best : dict of ndarray, optional
        Better parameters, of an earlier step.
    callbacks : dict, optional
        JSON values that callbacks go on from, by name.
    keep : int, default 2
        How many checkpoints stay, the new one included; at least 1.

    Returns
    -------
    Path
        The new checkpoint.

    Raises
    ------
    OSError
        A disk that is full, a folder that may not be written. The checkpoints before are left as they were.
    DataError
        A file that does not read back as it was written.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(folder, {"w": np.arange(3.0)}, progress=Progress(step=7))
    ...     path.name, load_checkpoint(folder).params["w"].tolist()
    ('step-000007', [0.0, 1.0, 2.0])
    """
    progress = progress or Progress()
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    final = root / f"step-{progress.step:06d}"
    beside = root / f"{_HIDDEN}{final.name}-{os.getpid()}"
    beside.mkdir()
    state: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "fastnll": _version(),
        "progress": progress.to_dict(),
        "model": None if model is None else model.config(),
        "dataset_sha256": dataset_sha256,
        "callbacks": dict(callbacks or {}),
    }
    try:
        _write(beside, state, params, best, optimizer)
        if final.exists():
            # A folder cannot be renamed over a full one; the old one of the same step goes out of the way first.
            _drop(final)
        beside.rename(final)
        _sync(root)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            # A write that fails does not say where: the user has to know which disk is full.
            raise OSError(error.errno, error.strerror, str(final)) from error
        raise
    others = [path for path in checkpoints_in(root) if path != final]
    for path in others[: max(0, len(others) - (max(1, keep) - 1))]:
        with suppress(OSError):
            _drop(path)
    return final


def _write(folder: Path, state: dict[str, Any], params: Any, best: Any, optimizer: Any) -> None:
    files = {"params": write_arrays(folder, "model", params)}
    if best is not None:
        files["best"] = write_arrays(folder, "best", best)
    saved = None
    if optimizer is not None:
        saved = dict(optimizer.state_dict())
        buffers = {_MOMENTUM + name: entry["momentum_buffer"] for name, entry in saved.pop("state").items()}
        files["optimizer"] = write_arrays(folder, "optimizer", buffers)
    write_json(folder / "state.json", {**state, "files": files, "optimizer": saved})


def _drop(path: Path) -> None:
    """Remove a checkpoint, under a hidden name: a process that dies on the way leaves no half of one."""
    hidden = path.with_name(f"{_HIDDEN}{path.name}-old-{os.getpid()}")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def load_checkpoint(path: str | os.PathLike[str], *, model: Any = None) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    path : path
        A checkpoint, a folder of checkpoints (the newest is taken), or a run folder with ``checkpoint/`` in it.
    model : Model, optional
        The model it has to be of.

    Returns
    -------
    Checkpoint

    Raises
    ------
    DataError
        A folder that is not there or holds no checkpoint, a file that is torn or not the one that was written, a
        checkpoint of a newer format or of another model.
    """
    where = latest_checkpoint(path)
    state = read_json(where / "state.json")
    if state.get("format") != FORMAT:
        raise DataError(f"{where}: expected a fastnll checkpoint, got a state.json of {state.get('format')!r}")
    if state.get("format_version", 0) > VERSION:
        raise DataError(
            f"{where}: expected checkpoint format {VERSION} or older, got {state['format_version']} "
            f"(written by fastnll {state.get('fastnll')}); update fastnll"
        )
    try:
        files, progress = state["files"], Progress(**state["progress"])
        saved, config, sha256 = state["optimizer"], state["model"], state["dataset_sha256"]
        description, of_callbacks = files["params"], dict(state.get("callbacks", {}))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where / 'state.json'}: expected the entries of a checkpoint, got a file without {error}"
        ) from None
    if model is not None and config != model.config():
        raise DataError(
            f"{where}: expected a checkpoint of model {_show(model.config())}, got one of {_show(config)}; "
            "build that model, or load another checkpoint"
        )
    params = read_arrays(where, description)
    if saved is not None:
        buffers = read_arrays(where, files["optimizer"])
        state_of = {name.removeprefix(_MOMENTUM): {"momentum_buffer": array} for name, array in buffers.items()}
        saved = {**saved, "state": state_of}
    best = read_arrays(where, files["best"]) if "best" in files else None
    return Checkpoint(params, saved, config, progress, sha256, str(state.get("fastnll")), where, of_callbacks, best)


def latest_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that `path` is, or the newest one in it.

    Raises
    ------
    DataError
        If there is none.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a run or checkpoint folder, got {'a file' if root.exists() else 'no such folder'}"
        )
    if (root / "state.json").exists():
        return root
    for folder in (root, root / "checkpoint"):
        found = checkpoints_in(folder)
        if found:
            return found[-1]
    raise DataError(f"{root}: expected a run or checkpoint folder, got one without a checkpoint (step-.../state.json)")


def checkpoints_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in a folder, oldest step first; none where there is no such folder.

    Examples
    --------
    >>> checkpoints_in("no/such/folder")
    []
    """
    root = Path(folder)
    if not root.is_dir():
        return []
    matches = ((_STEP.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def _sweep(root: Path) -> None:
    """Remove what a process that died while writing left behind."""
    for path in root.glob(f"{_HIDDEN}*"):
        shutil.rmtree(path, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Ask for the rename itself to reach the disk, where folders can be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _show(config: Mapping[str, Any] | None) -> str:
    return json.dumps(config) if config else "no named model"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fastnll")
    except PackageNotFoundError:
        return "unknown (source tree)"
