"""What is measured reaches the files: JSON lines, a table, TensorBoard."""

from __future__ import annotations

import csv
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from fastnll.callbacks import Callback, Checkpoints, CsvLines, JsonLines, TensorBoard
from fastnll.checkpoint import load_checkpoint
from fastnll.errors import OptionError
from fastnll.training import Run, fit
from tests.training.small import problem


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluations_are_recorded_whatever_the_rhythm(tmp_path: Path) -> None:
    objective, sgd = problem()
    path = tmp_path / "metrics.jsonl"
    history = fit(
        objective, sgd, steps=12, batch_tokens=64, held_out=0.3, eval_every=5, callbacks=[JsonLines(path, every=4)]
    )
    *records, final = lines(path)
    assert [record["step"] for record in records] == [4, 5, 8, 10, 12]
    measured = {record["step"]: record["held_out/loss"] for record in records if "held_out/loss" in record}
    assert measured == dict(zip(history.held_out_step, history.held_out_loss, strict=True))
    assert list(measured) == [5, 10, 12]
    assert records[1]["held_out/bits_per_token"] == pytest.approx(measured[5] / math.log(2))
    assert all(record["train/loss"] == history.loss[record["step"] - 1] for record in records)
    assert history.final_held_out is not None
    assert final["final/held_out/nll"] == history.final_held_out.nll
    assert final["final/held_out/n_predicted"] == history.final_held_out.n_predicted


def test_the_table_has_the_same(tmp_path: Path) -> None:
    objective, sgd = problem(max_norm=1.0)
    callbacks = [JsonLines(tmp_path / "m.jsonl", every=3), CsvLines(tmp_path / "m.csv", every=3)]
    fit(objective, sgd, steps=11, batch_tokens=64, held_out=0.3, eval_every=5, callbacks=callbacks)
    with open(tmp_path / "m.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    records = lines(tmp_path / "m.jsonl")[:-1]
    assert len(rows) == len(records) == 6
    for row, record in zip(rows, records, strict=True):
        assert row.keys() >= record.keys()
        for name, value in row.items():
            if name not in record:
                assert value == ""
            elif name != "wall_s":
                assert float(value) == record[name], name


def test_what_is_not_finite_is_empty(tmp_path: Path) -> None:
    objective, sgd = problem()

    class Distort(Callback):
        def on_step(self, run: Run) -> None:
            run.history.loss[-1] = math.inf

    fit(objective, sgd, steps=1, batch_tokens=None, callbacks=[Distort(), CsvLines(tmp_path / "m.csv")])
    header, row = (line.split(",") for line in (tmp_path / "m.csv").read_text().splitlines())
    assert dict(zip(header, row, strict=True))["train/loss"] == ""


def test_a_table_that_is_there_gets_no_second_header(tmp_path: Path) -> None:
    objective, sgd = problem()
    fit(objective, sgd, steps=2, batch_tokens=64, callbacks=[CsvLines(tmp_path / "m.csv")])
    fit(objective, sgd, steps=2, batch_tokens=64, callbacks=[CsvLines(tmp_path / "m.csv")])
    text = (tmp_path / "m.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in text] == ["step", "1", "2", "1", "2"]


def test_the_clock_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fastnll.callbacks.records.time.monotonic", lambda: now[0])

    class Tick(Callback):
        def on_step(self, run: Run) -> None:
            now[0] += 10.0

    files = [Tick(), JsonLines(tmp_path / "m.jsonl"), Checkpoints(tmp_path / "checkpoint")]
    objective, sgd = problem()
    fit(objective, sgd, steps=2, batch_tokens=64, callbacks=files, evaluate=False)
    now[0] = 5000.0
    _, sgd = problem()
    start = load_checkpoint(tmp_path / "checkpoint")
    fit(objective, sgd, steps=4, batch_tokens=64, callbacks=files, start=start, evaluate=False)
    assert [record["wall_s"] for record in lines(tmp_path / "m.jsonl")] == [10.0, 20.0, 30.0, 40.0]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """Read the event files of a folder: (step, tag, value), as TensorBoard does."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


# The package's generated code warns on some Pythons; what is tested is what it is given.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="TensorBoard logs need tensorboardX")
    objective, sgd = problem()
    board = TensorBoard(tmp_path, every=2)
    history = fit(objective, sgd, steps=6, batch_tokens=64, held_out=0.3, eval_every=3, callbacks=[board])
    found = scalars(tmp_path)
    losses = {step: value for step, tag, value in found if tag == "train/loss"}
    assert losses == {step: pytest.approx(history.loss[step - 1], rel=1e-6) for step in (2, 3, 4, 6)}
    measured = {step: value for step, tag, value in found if tag == "held_out/loss"}
    assert measured == {step: pytest.approx(history.held_out_loss[i], rel=1e-6) for i, step in enumerate((3, 6))}
    assert history.final is not None
    assert (6, "final/bits_per_token", pytest.approx(history.final.bits_per_token, rel=1e-6)) in found


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboardX", "torch", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        OptionError, match=r"expected tensorboardX, or PyTorch .*, got neither; pip install tensorboardX"
    ):
        TensorBoard(tmp_path)


class OtherRank:
    """A rank that is not the first, of an objective that asks its ranks whether to stop."""

    root = False

    def __init__(self) -> None:
        self.asked = 0
        self.comm = self

    def sum(self, number: int) -> int:
        self.asked += 1
        return int(self.asked == 3)

    def allgather(self, reason: str | None) -> list[str | None]:
        return [None, "SIGTERM", reason]


def test_only_the_main_process_writes_and_all_stop_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from fastnll.callbacks import ProgressBar

    objective, sgd = problem()
    objective.ranks = OtherRank()  # type: ignore[attr-defined]
    files = [
        JsonLines(tmp_path / "m.jsonl"),
        CsvLines(tmp_path / "m.csv"),
        Checkpoints(tmp_path / "checkpoint", every=1),
        ProgressBar(disable=False),
    ]
    history = fit(objective, sgd, steps=9, batch_tokens=64, callbacks=files)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert (history.stopped, history.progress.step) == ("SIGTERM", 3)
