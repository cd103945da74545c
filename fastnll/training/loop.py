"""`fit`: steps until the run is done, and callbacks around them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from fastnll import events
from fastnll.callbacks import Callback
from fastnll.callbacks.base import positive
from fastnll.checkpoint import Checkpoint
from fastnll.clipping import DivergenceError
from fastnll.errors import DataError, OptionError
from fastnll.history import History, Progress
from fastnll.sampling import Sampler
from fastnll.schedules import Schedule
from fastnll.training.held_out import Watch, held_out_objective
from fastnll.training.run import Run
from fastnll.training.run import evaluate as _evaluate

__all__ = ["fit"]


def fit(
    objective: Any,
    optimizer: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_tokens: int | None = 4096,
    accumulate: int = 1,
    schedule: Schedule | None = None,
    seed: int = 0,
    held_out: Any = None,
    eval_every: int | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    callbacks: Sequence[Callback] = (),
    start: Progress | Checkpoint | None = None,
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
    accumulate : int, default 1
        Batches of a step: their gradients are added up, and the step follows the mean over the predicted tokens of
        all of them. The last step of an epoch has what is left.
    schedule : callable, optional
        ``schedule(step)`` is the learning rate of update `step`, counted from 0. Default: the optimiser's own.
    seed : int, default 0
        Chooses the batches, the same on every machine and for any number of threads.
    held_out : float, dataset or Objective, optional
        Data to evaluate on the way and not to train on: a share of the sequences (`fastnll.training.split` says
        which), or other data.
    eval_every : int, optional
        Steps between evaluations of the held-out data. Default: after every epoch. The last step has one too.
    patience : int, optional
        End the run after so many evaluations in a row without a lower held-out loss. The parameters of the lowest one
        are those the optimiser has in the end, however the run ends, unless by an error.
    min_delta : float, default 0.0
        By how much, in nats per token, a held-out loss has to be lower to count.
    callbacks : sequence of Callback
        See :mod:`fastnll.callbacks`.
    start : Checkpoint or Progress, optional
        Continue from here: the result is that of a run that was never interrupted. A checkpoint (`load_checkpoint`)
        also gives its parameters and state to the optimiser, and theirs to the callbacks; with a Progress the
        optimiser has to have them already. `epochs` and `steps` count from the beginning.
    evaluate : bool, default True
        Evaluate the whole dataset at the end, for ``history.final`` and ``history.final_held_out``.

    Returns
    -------
    History

    Raises
    ------
    OptionError
        Neither or both of `epochs` and `steps`, an option out of range, or one that needs another.
    DataError, ShapeError, DTypeError
        A checkpoint of other parameters.
    DivergenceError
        A loss that is not finite. The parameters are those that gave it; the last checkpoint, which a
        :class:`fastnll.callbacks.Checkpoints` writes only after a finite loss, is left as it is.

    Notes
    -----
    On many ranks (`fastnll.distributed.DistributedObjective`) every one calls `fit` with the same arguments, callbacks
    included; those that write or print do so on rank 0 alone.

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
    if positive("accumulate", accumulate) > 1 and batch_tokens is None:
        raise OptionError(f"accumulate: expected 1 with batch_tokens=None, the whole dataset, got {accumulate}")
    objective, other = held_out_objective(objective, held_out)
    watch = Watch(other, eval_every, patience, min_delta)
    sampler = Sampler(objective, batch_tokens, seed=seed)
    # What saves the state of the others comes behind them.
    ordered = sorted(callbacks, key=lambda callback: getattr(callback, "last", False))
    history = History(progress=_position(start))
    run = Run(objective, optimizer, history, steps, epochs, ordered, started_at=replace(history.progress))
    _take_over(run, start, patience)
    with ExitStack() as stack:
        try:
            for callback in ordered:
                # Each is told of the end, last first, whatever happens in between, its own start included.
                stack.callback(callback.on_end, run)
                callback.on_start(run)
            watch.on_start(run)
            # A run that diverges overflows before its loss says so: the sentence is enough, without NumPy's warnings.
            with np.errstate(over="ignore", invalid="ignore"):
                _loop(run, sampler, accumulate, schedule, watch)
            for callback in ordered:
                getattr(callback, "on_trained", _nothing)(run)
            watch.restore(run)
            if evaluate:
                history.final = _evaluate(objective, optimizer.params)
                history.final_held_out = None if other is None else _evaluate(other, optimizer.params)
        except BaseException as error:
            run.error = error
            raise
    return history


def _nothing(run: Run) -> None:
    """Stand in for an occasion that a callback does not know."""


def _position(start: Progress | Checkpoint | None) -> Progress:
    if start is None:
        return Progress()
    return replace(start.progress if isinstance(start, Checkpoint) else start)


def _take_over(run: Run, start: Progress | Checkpoint | None, patience: int | None) -> None:
    """Give optimiser and callbacks what a checkpoint holds."""
    progress = run.progress
    if isinstance(start, Checkpoint):
        if start.optimizer is None:
            raise DataError(f"{start.path}: expected a checkpoint with the optimiser's state to go on from, got none")
        _load_params(run.optimizer.params, start)
        run.optimizer.load_state_dict(start.optimizer)
        run.load_callback_states(start.callbacks)
    if patience is None or progress.best_step is None:
        return
    if isinstance(start, Checkpoint) and (start.best is not None or progress.best_step == progress.step):
        run.best = {name: array.copy() for name, array in start.result.items()}
        return
    got = "a Progress; pass load_checkpoint(...)" if isinstance(start, Progress) else "one without them"
    raise OptionError(
        f"start: expected a checkpoint of a run with patience, for the best parameters (of step {progress.best_step}), "
        f"got {got}"
    )


def _load_params(params: dict[str, Any], start: Checkpoint) -> None:
    """Copy the parameters of a checkpoint into arrays of the same names, shapes and dtypes."""
    mine = {name: (array.shape, array.dtype.name) for name, array in params.items()}
    theirs = {name: (array.shape, array.dtype.name) for name, array in start.params.items()}
    if mine != theirs:
        raise DataError(f"{start.path}: expected the parameters of the optimizer, {mine}, got {theirs}")
    for name, array in params.items():
        array[...] = start.params[name]


def _loop(run: Run, sampler: Sampler, accumulate: int, schedule: Schedule | None, watch: Watch) -> None:
    progress, history = run.progress, run.history
    while not run.done:
        batches = events.waiting(sampler.epoch(progress.epoch, skip=progress.batch), "data: batches")
        for group, last in _groups(batches, accumulate):
            total, n = _step(run, sampler.objective, group, schedule)
            progress.batch += len(group)
            progress.epoch_nll += total
            progress.epoch_tokens += n
            if last:
                history.epoch_loss.append(progress.epoch_nll / max(1, progress.epoch_tokens))
                progress.epoch, progress.batch = progress.epoch + 1, 0
                progress.epoch_nll, progress.epoch_tokens = 0.0, 0
            # A batch may hold nothing but sequences of one token, of which nothing is predicted: no step.
            if n:
                events.step(total / n, n)
                watch.on_step(run, last)
                _on_step(run)
            if last:
                for callback in run.callbacks:
                    callback.on_epoch(run)
            if run.done:
                break


def _on_step(run: Run) -> None:
    savers = [callback for callback in run.callbacks if getattr(callback, "last", False)]
    for callback in run.callbacks[: len(run.callbacks) - len(savers)]:
        events.timed(events.SPAN, "fit.callbacks", callback.on_step, run)
    # Before anything is saved: whether this step is the last has to be the same for all.
    run.agree_on_stop()
    for callback in savers:
        events.timed(events.SPAN, "fit.callbacks", callback.on_step, run)


def _groups(batches: Iterable[tuple[Any, bool]], size: int) -> Iterator[tuple[list[Any], bool]]:
    """The batches of each step, and whether the epoch ends with it."""
    group: list[Any] = []
    for ids, last in batches:
        group.append(ids)
        if last or len(group) == size:
            yield group, last
            group = []


@events.framed("fit.step")
def _step(run: Run, objective: Any, group: list[Any], schedule: Schedule | None) -> tuple[float, int]:
    """One update; the summed loss of its batches and the number of predicted tokens."""
    begin = time.perf_counter()
    optimizer, progress = run.optimizer, run.progress
    if schedule is not None:
        optimizer.lr = schedule(progress.step)
    total, n, grads, scale = _gradient(objective, optimizer.params, group)
    if n:
        _check_loss(run, total / n)
        norm = optimizer.step(grads, scale=scale)
        progress.step += 1
        progress.tokens += n
        progress.seconds += time.perf_counter() - begin
        run.history.record(total / n, optimizer.lr, norm)
    return total, n


def _gradient(objective: Any, params: Any, group: list[Any]) -> tuple[float, int, Any, float]:
    """Summed loss, predicted tokens, a gradient, and what it has to be multiplied by to be that of the mean."""
    if group[0] is None:
        total, grads = objective.value_and_grad(params)
        n = objective.n_predicted
        return total, n, grads, 1.0 / n
    total, n, grads = objective.batch_value_and_grad(params, group[0])
    if len(group) == 1:
        return total, n, grads, 1.0 / max(1, n)
    # Sixteen bits would lose the small ones of many gradients, and overflow with the sum.
    sums = {name: grad.astype(np.promote_types(grad.dtype, np.float32)) for name, grad in grads.items()}
    for ids in group[1:]:
        more, count, grads = objective.batch_value_and_grad(params, ids)
        total, n = total + more, n + count
        for name, grad in grads.items():
            np.add(sums[name], grad, out=sums[name])
    for name, array in sums.items():
        array /= max(1, n)
        sums[name] = array.astype(params[name].dtype, copy=False)
    return total, n, sums, 1.0


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
        if number is not None:
            positive(key, number)
