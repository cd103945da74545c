"""The table at the end of a training run."""

from __future__ import annotations

import json
import math
import signal
from typing import Any

from fastnll.cli.common import print_table
from fastnll.data import SequenceDataset
from fastnll.history import Evaluation, History
from fastnll.models import Model
from fastnll.runs import RunFolder

__all__ = ["Result", "evaluation_rows", "signal_code"]


class Result:
    """A finished run in the words of the table, the JSON object and the picture.

    Parameters
    ----------
    folder : RunFolder
    dataset : SequenceDataset
    model : Model
    history : History

    Attributes
    ----------
    floor : float or None
        Nats per token of the bigram optimum, for models that predict the same tokens as a bigram.
    """

    def __init__(self, folder: RunFolder, dataset: SequenceDataset, model: Model, history: History) -> None:
        assert history.final is not None
        self.folder, self.dataset, self.model, self.history = folder, dataset, model, history
        self.final: Evaluation = history.final
        self.floor: float | None = folder.config["data"].get("bigram_nats_per_token") if model.skip else None

    floor_name = "bigram optimum"

    @property
    def title(self) -> str:
        """One line over the curve."""
        source = self.dataset.source or f"{self.dataset.n_tokens:,} tokens"
        return f"{self.model.name} model, {self.model.n_parameters:,} parameters: {source}"

    @property
    def tokens_per_second(self) -> float:
        """Predicted tokens per second of training, without evaluation and files."""
        progress = self.history.progress
        return progress.tokens / progress.seconds if progress.seconds else math.nan

    @property
    def distance(self) -> float | None:
        """How far the loss is above the bigram optimum, in percent of it; negative below, None where it is 0."""
        return 100.0 * (self.final.nll_per_token / self.floor - 1.0) if self.floor else None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        progress = self.history.progress
        bits = None if self.floor is None else self.floor / math.log(2)
        return {
            "run": str(self.folder.path),
            "model": self.model.config(),
            "n_parameters": self.model.n_parameters,
            "source": self.dataset.source,
            "n_sequences": self.dataset.n_sequences,
            "n_tokens": self.dataset.n_tokens,
            "vocab_size": self.dataset.vocab_size,
            **self.final.to_dict(),
            "bigram_optimum_bits_per_token": bits,
            "above_bigram_optimum_percent": self.distance,
            "steps": progress.step,
            "trained_tokens": progress.tokens,
            "seconds": progress.seconds,
            "tokens_per_second": self.tokens_per_second,
            "stopped": self.history.stopped,
        }

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of every line of the table."""
        progress, data = self.history.progress, self.dataset
        rows = [
            ("data", f"{data.source or 'tokens'}"),
            ("sequences", f"{data.n_sequences:,}"),
            ("tokens", f"{data.n_tokens:,} ({self.final.n_predicted:,} predicted)"),
            ("vocabulary", f"{data.vocab_size:,}"),
            ("model", f"{self.model.name}, {self.model.n_parameters:,} parameters"),
            *evaluation_rows(self.final),
        ]
        if self.floor is not None:
            rows.append((self.floor_name, f"{self.floor / math.log(2):.4f} bits per token{self._comparison()}"))
        return [
            *rows,
            ("trained", f"{progress.step:,} steps, {progress.tokens:,} tokens in {progress.seconds:.1f} s"),
            ("tokens per second", f"{self.tokens_per_second:,.0f}"),
            ("run folder", str(self.folder.path)),
        ]

    def _comparison(self) -> str:
        if self.distance is None:
            return ""
        return f"; this model is {abs(self.distance):.3f} % {'above' if self.distance >= 0 else 'below'} it"

    def print(self, *, as_json: bool) -> None:
        """Print the table, or one JSON object."""
        if as_json:
            print(json.dumps(self.to_dict(), indent=2))
        else:
            print_table(self.rows())


def evaluation_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The lines of a table that say how good a model is."""
    per_byte = evaluation.bits_per_byte
    return [
        ("NLL per token", f"{evaluation.nll_per_token:.4f} nats"),
        ("bits per token", f"{evaluation.bits_per_token:.4f}"),
        *([] if per_byte is None else [("bits per byte", f"{per_byte:.4f}")]),
        ("perplexity", f"{evaluation.perplexity:.3f}"),
    ]


def signal_code(stopped: str | None) -> int:
    """The exit code of a run: 0, or 128 + n if signal n ended it.

    Examples
    --------
    >>> signal_code(None), signal_code("SIGINT")
    (0, 130)
    """
    return 128 + signal.Signals[stopped].value if stopped and stopped in signal.Signals.__members__ else 0
