"""What a training run leaves behind: where it is, what it measured, how good the result is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Evaluation", "History", "Progress"]


@dataclass
class Progress:
    """Where a run is; with the seed this decides every batch that is still to come.

    Attributes
    ----------
    step : int
        Updates done.
    epoch, batch : int
        Epoch of the next batch, and how many batches of that epoch are done.
    tokens : int
        Predicted tokens that the updates so far have seen.
    seconds : float
        Time spent in batches and updates, evaluations and callbacks excluded.
    epoch_nll, epoch_tokens : float, int
        Summed loss and predicted tokens of the epoch so far.
    best_loss, best_step : float and int, or None
        The lowest held-out loss so far, in nats per token, and after which step it was measured.
    n_worse : int
        Evaluations since then.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch_nll: float = 0.0
    epoch_tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    n_worse: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values.

        Examples
        --------
        >>> Progress(step=3).to_dict()["step"]
        3
        """
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """The negative log-likelihood of a dataset under a model, in the units people ask for.

    Attributes
    ----------
    nll : float
        Sum over all predicted tokens, in nats.
    n_predicted : int
        Number of predicted tokens. A model with context does not predict the first token of a sequence.
    n_bytes : int or None
        Bytes of the source text, where it was text.

    Examples
    --------
    One token out of two, told apart with a fair coin, is one bit:

    >>> Evaluation(nll=3 * math.log(2), n_predicted=3).bits_per_token
    1.0
    """

    nll: float
    n_predicted: int
    n_bytes: int | None = None

    @property
    def nll_per_token(self) -> float:
        """Nats per predicted token; NaN where nothing is predicted."""
        return self.nll / self.n_predicted if self.n_predicted else math.nan

    @property
    def bits_per_token(self) -> float:
        """Bits per predicted token."""
        return self.nll_per_token / math.log(2)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits for the predicted tokens over all bytes of the text, or None where there was no text.

        The bytes include those of tokens that are not predicted (one a document for a model with context).
        """
        return self.nll / math.log(2) / self.n_bytes if self.n_bytes else None

    @property
    def perplexity(self) -> float:
        """The exponential of the nats per token: among how many equally likely tokens the model hesitates."""
        try:
            return math.exp(self.nll_per_token)
        except OverflowError:
            return math.inf

    def to_dict(self) -> dict[str, Any]:
        """The attributes and every derived unit as JSON values.

        Examples
        --------
        >>> Evaluation(nll=0.0, n_predicted=1).to_dict()["perplexity"]
        1.0
        """
        units = ("nll_per_token", "bits_per_token", "bits_per_byte", "perplexity")
        return {**asdict(self), **{unit: getattr(self, unit) for unit in units}}


@dataclass
class History:
    """What `fit` measured: one entry a step in the first lists, one an epoch or an evaluation in the others.

    Attributes
    ----------
    step, tokens : list of int
        The step (the first is 1) and the predicted tokens seen up to and including it.
    loss : list of float
        Mean nats per token of the step's batch, before the update.
    lr : list of float
        Learning rate of the update.
    grad_norm : list of float or None
        Global norm of the mean gradient before clipping; None without clipping, which alone computes it.
    epoch_loss : list of float
        Mean over the tokens of an epoch of `loss`.
    held_out_step, held_out_tokens : list of int
        After which step, and after how many tokens, each evaluation of the held-out data was made.
    held_out_loss : list of float
        Its result: nats per token.
    progress : Progress
        Where the run ended; `fit` continues from it.
    final : Evaluation or None
        The dataset under the final parameters; None if `fit` was told not to evaluate.
    final_held_out : Evaluation or None
        The same of the held-out data, where there are any.
    stopped : str or None
        Why the run ended early, if a signal, a callback or the held-out loss ended it.
    """

    step: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float | None] = field(default_factory=list)
    epoch_loss: list[float] = field(default_factory=list)
    held_out_step: list[int] = field(default_factory=list)
    held_out_tokens: list[int] = field(default_factory=list)
    held_out_loss: list[float] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    final: Evaluation | None = None
    final_held_out: Evaluation | None = None
    stopped: str | None = None

    def record(self, loss: float, lr: float, grad_norm: float | None) -> None:
        """Append the measurements of the step that `progress` has just counted."""
        self.step.append(self.progress.step)
        self.tokens.append(self.progress.tokens)
        self.loss.append(loss)
        self.lr.append(lr)
        self.grad_norm.append(grad_norm)

    def record_held_out(self, loss: float) -> None:
        """Append an evaluation of the held-out data under the parameters of this moment."""
        self.held_out_step.append(self.progress.step)
        self.held_out_tokens.append(self.progress.tokens)
        self.held_out_loss.append(loss)
