"""Checkpoints on the way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastnll.callbacks.base import Callback, positive
from fastnll.checkpoint import save_checkpoint
from fastnll.clipping import DivergenceError

if TYPE_CHECKING:
    from fastnll.training import Run

__all__ = ["Checkpoints"]


class Checkpoints(Callback):
    """Write a checkpoint every so many steps and at the end: parameters, optimiser, position, states of callbacks.

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

    last: ClassVar[bool] = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int | None = None,
        keep: int = 2,
        dataset_sha256: str | None = None,
    ) -> None:
        self._folder, self._keep, self._sha256 = folder, positive("keep", keep), dataset_sha256
        self._every = None if every is None else positive("every", every)
        self._written = -1

    def on_start(self, run: Run) -> None:
        """Note where the run starts: there is a checkpoint of that already, or nothing to keep yet."""
        self._written = run.progress.step

    def on_step(self, run: Run) -> None:
        """Write if it is time, or the last step: before the evaluation, which may be interrupted."""
        if run.done or (self._every is not None and run.progress.step % self._every == 0):
            self._save(run)

    def on_trained(self, run: Run) -> None:
        """Write the last state, where `on_step` did not know that it was the last."""
        if run.progress.step != self._written:
            self._save(run)

    def _save(self, run: Run) -> None:
        if not run.is_main:
            return
        params = run.optimizer.params
        for name, array in params.items():
            bad = int(np.isnan(array).sum())
            if bad:
                raise DivergenceError(
                    f"params[{name!r}]: expected numbers to write to a checkpoint, got NaN in {bad} of {array.size} "
                    f"after step {run.progress.step}; the checkpoint before is kept, lower the learning rate"
                )
        best: Any = None if run.progress.best_step == run.progress.step else run.best
        save_checkpoint(
            self._folder,
            params,
            progress=run.progress,
            optimizer=run.optimizer,
            model=run.objective.model,
            dataset_sha256=self._sha256,
            best=best,
            callbacks=run.callback_states(),
            keep=self._keep,
        )
        self._written = run.progress.step
