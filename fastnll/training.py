"""The training loop: batches, gradient, update, callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastnll.callbacks import Callback
from fastnll.clipping import DivergenceError
from fastnll.errors import OptionError
from fastnll.history import Evaluation, History, Progress
from fastnll.sampling import Sampler
from fastnll.schedules import Schedule

__all__ = ["Run", "evaluate", "fit", "total_steps"]


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
    error : BaseException or None
        In `on_end`: what ended the run, if it did not end by itself.
    """

    objective: Any
    optimizer: Any
    history: History
    n_steps: int | None = None
    n_epochs: int | None = None
    error: BaseException | None = None
    started_at: Progress = field(default_factory=Progress)

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return self.history.progress

    @property
    def tokens_per_second(self) -> float:
        """Predicted tokens per second of this process, callbacks excluded; NaN before the first step."""
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


def fit(
    objective: Any,
    optimizer: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_tokens: int | None = 4096,
    schedule: Schedule | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    start: Progress | None = None,
    evaluate: bool = True,
) -> History:
    """Minimise an objective with SGD on batches of its dataset.

    The objective is a sum over the dataset. A step follows the gradient of the *mean* over the predicted tokens of
    its batch, so that a learning rate means the same for any batch size and any dataset.

    Parameters
    ----------
    objective : Objective
    optimizer : SGD
        Made over the parameters, which are updated in place.
    epochs, steps : int
        How long, one of the two: passes over the dataset, or updates.
    batch_tokens : int or None, default 4096
        Tokens of a batch; None follows the gradient of the whole dataset.
    schedule : callable, optional
        ``schedule(step)`` is the learning rate of update `step`, counted from 0. Default: the optimiser's own.
    seed : int, default 0
        Chooses the batches, the same on every machine and for any number of threads.
    callbacks : sequence of Callback
        See :mod:`fastnll.callbacks`.
    start : Progress, optional
        Continue from here, with the parameters and the optimiser's state of that moment (from a checkpoint):
        the result is that of a run that was never interrupted. `epochs` and `steps` count from the beginning.
    evaluate : bool, default True
        Evaluate the whole dataset at the end, for ``history.final``.

    Returns
    -------
    History

    Raises
    ------
    OptionError
        Neither or both of `epochs` and `steps`, or an option out of range.
    DivergenceError
        A loss that is not finite. The parameters are those that gave it; the last checkpoint, which a
        :class:`fastnll.callbacks.Checkpoints` writes only after a finite loss, is left as it is.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> from fastnll.models import Categorical
    >>> from fastnll.objective import Objective
    >>> from fastnll.optim import SGD
    >>> objective = Objective(Categorical(2), SequenceDataset([0, 1, 0, 0]))
    >>> params = objective.model.init()
    >>> history = fit(objective, SGD(params, lr=1.0), steps=100, batch_tokens=None)
    >>> p = np.exp(params["logits"]); float(round(p[0] / p.sum(), 3))
    0.75
    """
    _check_length("epochs", epochs, "steps", steps)
    sampler = Sampler(objective, batch_tokens, seed=seed)
    history = History(progress=replace(start) if start else Progress())
    run = Run(objective, optimizer, history, steps, epochs, started_at=replace(history.progress))
    with ExitStack() as stack:
        try:
            for callback in callbacks:
                # Each is told of the end, last first, whatever happens in between, its own start included.
                stack.callback(callback.on_end, run)
                callback.on_start(run)
            # A run that diverges overflows before its loss says so: the sentence is enough, without NumPy's warnings.
            with np.errstate(over="ignore", invalid="ignore"):
                _loop(run, sampler, schedule, callbacks)
            if evaluate:
                history.final = _evaluate(objective, optimizer.params)
        except BaseException as error:
            run.error = error
            raise
    return history


def _loop(run: Run, sampler: Sampler, schedule: Schedule | None, callbacks: Sequence[Callback]) -> None:
    progress, history = run.progress, run.history
    sums: list[tuple[float, int]] = []
    while not run.done:
        for ids, last in sampler.epoch(progress.epoch, skip=progress.batch):
            total, n = _step(run, sampler.objective, ids, schedule)
            progress.batch += 1
            if last:
                progress.epoch, progress.batch = progress.epoch + 1, 0
            # A batch may hold nothing but sequences of one token, of which nothing is predicted: no step.
            if n:
                sums.append((total, n))
                for callback in callbacks:
                    callback.on_step(run)
            if last:
                history.epoch_loss.append(math.fsum(t for t, _ in sums) / max(1, sum(n for _, n in sums)))
                sums.clear()
                for callback in callbacks:
                    callback.on_epoch(run)
            if run.done:
                break


def _step(run: Run, objective: Any, ids: Any, schedule: Schedule | None) -> tuple[float, int]:
    """One update; the summed loss of its batch and the number of predicted tokens."""
    begin = time.perf_counter()
    optimizer, progress = run.optimizer, run.progress
    if schedule is not None:
        optimizer.lr = schedule(progress.step)
    if ids is None:
        total, grads = objective.value_and_grad(optimizer.params)
        n = objective.n_predicted
    else:
        total, n, grads = objective.batch_value_and_grad(optimizer.params, ids)
    if n:
        _check_loss(run, total / n)
        norm = optimizer.step(grads, scale=1.0 / n)
        progress.step += 1
        progress.tokens += n
        progress.seconds += time.perf_counter() - begin
        run.history.record(total / n, optimizer.lr, norm)
    return total, n


def _check_loss(run: Run, loss: float) -> None:
    if math.isfinite(loss):
        return
    before = f" (step {run.history.step[-1]}: {run.history.loss[-1]:.4g})" if run.history.step else ""
    raise DivergenceError(
        f"loss: expected a finite number, got {loss} at step {run.progress.step + 1}{before}, "
        f"learning rate {run.optimizer.lr:g}; lower the learning rate or clip with max_norm"
    )


def _check_length(name: str, value: int | None, other: str, second: int | None) -> None:
    if (value is None) == (second is None):
        got = "none" if value is None else f"{name}={value} and {other}={second}"
        raise OptionError(f"{name}, {other}: expected one of the two, got {got}")
    for key, number in ((name, value), (other, second)):
        if number is not None and (isinstance(number, bool) or not hasattr(number, "__index__") or number < 1):
            raise OptionError(f"{key}: expected an integer of at least 1, got {number!r}")


def total_steps(objective: Any, batch_tokens: int | None, epochs: int, *, seed: int = 0) -> int:
    """How many updates `fit` makes in so many epochs, for a schedule that has to know.

    Parameters
    ----------
    objective : Objective
    batch_tokens : int or None
    epochs : int
    seed : int, default 0

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> from fastnll.models import Categorical
    >>> from fastnll.objective import Objective
    >>> total_steps(Objective(Categorical(2), SequenceDataset([0, 1] * 50)), 10, epochs=3)
    30
    """
    sampler = Sampler(objective, batch_tokens, seed=seed)
    return sum(sampler.steps_per_epoch(epoch) for epoch in range(epochs))


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


# `fit` has an argument of the same name.
_evaluate = evaluate
