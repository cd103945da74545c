"""What may happen around the steps of a run: a progress bar, metrics, checkpoints, a clean stop.

A callback is any object with the four methods of :class:`Callback`; deriving from it saves writing the empty ones.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from fastnll.checkpoint import save_checkpoint
from fastnll.clipping import DivergenceError
from fastnll.errors import OptionError

if TYPE_CHECKING:
    from fastnll.training import Run

__all__ = ["Callback", "Checkpoints", "JsonLines", "ProgressBar", "StopOnSignal"]


class Callback:
    """Does nothing at every occasion.

    Every method is given the :class:`fastnll.training.Run` in progress; ``run.stop(reason)`` ends it after the step.
    """

    def on_start(self, run: Run) -> None:
        """Before the first step."""

    def on_step(self, run: Run) -> None:
        """After every update; ``run.history.loss[-1]`` is its loss."""

    def on_epoch(self, run: Run) -> None:
        """After the last update of an epoch, behind `on_step`."""

    def on_end(self, run: Run) -> None:
        """At the end, also after an error (``run.error``) and for the callbacks of a run that another one failed."""


class ProgressBar(Callback):
    """A tqdm bar with loss, bits per token and speed; silent where the output is no terminal.

    Parameters
    ----------
    disable : bool or None, default None
        None asks whether `file` is a terminal.
    file : text stream, optional
        Default: stderr.
    """

    def __init__(self, *, disable: bool | None = None, file: TextIO | None = None) -> None:
        self._options: dict[str, Any] = {"disable": disable, "file": file, "mininterval": 0.5, "dynamic_ncols": True}
        self._bar: Any = None
        self._smooth = math.nan

    def on_start(self, run: Run) -> None:
        """Draw the empty bar: steps where their number is known, epochs otherwise."""
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        steps = run.n_steps is not None
        total, initial = (run.n_steps, run.progress.step) if steps else (run.n_epochs, run.progress.epoch)
        self._bar = tqdm(total=total, initial=initial, unit="step" if steps else "epoch", **self._options)

    def on_step(self, run: Run) -> None:
        """Advance; the loss shown is a running mean over about 50 steps, for that of one batch jumps."""
        loss = run.history.loss[-1]
        self._smooth = loss if math.isnan(self._smooth) else 0.98 * self._smooth + 0.02 * loss
        if not self._bar.disable:
            bits, speed = self._smooth / math.log(2), run.tokens_per_second
            text = f"{self._smooth:.4f} nats, {bits:.4f} bits per token, {speed / 1e6:.2f} M tokens/s"
            self._bar.set_postfix_str(text, refresh=False)
        if run.n_steps is not None:
            self._bar.update()

    def on_epoch(self, run: Run) -> None:
        """Advance by an epoch."""
        if run.n_steps is None:
            self._bar.update()

    def on_end(self, run: Run) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


class JsonLines(Callback):
    """Append one JSON object a record to a file, flushed, so that it can be followed while it grows.

    Parameters
    ----------
    path : path
    every : int, default 1
        Record every so many steps, and the last one.

    Notes
    -----
    Keys of a step: step, epoch, tokens, train/loss (nats), train/bits_per_token, lr, grad_norm (with clipping),
    tokens_per_s, wall_s. The last record has final/... of :class:`fastnll.history.Evaluation`. What is not a finite
    number is null, which every JSON reader understands.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        self._path, self._every = Path(path), _positive("every", every)
        self._stream: TextIO | None = None
        self._written = -1
        self._begin = 0.0

    def on_start(self, run: Run) -> None:
        """Open the file for appending, so that a continued run goes on in it."""
        self._begin = time.monotonic()
        self._stream = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed in on_end

    def on_step(self, run: Run) -> None:
        """Write a record if it is time."""
        if run.progress.step % self._every == 0 or run.progress.step == run.n_steps:
            self._record(run)

    def _record(self, run: Run) -> None:
        progress, history = run.progress, run.history
        self._written = progress.step
        self._write(
            {
                "step": progress.step,
                "epoch": progress.epoch,
                "tokens": progress.tokens,
                "train/loss": history.loss[-1],
                "train/bits_per_token": history.loss[-1] / math.log(2),
                "lr": history.lr[-1],
                **({} if history.grad_norm[-1] is None else {"grad_norm": history.grad_norm[-1]}),
                "tokens_per_s": run.tokens_per_second,
                "wall_s": time.monotonic() - self._begin,
            }
        )

    def on_end(self, run: Run) -> None:
        """Write the last step and the final evaluation, where there is one, and close."""
        if self._stream is None:
            return
        try:
            if run.history.step and self._written != run.progress.step:
                self._record(run)
            if run.history.final is not None:
                final = {f"final/{name}": value for name, value in run.history.final.to_dict().items()}
                self._write({"step": run.progress.step, "tokens": run.progress.tokens, **final})
        finally:
            self._stream.close()

    def _write(self, record: dict[str, Any]) -> None:
        assert self._stream is not None
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._stream.write(json.dumps(clean, allow_nan=False) + "\n")
        self._stream.flush()


class Checkpoints(Callback):
    """Write a checkpoint every so many steps and at the end.

    Parameters
    ----------
    folder : path
    every : int, optional
        Steps between checkpoints. Default: only the end of the run.
    keep : int, default 2
        How many stay.
    dataset_sha256 : str, optional
        Noted in each.

    Notes
    -----
    Nothing is written after an error, which may have come in the middle of an update, and no parameters with a NaN:
    the last checkpoint is always one to go on from.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int | None = None,
        keep: int = 2,
        dataset_sha256: str | None = None,
    ) -> None:
        self._folder, self._keep, self._sha256 = folder, _positive("keep", keep), dataset_sha256
        self._every = None if every is None else _positive("every", every)
        self._written = -1

    def on_step(self, run: Run) -> None:
        """Write if it is time, or the last step: before the evaluation, which may be interrupted."""
        if run.done or (self._every is not None and run.progress.step % self._every == 0):
            self._save(run)

    def on_end(self, run: Run) -> None:
        """Write the last state if a later callback ended the run, unless it failed."""
        if run.error is None and run.progress.step != self._written:
            self._save(run)

    def _save(self, run: Run) -> None:
        params = run.optimizer.params
        for name, array in params.items():
            bad = int(np.isnan(array).sum())
            if bad:
                raise DivergenceError(
                    f"params[{name!r}]: expected numbers to write to a checkpoint, got NaN in {bad} of {array.size} "
                    f"after step {run.progress.step}; the checkpoint before is kept, lower the learning rate"
                )
        save_checkpoint(
            self._folder,
            params,
            progress=run.progress,
            optimizer=run.optimizer,
            model=run.objective.model,
            dataset_sha256=self._sha256,
            keep=self._keep,
        )
        self._written = run.progress.step


class StopOnSignal(Callback):
    """Let Ctrl-C and SIGTERM end the run after the step in progress; a second one ends it at once."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def on_start(self, run: Run) -> None:
        """Take over the signals, in the main thread, which alone may."""
        if threading.current_thread() is not threading.main_thread():
            return

        def handle(number: int, frame: FrameType | None) -> None:
            run.stop(signal.Signals(number).name)
            self._restore()

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, handle)

    def on_end(self, run: Run) -> None:
        """Hand the signals back."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, before)


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise OptionError(f"{name}: expected an integer of at least 1, got {value!r}")
    return int(value)
