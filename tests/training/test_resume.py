"""A run that was stopped anywhere goes on as if it had not been: same bits, same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.callbacks import Callback, Checkpoints, CsvLines, JsonLines
from fastnll.checkpoint import checkpoints_in, load_checkpoint
from fastnll.data import SequenceDataset
from fastnll.errors import DataError, OptionError
from fastnll.history import History, Progress
from fastnll.models import Bigram, NGram
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.schedules import cosine
from fastnll.training import Run, fit
from tests.training.small import problem, ragged, same_bits

TIMES = ("tokens_per_s", "wall_s")


class Killed(BaseException):
    """Nothing on the way may take it for an error of its own."""


class Kill(Callback):
    """Ends the process, as far as a test can, in the middle of a step's callbacks."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.progress.step == self.step:
            raise Killed


class Stop(Callback):
    """Ends the run in peace."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.progress.step == self.step:
            run.stop("enough")


def ngram() -> tuple[Objective, SGD]:
    """A model that overfits 40 short sequences quickly."""
    model = NGram(7, context=4, dim=8, hidden=24)
    return Objective(model, ragged()), SGD(model.init(0), 0.4, momentum=0.9, nesterov=True, max_norm=1.0)


def train(folder: Path, objective: Objective, sgd: SGD, *more: Callback, start: Any = None, **options: Any) -> History:
    files = [
        JsonLines(folder / "metrics.jsonl", every=3),
        CsvLines(folder / "metrics.csv", every=3),
        Checkpoints(folder / "checkpoint", every=8, keep=2),
    ]
    options = {"steps": 60, "batch_tokens": 64, "schedule": cosine(0.5, 60, 5), "seed": 3, **options}
    return fit(objective, sgd, callbacks=[*files, *more], start=start, **options)


def records(folder: Path) -> list[dict[str, Any]]:
    """What was measured, without the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def rows(folder: Path) -> list[str]:
    """The table without the clock, which is in its last two columns."""
    return [line.rsplit(",", 2)[0] for line in (folder / "metrics.csv").read_text().splitlines()]


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"accumulate": 3},
    "whole": {"batch_tokens": None},
    "held out": {"held_out": 0.3, "eval_every": 5},
    "patience": {"held_out": 0.3, "eval_every": 2, "patience": 6, "min_delta": 0.001},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", [Kill, Stop])
def test_same_bits_and_same_files(tmp_path: Path, way: str, end: type[Kill | Stop]) -> None:
    options = WAYS[way]
    objective, whole = ngram()
    (tmp_path / "whole").mkdir()
    expected = train(tmp_path / "whole", objective, whole, **options)
    length = expected.progress.step
    if way == "patience":
        assert expected.stopped is not None
        assert length < 55
        assert expected.progress.best_step is not None
        assert expected.progress.best_step < length - 8
    folder = tmp_path / "cut"
    folder.mkdir()
    start = None
    for stop_at in (9, 10, 24, length - 1):
        _, sgd = ngram()
        try:
            train(folder, objective, sgd, end(stop_at), start=start, **options)
        except Killed:
            # Behind the checkpoint, records were written that the uninterrupted run would have only later.
            with (folder / "metrics.jsonl").open("a") as stream:
                stream.write('{"step": 99, "train/lo')
        start = load_checkpoint(folder / "checkpoint")
    _, sgd = ngram()
    found = train(folder, objective, sgd, start=start, **options)
    assert same_bits(whole.params, sgd.params)
    one, other = (load_checkpoint(tmp_path / name / "checkpoint") for name in ("whole", "cut"))
    assert same_bits(one.params, other.params)
    assert one.optimizer is not None and other.optimizer is not None
    for name, entry in one.optimizer["state"].items():
        assert entry["momentum_buffer"].tobytes() == other.optimizer["state"][name]["momentum_buffer"].tobytes()
    one.progress.seconds = other.progress.seconds = 0.0
    assert one.progress == other.progress
    assert records(tmp_path / "whole") == records(folder)
    assert rows(tmp_path / "whole") == rows(folder)
    assert (expected.stopped, expected.final, expected.final_held_out) == (
        found.stopped,
        found.final,
        found.final_held_out,
    )
    if way == "patience":
        # Killed between the best step and the end: the best parameters came from the checkpoint.
        assert one.best is not None and other.best is not None
        assert same_bits(one.best, other.best)
        assert same_bits(other.best, sgd.params)
        assert not same_bits(other.params, sgd.params)


def test_the_mean_of_an_epoch_that_was_cut(tmp_path: Path) -> None:
    objective, sgd = problem()
    expected = fit(objective, sgd, epochs=2, batch_tokens=64).epoch_loss
    _, first = problem()
    fit(objective, first, steps=7, batch_tokens=64, callbacks=[Checkpoints(tmp_path)])
    _, second = problem()
    found = fit(objective, second, epochs=2, batch_tokens=64, start=load_checkpoint(tmp_path)).epoch_loss
    assert expected == found


def test_a_finished_run_only_evaluates(tmp_path: Path) -> None:
    objective, sgd = problem()
    expected = train(tmp_path, objective, sgd)
    before = records(tmp_path)
    names = [path.name for path in checkpoints_in(tmp_path / "checkpoint")]
    _, other = problem()
    found = train(tmp_path, objective, other, start=load_checkpoint(tmp_path / "checkpoint"))
    assert found.step == []
    assert found.final == expected.final
    assert records(tmp_path) == before
    assert [path.name for path in checkpoints_in(tmp_path / "checkpoint")] == names


def test_a_run_out_of_patience_stays_so(tmp_path: Path) -> None:
    objective, sgd = ngram()
    options = {"held_out": 0.3, "eval_every": 2, "patience": 3}
    ended = train(tmp_path, objective, sgd, **options)
    _, other = ngram()
    again = train(tmp_path, objective, other, start=load_checkpoint(tmp_path / "checkpoint"), **options)
    assert again.step == []
    assert again.stopped == ended.stopped == "early stopping: no lower held-out loss in 3 evaluations"
    assert same_bits(sgd.params, other.params)


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    objective, sgd = problem()
    train(tmp_path, objective, sgd)
    start = load_checkpoint(tmp_path / "checkpoint")
    model = Bigram(8)
    other = Objective(model, SequenceDataset([0, 1, 7]))
    with pytest.raises(DataError, match=r"step-000060: expected the parameters of the optimizer, .*\(8, 8\).*\(7, 7\)"):
        fit(other, SGD(model.init(), 1.0), steps=61, start=start)
    start.optimizer = None
    with pytest.raises(DataError, match="expected a checkpoint with the optimiser's state to go on from, got none"):
        fit(objective, sgd, steps=61, start=start)


def test_patience_needs_the_best_parameters(tmp_path: Path) -> None:
    objective, sgd = problem()
    watched = {"steps": 9, "batch_tokens": 64, "held_out": 0.3, "eval_every": 2}
    history = fit(objective, sgd, **watched, patience=9)
    with pytest.raises(OptionError, match=r"start: .* \(of step \d\), got a Progress; pass load_checkpoint"):
        fit(objective, sgd, **{**watched, "steps": 19}, patience=9, start=history.progress)
    # A run that did not keep them cannot be continued by one that would restore them.
    history = fit(objective, sgd, **watched, callbacks=[Checkpoints(tmp_path)])
    start = load_checkpoint(tmp_path)
    start.progress.best_step = 2
    with pytest.raises(OptionError, match=r"start: .* \(of step 2\), got one without them"):
        fit(objective, sgd, **{**watched, "steps": 19}, patience=9, start=start)


def test_states_find_their_callbacks_by_name(tmp_path: Path) -> None:
    """Two of a class are told apart by their order; a callback that is new or gone does not disturb the others."""

    class Count(Callback):
        def __init__(self) -> None:
            self.n, self.loaded = 0, -1

        def on_step(self, run: Run) -> None:
            self.n += 1

        def state_dict(self) -> dict[str, Any]:
            return {"n": self.n}

        def load_state_dict(self, state: Any) -> None:
            self.n = self.loaded = state["n"]

    objective, sgd = problem()
    first, second = Count(), Count()
    first.n = 100
    # Behind the one that saves, in the list; asked by it all the same, with this step counted.
    fit(objective, sgd, steps=4, batch_tokens=64, callbacks=[first, Checkpoints(tmp_path), second])
    _, other = problem()
    counts = [Count(), Count(), Count()]
    fit(objective, other, steps=6, batch_tokens=64, start=load_checkpoint(tmp_path), callbacks=counts)
    assert [count.loaded for count in counts] == [104, 4, -1]
    assert [count.n for count in counts] == [106, 6, 2]


def test_callbacks_of_four_methods_still_work() -> None:
    """Any object with the methods of old is a callback: no state, no last word."""

    class Plain:
        def __init__(self) -> None:
            self.steps = 0

        def on_start(self, run: Run) -> None: ...

        def on_step(self, run: Run) -> None:
            self.steps += 1

        def on_epoch(self, run: Run) -> None: ...

        def on_end(self, run: Run) -> None: ...

    objective, sgd = problem()
    plain: Any = Plain()
    fit(objective, sgd, steps=3, batch_tokens=64, callbacks=[plain])
    assert plain.steps == 3


def test_progress_of_an_earlier_version() -> None:
    assert Progress(step=3, epoch=1, batch=2, tokens=70, seconds=0.5).best_step is None


def test_checkpoint_of_params_alone_has_its_result() -> None:
    """`result` is what the run is good for: the best parameters where there are any, else the last."""
    from fastnll.checkpoint import Checkpoint

    last, best = {"w": np.zeros(1)}, {"w": np.ones(1)}
    plain = Checkpoint(last, None, None, Progress(step=5, best_step=5), None, "1", Path())
    assert (plain.result is last, plain.result_step) == (True, 5)
    other = Checkpoint(last, None, None, Progress(step=5, best_step=2), None, "1", Path(), {}, best)
    assert (other.result is best, other.result_step) == (True, 2)
