"""What a run measures, step by step, for a file or TensorBoard."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnll.callbacks.base import Callback, positive
from fastnll.errors import OptionError

if TYPE_CHECKING:
    from fastnll.training import Run

__all__ = ["CsvLines", "JsonLines", "TensorBoard"]

_COLUMNS = (
    *("step", "epoch", "tokens", "train/loss", "train/bits_per_token", "lr", "grad_norm"),
    *("held_out/loss", "held_out/bits_per_token", "tokens_per_s", "wall_s"),
)


class _Records(Callback):
    """Makes a record of a step if it is time: every so many steps, the last one, and after each evaluation."""

    def __init__(self, every: int) -> None:
        self._every = positive("every", every)
        self._written = -1
        self._begin, self._earlier = 0.0, 0.0

    def on_start(self, run: Run) -> None:
        """Start the clock of ``wall_s``."""
        self._begin = time.monotonic()

    def on_step(self, run: Run) -> None:
        """Write a record if it is time."""
        step, measured = run.progress.step, run.history.held_out_step
        if step % self._every == 0 or step == run.n_steps or (measured and measured[-1] == step):
            self._record(run)

    def _record(self, run: Run) -> None:
        progress, history = run.progress, run.history
        self._written = progress.step
        record: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "tokens": progress.tokens,
            "train/loss": history.loss[-1],
            "train/bits_per_token": history.loss[-1] / math.log(2),
            "lr": history.lr[-1],
        }
        if history.grad_norm[-1] is not None:
            record["grad_norm"] = history.grad_norm[-1]
        if history.held_out_step and history.held_out_step[-1] == progress.step:
            record["held_out/loss"] = history.held_out_loss[-1]
            record["held_out/bits_per_token"] = history.held_out_loss[-1] / math.log(2)
        record["tokens_per_s"], record["wall_s"] = run.tokens_per_second, self._wall()
        self._write(record)

    def _wall(self) -> float:
        return self._earlier + time.monotonic() - self._begin

    def _write(self, record: dict[str, Any]) -> None:
        raise NotImplementedError


class _Lines(_Records):
    """Records as lines of a file that a continued run goes on in."""

    def __init__(self, path: str | os.PathLike[str], every: int) -> None:
        super().__init__(every)
        self._path = Path(path)
        self._handle: int | None = None
        self._size: int | None = None

    def on_start(self, run: Run) -> None:
        """Open the file for appending; of a continued run, drop what was written behind its checkpoint."""
        super().on_start(run)
        if not run.is_main:
            return
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if self._size is not None:
            os.truncate(self._handle, min(self._size, os.fstat(self._handle).st_size))

    def on_step(self, run: Run) -> None:
        """Write a record if it is time."""
        if self._handle is not None:
            super().on_step(run)

    def on_end(self, run: Run) -> None:
        """Write the last step, and close."""
        if self._handle is None:
            return
        try:
            self._finish(run)
        finally:
            os.close(self._handle)
            self._handle = None

    def _finish(self, run: Run) -> None:
        # Not after a write that failed: it would fail again, and say less.
        if run.history.step and self._written != run.progress.step and not isinstance(run.error, OSError):
            self._record(run)

    def state_dict(self) -> dict[str, Any]:
        """How long the file is, flushed to disk, and how long the run has taken."""
        if self._handle is None:
            return {}
        os.fsync(self._handle)
        return {"bytes": os.fstat(self._handle).st_size, "wall_s": self._wall()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after that many bytes."""
        self._size, self._earlier = state.get("bytes"), float(state.get("wall_s", 0.0))

    def _append(self, line: str) -> None:
        assert self._handle is not None
        data = line.encode() + b"\n"
        try:
            # A full disk takes a part of the line before it refuses the rest.
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


class JsonLines(_Lines):
    """Append one JSON object a record to a file, at once, so that it can be followed while it grows.

    Parameters
    ----------
    path : path
    every : int, default 1
        Record every so many steps, the last one, and those after which held-out data were evaluated.

    Notes
    -----
    Keys of a step: step, epoch, tokens, train/loss (nats), train/bits_per_token, lr, grad_norm (with clipping),
    held_out/loss and held_out/bits_per_token (after an evaluation), tokens_per_s, wall_s. The last record has
    final/... of :class:`fastnll.history.Evaluation`, and final/held_out/... with held-out data. What is not a finite
    number is null, which every JSON reader understands.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        super().__init__(path, every)

    def _finish(self, run: Run) -> None:
        super()._finish(run)
        history = run.history
        if history.final is None:
            return
        final = {f"final/{name}": value for name, value in history.final.to_dict().items()}
        if history.final_held_out is not None:
            final |= {f"final/held_out/{name}": value for name, value in history.final_held_out.to_dict().items()}
        self._write({"step": run.progress.step, "tokens": run.progress.tokens, **final})

    def _write(self, record: dict[str, Any]) -> None:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._append(json.dumps(clean, allow_nan=False))


class CsvLines(_Lines):
    """Append the same records to a table of comma-separated values, with a line of names at its top.

    Parameters
    ----------
    path : path
    every : int, default 1
        As for `JsonLines`.

    Notes
    -----
    Columns: step, epoch, tokens, train/loss, train/bits_per_token, lr, grad_norm, held_out/loss,
    held_out/bits_per_token, tokens_per_s, wall_s. What was not measured at a step, or is not a finite number, is empty.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        super().__init__(path, every)

    def on_start(self, run: Run) -> None:
        """Open the file, and name the columns of a new one."""
        super().on_start(run)
        if self._handle is not None and not os.fstat(self._handle).st_size:
            self._append(",".join(_COLUMNS))

    def _write(self, record: dict[str, Any]) -> None:
        values = (record.get(name, math.nan) for name in _COLUMNS)
        # repr of a float is the shortest text that reads back as the same number.
        self._append(",".join(repr(value) if math.isfinite(value) else "" for value in values))


class TensorBoard(_Records):
    """Write the records as scalars that TensorBoard shows.

    Parameters
    ----------
    folder : path
        Its log folder.
    every : int, default 1
        As for `JsonLines`.

    Raises
    ------
    OptionError
        If neither tensorboardX nor PyTorch with tensorboard is installed.

    Notes
    -----
    Of a continued run TensorBoard is told to forget what a run that died had written behind its checkpoint.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 1) -> None:
        super().__init__(every)
        self._folder, self._make = Path(folder), _summary_writer()
        self._stream: Any = None

    def on_start(self, run: Run) -> None:
        """Open the log."""
        super().on_start(run)
        if run.is_main:
            self._stream = self._make(str(self._folder), purge_step=run.progress.step + 1)

    def on_step(self, run: Run) -> None:
        """Write the scalars if it is time."""
        if self._stream is not None:
            super().on_step(run)

    def on_end(self, run: Run) -> None:
        """Write the final evaluation, and close."""
        if self._stream is None:
            return
        for name, result in (("final", run.history.final), ("final/held_out", run.history.final_held_out)):
            if result is not None:
                self._stream.add_scalar(f"{name}/bits_per_token", result.bits_per_token, run.progress.step)
        self._stream.close()

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the time; what was written goes to disk."""
        if self._stream is not None:
            self._stream.flush()
        return {"wall_s": self._wall()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the clock."""
        self._earlier = float(state.get("wall_s", 0.0))

    def _write(self, record: dict[str, Any]) -> None:
        assert self._stream is not None
        for name, value in record.items():
            if name not in ("step", "tokens"):
                self._stream.add_scalar(name, value, record["step"])


def _summary_writer() -> Any:
    # tensorboardX first: it is small, and importing PyTorch takes seconds.
    for module in ("tensorboardX", "torch.utils.tensorboard"):
        try:
            return import_module(module).SummaryWriter
        except ImportError:
            continue
    raise OptionError(
        "tensorboard: expected tensorboardX, or PyTorch with tensorboard, to write its logs, got neither; "
        "pip install tensorboardX"
    )
