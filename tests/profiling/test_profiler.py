"""``fastnll.profile`` and its friends around loops of all kinds."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.models import Bigram, NGram
from fastnll.profiling import ProfilerAction, Roofline
from fastnll.profiling.table import SORT_KEYS
from tests.profiling.made import LIMITS

TOKENS = np.random.default_rng(0).integers(0, 30, 4000)
X = np.random.default_rng(1).standard_normal((4, 7))


def loop(prof: fn.profile, steps: int) -> None:
    for i in range(steps):
        fn.logsumexp(X)
        prof.step(loss=float(i), tokens=10)


def counts(prof: fn.profile) -> tuple[list[int], int]:
    rows = {row.key: row.count for row in prof.key_averages()}
    return [step.number for step in prof.recording.steps], rows.get("logsumexp", 0)


def test_steps_carry_loss_and_tokens() -> None:
    with fn.profile(limits=None) as prof:
        loop(prof, 3)
    steps = prof.recording.steps
    assert [(s.number, s.loss, s.tokens) for s in steps] == [(0, 0.0, 10), (1, 1.0, 10), (2, 2.0, 10)]
    assert all(a.end == b.start for a, b in pairwise(steps))
    assert "steps          3" in prof.report()


def test_a_schedule_picks_steps() -> None:
    with fn.profile(schedule=fn.schedule(wait=2, warmup=1, active=2, repeat=1), limits=None) as prof:
        loop(prof, 9)
    assert counts(prof) == ([3, 4], 2)


def test_the_schedule_is_torchs() -> None:
    torch = pytest.importorskip("torch.profiler", reason="compares with torch.profiler")
    for options in (
        {"wait": 1, "warmup": 1, "active": 3},
        {"wait": 0, "warmup": 2, "active": 1, "repeat": 2},
        {"wait": 2, "warmup": 1, "active": 2, "repeat": 1, "skip_first": 3},
    ):
        ours, theirs = fn.schedule(**options), torch.schedule(**options)
        assert [ours(i).name for i in range(30)] == [theirs(i).name for i in range(30)]


def test_each_cycle_is_handed_over_and_the_last_one_stays() -> None:
    seen: list[tuple[list[int], int]] = []
    plan = fn.schedule(wait=1, warmup=0, active=2)
    with fn.profile(schedule=plan, on_trace_ready=lambda p: seen.append(counts(p)), limits=None) as prof:
        loop(prof, 9)
    assert seen == [([1, 2], 2), ([4, 5], 2), ([7, 8], 2)]
    assert counts(prof) == ([7, 8], 2)


def test_cycles_add_up_on_request() -> None:
    with fn.profile(schedule=fn.schedule(wait=1, warmup=1, active=1), acc_events=True, limits=None) as prof:
        loop(prof, 6)
    assert counts(prof) == ([2, 5], 2)
    assert len(prof.recording.windows) == 2
    assert prof.analysis.wall == pytest.approx(sum(prof.analysis.step_seconds))


def test_without_a_schedule_it_is_ready_at_the_end() -> None:
    seen: list[int] = []
    with fn.profile(on_trace_ready=lambda p: seen.append(len(p.recording.events)), limits=None):
        fn.logsumexp(X)
    assert seen == [2]


def test_results_can_be_had_while_it_runs() -> None:
    with fn.profile(limits=None) as prof:
        loop(prof, 2)
        assert counts(prof)[1] == 2
        before = prof.recording
        loop(prof, 1)
        assert counts(prof) == ([0, 1, 2], 3)
        assert len(before.steps) == 2
    assert counts(prof)[1] == 3


def test_started_anew_it_begins_from_nothing() -> None:
    prof = fn.profile(limits=None)
    for steps in (3, 1):
        with prof:
            loop(prof, steps)
        assert counts(prof) == (list(range(steps)), steps)
    prof.stop()  # once more does no harm
    with prof, pytest.raises(RuntimeError, match="expected one start, got a second"):
        prof.start()


@pytest.mark.parametrize("explicit", [False, True], ids=["fit marks the steps", "a callback marks them too"])
def test_fit_marks_its_own_steps(explicit: bool) -> None:
    objective = fn.Objective(NGram(30, context=2), fn.SequenceDataset(TOKENS))

    class Mark:
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("on_"):
                raise AttributeError(name)
            return lambda run: prof.step() if explicit and name == "on_step" else None

    with fn.profile(schedule=fn.schedule(wait=1, warmup=1, active=3, repeat=1), limits=None) as prof:
        sgd = fn.SGD(objective.model.init(), lr=0.1)
        history = fn.fit(objective, sgd, steps=8, batch_tokens=500, callbacks=[Mark()], evaluate=False)
    steps = prof.recording.steps
    assert [step.number for step in steps] == [2, 3, 4]
    assert [step.loss for step in steps] == pytest.approx(history.loss[2:5])
    assert all(step.tokens for step in steps)
    rows = {row.key: row for row in prof.key_averages()}
    assert rows["SGD.step"].count == rows["objective.value_and_grad"].count == 3
    assert rows["data: batches"].kind == rows["data: rows"].kind == "data"
    for part in ("model.logits", "model.vjp", "cross_entropy_value_and_grad", "sgd_update"):
        assert rows[part].count >= 3, part
    # The call in which a window ends is not seen to its end.
    assert rows["fit.callbacks"].count == (2 if explicit else 3)


def test_the_objective_has_parts_whichever_way_it_is_asked() -> None:
    data = fn.SequenceDataset(TOKENS)
    for model in (NGram(30, context=2), Bigram(30)):
        objective, params = fn.Objective(model, data), model.init()
        with fn.profile(limits=None) as prof:
            objective.value(params)
            objective.value_and_grad(params)
            objective.per_sequence(params)
        rows = {row.key: row.count for row in prof.key_averages()}
        for part in ("value", "value_and_grad", "per_sequence"):
            assert rows[f"objective.{part}"] == 1
        assert prof.analysis.outside < prof.analysis.wall


def test_record_function_names_blocks_and_calls() -> None:
    @fn.record_function("forward")
    def forward(x: int) -> int:
        """Add one."""
        return x + 1

    assert (forward(1), forward.__name__, forward.__doc__) == (2, "forward", "Add one.")
    named = fn.record_function("again")
    with fn.profile(limits=None) as prof:
        forward(1)
        with named, named:
            pass
        with fn.record_function("data"):
            pass
    assert {row.key: (row.count, row.kind) for row in prof.key_averages()} == {
        "forward": (1, "user"),
        "again": (2, "user"),
        "data": (1, "data"),
        "(outside fastnll)": (0, "outside"),
    }


def test_a_block_that_began_before_is_left_out() -> None:
    with fn.record_function("around"), fn.profile(limits=None) as prof:
        pass
    assert prof.recording.events == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"limits": "guess"}, 'limits: expected "cached", "measure", a Roofline or None, got \'guess\''),
        ({"max_events": 0}, "max_events: expected an integer of at least 1, got 0"),
        ({"max_events": True}, "max_events: expected an integer of at least 1, got True"),
        ({"schedule": 3}, "schedule: expected a function from a step's number to an action, got 3"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        fn.profile(**options)
    assert str(error.value) == sentence


@pytest.mark.parametrize("name", ["wait", "warmup", "active", "repeat", "skip_first"])
def test_schedules_that_mean_nothing(name: str) -> None:
    least = 1 if name == "active" else 0
    with pytest.raises(ValueError, match=f"{name}: expected an integer of at least {least}, got {least - 1}"):
        fn.schedule(**{"wait": 1, "warmup": 1, "active": 1, name: least - 1})
    assert fn.schedule(wait=0, warmup=0, active=1)(0) is ProfilerAction.RECORD_AND_SAVE


def test_names_that_are_no_text() -> None:
    with pytest.raises(ValueError, match="name: expected text, got 3"):
        fn.record_function(3)  # type: ignore[arg-type]


def test_every_column_sorts() -> None:
    with fn.profile(limits=LIMITS) as prof:
        loop(prof, 2)
        fn.cross_entropy(X, [0, 1, 2, 3])
    rows = prof.key_averages(group_by_input_shapes=True)
    for name in SORT_KEYS:
        values = [getattr(row, name) for row in rows.sorted(name)]
        numbers = [-1 if value is None else value for value in values]
        assert numbers == sorted(numbers, reverse=True)
    with pytest.raises(ValueError, match=r"sort_by: expected one of wall_time, .* got 'cuda_time'"):
        rows.table(sort_by="cuda_time")


def test_json_has_everything(tmp_path: Path) -> None:
    with fn.profile(limits=LIMITS, rank=(1, 3)) as prof:
        for _ in range(3):
            fn.cross_entropy(np.zeros((300, 256), np.float32), np.zeros(300, int), threads=2)
            prof.step(loss=float("nan"), tokens=300)
    found = json.loads(prof.export_json(tmp_path / "p.json").read_text())
    assert (found["format"], found["rank"], found["size"]) == (1, 1, 3)
    assert found["summary"]["steps"] == 3
    assert [step["loss"] for step in found["steps"]] == [None] * 3
    assert {row["key"] for row in found["rows"]} >= {"cross_entropy", "kernel.cross_entropy [read]"}
    assert Roofline.from_dict(found["limits"]["2"]) == LIMITS
    assert not list(tmp_path.glob("*.part"))


def test_trimming_leaves_imports_out() -> None:
    with fn.profile(limits=None) as prof:
        sum(range(200_000))
        fn.logsumexp(X)
    events, wall = prof.recording.events, prof.analysis.wall
    prof.trim()
    assert prof.analysis.wall < wall
    assert prof.recording.wall_ns == max(e[1] for e in events) - min(e[0] for e in events)
