"""Data that are held out: which ones, how good the model is on them, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.callbacks.base import positive
from fastnll.data import SequenceDataset
from fastnll.data.order import shuffled
from fastnll.errors import OptionError
from fastnll.models.spans import Spans
from fastnll.objective import Objective
from fastnll.schedules import check_rate
from fastnll.training.run import Run, evaluate

__all__ = ["Split", "Watch", "held_out_objective", "split"]


@dataclass(frozen=True)
class Split:
    """A dataset in two parts.

    Attributes
    ----------
    train, held_out : dataset
        Of the kind of the dataset.
    ids : ndarray of int64, shape (K,), or None
        Which sequences are held out, ascending; None where it is the end of the only sequence.
    """

    train: Any
    held_out: Any
    ids: npt.NDArray[np.int64] | None

    def __str__(self) -> str:
        n = self.held_out.n_tokens
        share = f"{n:,} tokens, {100 * n / (n + self.train.n_tokens):.1f} %"
        if self.ids is None:
            return f"the end of the only sequence ({share})"
        return f"{len(self.held_out):,} of {len(self.train) + len(self.held_out):,} sequences ({share})"


def split(dataset: Any, share: float, *, skip: int = 1) -> Split:
    """Hold out about a share of a dataset, sequence by sequence.

    Parameters
    ----------
    dataset : SequenceDataset, Pieces or FeatureDataset
    share : float
        Of the predicted tokens; above 0, below 1.
    skip : int, default 1
        Tokens at the start of a sequence that are not predicted: ``model.skip``.

    Returns
    -------
    Split
        The same for the same sequence lengths, on every machine; it does not depend on any seed, so that runs can be
        compared on the same held-out data. Which is held out:

        - of a dataset in memory, sequences in the order of a hash of their numbers, each one that brings the part
          nearer to its share; both parts are copied;
        - of a memory-mapped file the last sequences, so that both parts are views and nothing is read;
        - of one single sequence its end.

    Raises
    ------
    OptionError
        A share that leaves nothing to hold out, or nothing to train on.

    Examples
    --------
    >>> parts = split(SequenceDataset(np.arange(100) % 7), 0.2)
    >>> print(parts)
    the end of the only sequence (21 tokens, 21.0 %)
    >>> print(split(SequenceDataset.from_sequences([[0, 1, 2]] * 10), 0.2))
    2 of 10 sequences (6 tokens, 20.0 %)
    """
    if isinstance(share, bool) or not hasattr(share, "__float__") or not 0 < float(share) < 1:
        raise OptionError(f"held_out: expected a share above 0 and below 1, got {share!r}")
    rows = np.diff(Spans.of(dataset, skip).row_ends)
    predicted = np.flatnonzero(rows)
    target = float(share) * float(rows.sum())
    one = isinstance(dataset, SequenceDataset) and predicted.size == 1
    mapped = isinstance(dataset, SequenceDataset) and dataset.mapping is not None
    if one:
        parts = _end(dataset, int(predicted[0]), round(target), skip)
    elif mapped:
        parts = _tail(dataset, rows, target)
    else:
        order = predicted[shuffled(predicted.size)]
        ids = np.sort(order[_chosen(rows[order], target)])
        rest = np.delete(np.arange(rows.size), ids)
        parts = Split(dataset.take(rest), dataset.take(ids), ids) if ids.size and rows[rest].any() else None
    if parts is None:
        raise OptionError(
            f"held_out: expected a share that leaves at least one sequence on either side, got {share:g} of "
            f"{predicted.size} sequences with {int(rows.sum())} predicted tokens; hold out another share, or name "
            "the held-out data"
        )
    return parts


def _chosen(rows: npt.NDArray[np.int64], target: float) -> list[int]:
    """Positions that are taken, in order: each that brings the sum of `rows` nearer to the target."""
    found, total, least = [], 0, int(rows.min(initial=0))
    for i, n in enumerate(rows.tolist()):
        if total + n / 2 <= target:
            found.append(i)
            total += n
        elif total + least / 2 > target:
            break
    return found


def _end(dataset: SequenceDataset, sequence: int, n_rows: int, skip: int) -> Split | None:
    start, stop = int(dataset.offsets[sequence]), int(dataset.offsets[sequence + 1])
    # The held-out part predicts all of its tokens but the first `skip`.
    cut = stop - n_rows - skip
    if n_rows < 1 or cut - start <= skip:
        return None
    parts = SequenceDataset(
        dataset.tokens,
        [start, cut, stop],
        vocab_size=dataset.vocab_size,
        tokenizer=dataset.tokenizer,
        source=dataset.source,
        check=False,
        mapping=dataset.mapping,
    )
    return Split(parts[:1], parts[1:], None)


def _tail(dataset: SequenceDataset, rows: npt.NDArray[np.int64], target: float) -> Split | None:
    behind = np.cumsum(rows[::-1])
    count = int(np.abs(behind - target).argmin()) + 1
    low = rows.size - count
    if not (behind[count - 1] and rows[:low].any()):
        return None
    return Split(dataset[:low], dataset[low:], np.arange(low, rows.size))


def held_out_objective(objective: Any, held_out: Any) -> tuple[Any, Any]:
    """The objective to train on, and the one to evaluate, from the `held_out` of `fit`.

    Raises
    ------
    OptionError
        A share that leaves nothing on one side, or of an objective that cannot be split.
    """
    if held_out is None or hasattr(held_out, "log_likelihood"):
        return objective, held_out
    share = not hasattr(held_out, "lengths")
    if type(objective) is not Objective and not hasattr(objective, "over"):
        raise OptionError(
            f"held_out: expected an objective beside a {type(objective).__name__}, got {held_out!r}; split its data "
            "with fastnll.training.split and make two objectives"
        )
    if not share:
        return objective, _on(objective, held_out)
    parts = split(objective.dataset, held_out, skip=objective.model.skip)
    return _on(objective, parts.train), _on(objective, parts.held_out)


def _on(objective: Any, dataset: Any) -> Any:
    """The same objective of other data."""
    if hasattr(objective, "over"):
        return objective.over(dataset)
    return Objective(
        objective.model,
        dataset,
        objective.loss,
        l2=objective.l2,
        counts=objective.counts,
        block_rows=objective.block_rows,
    )


class Watch:
    """Evaluates held-out data on the way, keeps the best parameters, and ends a run that no longer improves.

    Parameters
    ----------
    objective : Objective or None
        The held-out data; None watches nothing.
    every : int or None
        Steps between evaluations; None: once an epoch.
    patience : int or None
        Evaluations without improvement that end the run.
    min_delta : float
        By how much, in nats per token, a loss has to be lower to be an improvement.

    Raises
    ------
    OptionError
        Options that need held-out data, or patience, without it.
    """

    def __init__(self, objective: Any, every: int | None, patience: int | None, min_delta: float) -> None:
        self.objective = objective
        self._every = None if every is None else positive("eval_every", every)
        self.patience = None if patience is None else positive("patience", patience)
        self._min_delta = check_rate("min_delta", min_delta)
        for name, value in (("eval_every", every), ("patience", patience)):
            if value is not None and objective is None:
                raise OptionError(f"{name}: expected held-out data to evaluate, got none; add held_out")
        if min_delta and patience is None:
            raise OptionError(f"min_delta: expected patience beside it, got min_delta={min_delta:g} alone")

    def on_start(self, run: Run) -> None:
        """Of a continued run: it may have been out of patience already."""
        self._stop_if_worse(run)

    def on_step(self, run: Run, epoch_ended: bool) -> None:
        """Evaluate if it is time, and after the last step."""
        if self.objective is None:
            return
        step = run.progress.step
        if run.done or (epoch_ended if self._every is None else step % self._every == 0):
            self._look(run)

    def _look(self, run: Run) -> None:
        progress = run.progress
        loss = evaluate(self.objective, run.optimizer.params).nll_per_token
        run.history.record_held_out(loss)
        best = progress.best_loss
        # A loss that is not a number is no improvement; of the parameters that gave it the next step will tell.
        if math.isfinite(loss) and (best is None or loss < best - self._min_delta):
            progress.best_loss, progress.best_step, progress.n_worse = loss, progress.step, 0
            if self.patience is not None:
                run.best = {name: array.copy() for name, array in run.optimizer.params.items()}
        else:
            progress.n_worse += 1
        self._stop_if_worse(run)

    def _stop_if_worse(self, run: Run) -> None:
        if self.patience is not None and run.progress.n_worse >= self.patience:
            plural = "s" if self.patience > 1 else ""
            run.stop(f"early stopping: no lower held-out loss in {self.patience} evaluation{plural}")

    def restore(self, run: Run) -> None:
        """Give the optimiser's arrays the best parameters."""
        for name, array in (run.best or {}).items():
            run.optimizer.params[name][...] = array
