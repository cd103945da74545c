"""Between a run and whoever sits in front of it: the progress bar, and signals."""

from __future__ import annotations

import math
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from fastnll.callbacks.base import Callback

if TYPE_CHECKING:
    from fastnll.training import Run

__all__ = ["ProgressBar", "StopOnSignal"]


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
        if not run.is_main:
            return
        from tqdm.auto import tqdm

        steps = run.n_steps is not None
        total, initial = (run.n_steps, run.progress.step) if steps else (run.n_epochs, run.progress.epoch)
        self._bar = tqdm(total=total, initial=initial, unit="step" if steps else "epoch", **self._options)

    def on_step(self, run: Run) -> None:
        """Advance; the loss shown is a running mean over about 50 steps, for that of one batch jumps."""
        if self._bar is None:
            return
        loss = run.history.loss[-1]
        self._smooth = loss if math.isnan(self._smooth) else 0.98 * self._smooth + 0.02 * loss
        if not self._bar.disable:
            bits, speed = self._smooth / math.log(2), run.tokens_per_second
            text = f"{self._smooth:.4f} nats, {bits:.4f} bits per token, {speed / 1e6:.2f} M tokens/s"
            if run.history.held_out_loss:
                text += f", held out {run.history.held_out_loss[-1] / math.log(2):.4f} bits"
            self._bar.set_postfix_str(text, refresh=False)
        if run.n_steps is not None:
            self._bar.update()

    def on_epoch(self, run: Run) -> None:
        """Advance by an epoch."""
        if self._bar is not None and run.n_steps is None:
            self._bar.update()

    def on_end(self, run: Run) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


class StopOnSignal(Callback):
    """Let Ctrl-C and SIGTERM end the run after the step in progress; a second one ends it at once.

    Notes
    -----
    The handler only notes the signal; the run is told in `on_step`, between two steps and before anything is saved.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._got: str | None = None

    def on_start(self, run: Run) -> None:
        """Take over the signals, in the main thread, which alone may."""
        self._got = None
        if threading.current_thread() is not threading.main_thread():
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self._got = signal.Signals(number).name
            self._restore()

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, handle)

    def on_step(self, run: Run) -> None:
        """End the run if a signal has come."""
        if self._got is not None:
            run.stop(self._got)

    def on_trained(self, run: Run) -> None:
        """Hand the signals back: what follows may be long, and nothing is lost by ending it."""
        self._restore()

    def on_end(self, run: Run) -> None:
        """Hand the signals back."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, before)
