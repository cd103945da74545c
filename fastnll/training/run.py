"""A run in progress, and the evaluation of a dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnll.callbacks import Callback
from fastnll.history import Evaluation, History, Progress
from fastnll.sampling import Sampler

__all__ = ["Run", "evaluate", "total_steps"]


@dataclass
class Run:
    """What a callback sees of a run in progress.

    Attributes
    ----------
    objective : Objective
    optimizer : SGD
        Its `params` are the parameters, updated in place.
    history : History
        Everything measured so far; ``history.loss[-1]`` is the last step's.
    progress : Progress
        Where the run is.
    n_steps : int or None
        Steps of the whole run; None if only the number of epochs is known.
    n_epochs : int or None
        Epochs of the whole run, if it was asked for in epochs.
    callbacks : sequence of Callback
        All of them, in the order they are called in.
    best : dict of ndarray or None
        The parameters with the lowest held-out loss so far, of a run that stops early.
    error : BaseException or None
        In `on_end`: what ended the run, if it did not end by itself.
    """

    objective: Any
    optimizer: Any
    history: History
    n_steps: int | None = None
    n_epochs: int | None = None
    callbacks: Sequence[Callback] = ()
    best: dict[str, np.ndarray[Any, Any]] | None = None
    error: BaseException | None = None
    started_at: Progress = field(default_factory=Progress)

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return self.history.progress

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes: of a run on many ranks, rank 0 does."""
        ranks = getattr(self.objective, "ranks", None)
        return ranks is None or bool(ranks.root)

    @property
    def tokens_per_second(self) -> float:
        """Predicted tokens per second, evaluations and callbacks excluded; NaN before the first step."""
        seconds = self.progress.seconds - self.started_at.seconds
        return (self.progress.tokens - self.started_at.tokens) / seconds if seconds > 0 else math.nan

    @property
    def done(self) -> bool:
        """Whether the step just made is the last."""
        if self.history.stopped:
            return True
        if self.n_steps is not None:
            return self.progress.step >= self.n_steps
        return self.n_epochs is not None and self.progress.epoch >= self.n_epochs

    def stop(self, reason: str) -> None:
        """End the run after this step; `reason` goes to ``history.stopped``."""
        self.history.stopped = reason

    def agree_on_stop(self) -> None:
        """Stop here if another rank of the run wants to stop; a collective call, nothing in a single process.

        Signals reach the ranks at different moments: one that ended alone would leave the others waiting for ever.
        """
        ranks = getattr(self.objective, "ranks", None)
        if ranks is not None and ranks.sum(int(self.history.stopped is not None)):
            reasons = ranks.comm.allgather(self.history.stopped)
            self.stop(next(reason for reason in reasons if reason is not None))

    def callback_states(self) -> dict[str, Any]:
        """The state of every callback that has one, by its name in `callbacks`."""
        states = {key: callback.state_dict() for key, callback in self._named() if hasattr(callback, "state_dict")}
        return {key: state for key, state in states.items() if state}

    def load_callback_states(self, states: dict[str, Any]) -> None:
        """Hand the states of a checkpoint to the callbacks of the same names."""
        for key, callback in self._named():
            if key in states:
                callback.load_state_dict(states[key])

    def _named(self) -> list[tuple[str, Callback]]:
        """Callbacks by the name of their class, the second of a class as "Name-2"."""
        names = [type(callback).__name__ for callback in self.callbacks]
        numbers = [names[: i + 1].count(name) for i, name in enumerate(names)]
        keys = [name if n == 1 else f"{name}-{n}" for name, n in zip(names, numbers, strict=True)]
        return list(zip(keys, self.callbacks, strict=True))


def total_steps(objective: Any, batch_tokens: int | None, epochs: int, *, seed: int = 0, accumulate: int = 1) -> int:
    """How many updates `fit` makes in so many epochs, for a schedule that has to know.

    Parameters
    ----------
    objective : Objective
    batch_tokens : int or None
    epochs : int
    seed : int, default 0
    accumulate : int, default 1

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> from fastnll.models import Categorical
    >>> from fastnll.objective import Objective
    >>> total_steps(Objective(Categorical(2), SequenceDataset([0, 1] * 50)), 10, epochs=3)
    30
    """
    sampler = Sampler(objective, batch_tokens, seed=seed)
    return sum(-(-sampler.steps_per_epoch(epoch) // accumulate) for epoch in range(epochs))


def evaluate(objective: Any, params: Any) -> Evaluation:
    """The negative log-likelihood of the objective's dataset, in all units, from one pass.

    Parameters
    ----------
    objective : Objective
        Its L2 penalty, if it has one, is not part of the likelihood.
    params : dict of ndarray

    Returns
    -------
    Evaluation
    """
    return Evaluation(
        nll=-objective.log_likelihood(params),
        n_predicted=objective.n_predicted,
        n_bytes=getattr(objective.dataset, "n_bytes", None),
    )
