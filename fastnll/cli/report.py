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
from fastnll.training import Split

__all__ = ["Result", "evaluation_rows", "signal_code"]


class Result:
    """A finished run in the words of the table, the JSON object and the picture.

    Parameters
    ----------
    folder : RunFolder
    dataset : SequenceDataset
        What the run was trained on.
    model : Model
    history : History
    held_out : Objective, optional
        Of the held-out data.
    parts : Split, optional
        If they are a share of the data.

    Attributes
    ----------
    floor : float or None
        Nats per token of the bigram optimum, for models that predict the same tokens as a bigram.
    """

    def __init__(
        self,
        folder: RunFolder,
        dataset: SequenceDataset,
        model: Model,
        history: History,
        *,
        held_out: Any = None,
        parts: Split | None = None,
    ) -> None:
        assert history.final is not None
        self.folder, self.dataset, self.model, self.history = folder, dataset, model, history
        self.held_out, self.parts = held_out, parts
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

    @property
    def best_step(self) -> int | None:
        """After which step the final parameters were reached, if the run looked for the best."""
        return self.history.progress.best_step if self._patience else None

    @property
    def _patience(self) -> int | None:
        patience: int | None = self.folder.config["training"].get("patience")
        return patience

    def curve(self, resumed: bool) -> tuple[list[int], list[float]]:
        """Tokens seen and loss of every step; of a resumed run, of every record."""
        if not resumed:
            return self.history.tokens, self.history.loss
        records = [record for record in self.folder.records() if record["train/loss"] is not None]
        return [record["tokens"] for record in records], [record["train/loss"] for record in records]

    def held_out_curve(self, resumed: bool) -> dict[str, Any]:
        """What `plot_curve` takes for the held-out data."""
        if self.held_out is None:
            return {}
        history = self.history
        steps, tokens, loss = history.held_out_step, history.held_out_tokens, history.held_out_loss
        if resumed:
            found = [record for record in self.folder.records() if record.get("held_out/loss") is not None]
            steps, tokens, loss = ([record[key] for record in found] for key in ("step", "tokens", "held_out/loss"))
        best = steps.index(self.best_step) if self.best_step in steps else None
        return {"held_out": (tokens, loss), "best": best}

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
            "held_out": self._held_out_dict(),
        }

    def _held_out_dict(self) -> dict[str, Any] | None:
        if self.held_out is None or self.history.final_held_out is None:
            return None
        data = self.held_out.dataset
        counts = {"source": data.source, "n_sequences": len(data), "n_tokens": data.n_tokens}
        return {**counts, **self.history.final_held_out.to_dict(), "best_step": self.best_step}

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
            *self._held_out_rows(),
        ]
        if self.floor is not None:
            rows.append((self.floor_name, f"{self.floor / math.log(2):.4f} bits per token{self._comparison()}"))
        if self.history.stopped and not signal_code(self.history.stopped):
            rows.append(("stopped", self.history.stopped))
        return [
            *rows,
            ("trained", f"{progress.step:,} steps, {progress.tokens:,} tokens in {progress.seconds:.1f} s"),
            ("tokens per second", f"{self.tokens_per_second:,.0f}"),
            ("run folder", str(self.folder.path)),
        ]

    def _held_out_rows(self) -> list[tuple[str, str]]:
        result = self.history.final_held_out
        if self.held_out is None or result is None:
            return []
        what = self.parts or f"{self.held_out.dataset.source or 'other data'}, {result.n_predicted:,} predicted tokens"
        best = "" if self.best_step is None else f", the lowest, after step {self.best_step:,}"
        loss = f"{result.nll_per_token:.4f} nats ({result.bits_per_token:.4f} bits) per token{best}"
        return [("held out", str(what)), ("held-out NLL", loss)]

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
