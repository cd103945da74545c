"""Progress bar, metrics, checkpoints and signals around a run."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.callbacks import Callback, Checkpoints, JsonLines, ProgressBar, StopOnSignal
from fastnll.checkpoint import load_checkpoint
from fastnll.clipping import DivergenceError
from fastnll.errors import OptionError
from fastnll.history import Progress
from fastnll.training import Run, fit
from tests.training.small import problem, same_bits


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("length", [{"steps": 12}, {"epochs": 2}])
def test_bar_on_a_terminal(length: dict[str, int]) -> None:
    objective, sgd = problem()
    screen = Terminal()
    fit(objective, sgd, **length, batch_tokens=64, callbacks=[ProgressBar(file=screen)])
    text = screen.getvalue()
    assert "100%" in text
    assert "bits per token" in text
    assert "12/12" in text or "2/2" in text


def test_bar_is_silent_elsewhere() -> None:
    objective, sgd = problem()
    stream = io.StringIO()
    fit(objective, sgd, steps=12, batch_tokens=64, callbacks=[ProgressBar(file=stream)])
    assert stream.getvalue() == ""


def test_metrics(tmp_path: Path) -> None:
    objective, sgd = problem(max_norm=1.0)
    path = tmp_path / "metrics.jsonl"
    history = fit(objective, sgd, steps=11, batch_tokens=64, callbacks=[JsonLines(path, every=4)])
    *records, final = lines(path)
    assert [record["step"] for record in records] == [4, 8, 11]
    for record in records:
        at = record["step"] - 1
        assert record["train/loss"] == history.loss[at]
        assert record["train/bits_per_token"] == pytest.approx(history.loss[at] / math.log(2))
        assert (record["lr"], record["grad_norm"]) == (history.lr[at], history.grad_norm[at])
        assert record["tokens"] == history.tokens[at]
        assert record["tokens_per_s"] > 0
    assert history.final is not None
    assert final["final/nll"] == history.final.nll


def test_metrics_of_a_continued_run_are_appended(tmp_path: Path) -> None:
    objective, sgd = problem()
    path = tmp_path / "metrics.jsonl"
    history = fit(objective, sgd, steps=3, batch_tokens=64, callbacks=[JsonLines(path)], evaluate=False)
    fit(objective, sgd, steps=5, batch_tokens=64, callbacks=[JsonLines(path)], start=history.progress, evaluate=False)
    assert [record["step"] for record in lines(path)] == [1, 2, 3, 4, 5]
    assert "grad_norm" not in lines(path)[0]


def test_metrics_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    objective, sgd = problem()
    path = tmp_path / "metrics.jsonl"
    seen = []

    class Look(Callback):
        def on_step(self, run: Run) -> None:
            seen.append(len(lines(path)))

    fit(objective, sgd, steps=3, batch_tokens=64, callbacks=[JsonLines(path), Look()])
    assert seen == [1, 2, 3]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    objective, sgd = problem()

    class Distort(Callback):
        def on_step(self, run: Run) -> None:
            run.history.loss[-1] = math.inf

    fit(objective, sgd, steps=1, batch_tokens=None, callbacks=[Distort(), writer], evaluate=False)
    assert lines(path)[0]["train/loss"] is None


def test_checkpoints_on_the_way_and_at_the_end(tmp_path: Path) -> None:
    objective, sgd = problem()
    fit(objective, sgd, steps=11, batch_tokens=64, callbacks=[Checkpoints(tmp_path, every=4, keep=3)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004", "step-000008", "step-000011"]
    assert same_bits(load_checkpoint(tmp_path, model=objective.model).params, sgd.params)


def test_last_good_checkpoint_survives_a_nan(tmp_path: Path) -> None:
    objective, sgd = problem()
    good: dict[str, Any] = {}

    class Break(Callback):
        def on_step(self, run: Run) -> None:
            if run.progress.step == 4:
                good.update({name: array.copy() for name, array in run.optimizer.params.items()})
            if run.progress.step == 6:
                run.optimizer.params["logits"][0, 0] = np.nan

    callbacks = [Checkpoints(tmp_path, every=4), Break()]
    with pytest.raises(DivergenceError, match="loss: expected a finite number, got nan at step 7"):
        fit(objective, sgd, steps=20, batch_tokens=None, callbacks=callbacks)
    loaded = load_checkpoint(tmp_path)
    assert loaded.progress.step == 4
    assert same_bits(loaded.params, good)


def test_parameters_with_a_nan_are_never_written(tmp_path: Path) -> None:
    """The update that makes the NaN may be the one before a checkpoint: no loss has seen it yet."""
    objective, sgd = problem()

    class Break(Callback):
        def on_step(self, run: Run) -> None:
            if run.progress.step == 4:
                run.optimizer.params["logits"][2, :2] = np.nan

    with pytest.raises(DivergenceError, match=r"params\['logits'\]: .* got NaN in 2 of 49 after step 4"):
        fit(objective, sgd, steps=9, batch_tokens=64, callbacks=[Break(), Checkpoints(tmp_path, every=2)])
    assert load_checkpoint(tmp_path).progress.step == 2


def test_nothing_is_written_if_the_start_fails(tmp_path: Path) -> None:
    objective, sgd = problem()
    with pytest.raises(FileNotFoundError):
        fit(
            objective,
            sgd,
            steps=1,
            callbacks=[Checkpoints(tmp_path / "checkpoint"), JsonLines(tmp_path / "no" / "metrics.jsonl")],
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_step(tmp_path: Path, number: signal.Signals) -> None:
    objective, sgd = problem()
    before = signal.getsignal(number)

    class Send(Callback):
        def on_step(self, run: Run) -> None:
            if run.progress.step == 3:
                os.kill(os.getpid(), number)

    history = fit(objective, sgd, steps=9, batch_tokens=64, callbacks=[StopOnSignal(), Send(), Checkpoints(tmp_path)])
    assert history.stopped == number.name
    assert history.progress.step <= 4
    assert load_checkpoint(tmp_path).progress.step == history.progress.step
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_at_once() -> None:
    objective, sgd = problem()

    class Send(Callback):
        def on_step(self, run: Run) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(objective, sgd, steps=9, batch_tokens=64, callbacks=[StopOnSignal(), Send()])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("make", [lambda: JsonLines("x", every=0), lambda: Checkpoints("x", keep=0)])
def test_option_errors(make: Any) -> None:
    with pytest.raises(OptionError, match="expected an integer of at least 1, got 0"):
        make()


def test_progress_is_plain_data() -> None:
    assert Progress(**json.loads(json.dumps(Progress(3, 1, 2, 70, 0.5).to_dict()))) == Progress(3, 1, 2, 70, 0.5)
