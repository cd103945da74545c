"""``fastnll train --resume``: the same bits, or a sentence that says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastnll.callbacks import Callback
from fastnll.checkpoint import checkpoints_in
from fastnll.cli import train as command
from fastnll.data import read_text
from fastnll.runs import open_run
from fastnll.training import Run
from tests.cli.conftest import Cli
from tests.cli.small import QUICK, bits, records, resumed


class InterruptedRunError(Exception):
    """Stands for whatever ends a process without a word."""


class Interrupt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.progress.step == self.step:
            raise InterruptedRunError


def interrupted(cli: Cli, monkeypatch: pytest.MonkeyPatch, step: int, *argv: str) -> None:
    """Run a command that dies after a step."""
    with monkeypatch.context() as patch:
        plain = command._callbacks
        patch.setattr(command, "_callbacks", lambda *given: [*plain(*given), Interrupt(step)])
        with pytest.raises(InterruptedRunError):
            cli("train", *argv)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--held-out", "0.2", "--eval-every", "4", "--patience", "9"),
        ("--held-out", "part03.txt", "--accumulate", "2", "--max-norm", "0.5", "--tokenizer", "bytes", "--epochs", "6"),
        ("--schedule", "constant", "--dtype", "float64", "--seed", "7", "--weight-decay", "0.01", "--no-nesterov"),
        ("--weight-decay", "0.1", "--group", "b*:lr=0.1,weight_decay=0", "--group", "w1,weight:momentum=0.5"),
    ],
    ids=["plain", "share", "file", "others", "groups"],
)
def test_the_same_bits(cli: Cli, texts: list[str], monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    quick = QUICK if "--epochs" not in more else tuple(a for a in QUICK if a not in ("--steps", "60"))
    argv = (*texts, *quick, *more)
    whole = resumed(cli, *argv, "--out", "whole")
    # Before the first checkpoint, twice; then between checkpoints; then with the first command line again.
    interrupted(cli, monkeypatch, 2, *argv, "--out", "cut")
    assert checkpoints_in("cut/checkpoint") == []
    interrupted(cli, monkeypatch, 4, "--resume", "cut")
    interrupted(cli, monkeypatch, 9, *argv, "--out", "cut", "--resume")
    interrupted(cli, monkeypatch, 17, "--resume", "cut")
    cut = resumed(cli, "--resume", "cut")
    assert bits("whole") == bits("cut")
    assert records("whole") == records("cut")
    for result in (whole, cut):
        for name in ("run", "seconds", "tokens_per_second"):
            result.pop(name)
    assert whole == cut
    assert {p.name for p in Path("cut").iterdir()} >= {"config.json", "metrics.jsonl", "metrics.csv", "checkpoint"}
    configs = [json.loads(Path(name, "config.json").read_text()) for name in ("whole", "cut")]
    for config in configs:
        config.pop("started")
    assert configs[0] == configs[1]


def test_without_a_name_the_newest_run(cli: Cli, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    resumed(cli, texts[0], *QUICK)
    interrupted(cli, monkeypatch, 20, texts[5], *QUICK)
    result = resumed(cli, "--resume")
    assert result["source"] == texts[5]
    assert result["steps"] == 60
    assert len(list(Path("runs").iterdir())) == 2


def test_a_run_is_begun_where_there_is_none(cli: Cli, texts: list[str]) -> None:
    Path("empty").mkdir()
    for name in ("new", "empty", "a/b/c"):
        assert resumed(cli, texts[0], *QUICK, "--out", name, "--resume")["steps"] == 60
    assert bits("new") == bits("empty") == bits("a/b/c")


def test_a_longer_run(cli: Cli, texts: list[str]) -> None:
    """With a constant rate the first steps do not depend on the last: a run can be made longer, bit for bit."""
    argv = (*texts, *QUICK[:-4], "--batch-tokens", "256", "--schedule", "constant", "--warmup", "5")
    resumed(cli, *argv, "--steps", "90", "--out", "long")
    resumed(cli, *argv, "--steps", "50", "--out", "run")
    assert resumed(cli, "--resume", "run", "--steps", "90")["steps"] == 90
    assert bits("long") == bits("run")
    assert open_run("run").config["training"]["steps"] == 90
    # And from now on that is its length.
    assert resumed(cli, "--resume", "run")["steps"] == 90


def test_what_changes_nothing_may_change(cli: Cli, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    argv = (*texts, *QUICK)
    resumed(cli, *argv, "--out", "whole")
    interrupted(cli, monkeypatch, 20, *argv, "--out", "cut")
    moved = []
    for name in texts:
        Path("elsewhere").mkdir(exist_ok=True)
        moved.append(shutil.move(name, "elsewhere"))
    free = ("--threads", "1", "--keep", "3", "--checkpoint-every", "10")
    assert resumed(cli, *moved, *free, "--resume", "cut")["steps"] == 60
    assert bits("whole") == bits("cut")
    assert [path.name for path in checkpoints_in("cut/checkpoint")] == ["step-000040", "step-000050", "step-000060"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--lr 3", "--lr: expected 0.6, with which run was begun, got 3.0; leave it out, or begin another run"),
        ("--model bigram", "--model: expected ngram, with which run was begun, got bigram"),
        ("--context 4", "--context: expected 3, with which run was begun, got 4"),
        ("--seed 1", "--seed: expected 0, with"),
        ("--no-nesterov", "--nesterov: expected True, with"),
        ("--dtype float64", "--dtype: expected float32, with"),
        ("--tokenizer bytes", "--tokenizer: expected none, with"),
        ("--data opcodes", "--data: expected none, with"),
        ("--backend reference", "--backend: expected none, with"),
        ("--held-out 0.1", "--held-out: expected none, with"),
        ("--patience 3", "--patience: expected none, with"),
        ("--group b1:lr=2", "--group: expected none, with which run was begun, got b1:lr=2.0; leave it out"),
        ("--accumulate 2", "--accumulate: expected 1, with"),
        ("--steps 10", "--steps: expected 60, with"),
        ("--steps 100", "--steps: expected 60, with which run was begun, got 100; its learning rate falls to 0 until"),
        ("--epochs 100", "--epochs: expected none, with which run was begun, got 100; its length is --steps 60"),
        ("--out other", "--out: expected no other folder than --resume run, got other; leave it out"),
    ],
)
def test_options_that_differ(cli: Cli, texts: list[str], argv: str, sentence: str) -> None:
    assert cli("train", *texts, *QUICK, "--out", "run").code == 0
    code, out, err = cli("train", "--resume", "run", *argv.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"fastnll train: {sentence}")
    assert not Path("other").exists()


def test_runs_that_differ_in_their_held_out_data(cli: Cli, texts: list[str]) -> None:
    options = ("--eval-every", "9", "--patience", "50", "--schedule", "constant")
    assert cli("train", *texts, *QUICK, "--held-out", "0.2", *options, "--out", "run").code == 0
    for argv, sentence in (
        (("--held-out", "0.3"), "--held-out: expected 0.2, with which run was begun, got 0.3"),
        (("--held-out", texts[0]), f"--held-out: expected 0.2, with which run was begun, got {texts[0]}"),
        (("--eval-every", "3"), "--eval-every: expected 9, with"),
        (("--min-delta", "0.5"), "--min-delta: expected 0.0, with"),
        (("--steps", "99"), "--steps: expected 60, with which run was begun, got 99; a run with --patience has been"),
    ):
        code, _, err = cli("train", "--resume", "run", *argv)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"fastnll train: {sentence}")


def test_data_that_were_changed(cli: Cli, texts: list[str]) -> None:
    assert cli("train", *texts, *QUICK, "--held-out", texts[4], "--out", "run").code == 0
    for name in (texts[4], texts[3]):
        before = read_text(name)
        Path(name).write_text(before + before[:5])
        code, _, err = cli("train", "--resume", "run")
        assert (code, err.count("\n")) == (1, 1)
        assert "expected the data that run was begun on, " in err
        assert "the file was changed, restore it or begin another run" in err
        if name == texts[4]:
            Path(name).write_text(before)
    Path(texts[3]).unlink()
    code, _, err = cli("train", "--resume", "run")
    assert (code, err.count("\n")) == (1, 1)
    assert texts[3] in err


def test_folders_that_are_no_run(cli: Cli, texts: list[str]) -> None:
    for argv, sentence in (
        (("--resume", "nowhere"), "nowhere: expected the folder of a run, got no such folder"),
        (("--resume", texts[0]), f"{texts[0]}: expected the folder of a run, got a file"),
        (("--resume",), "runs: expected a folder with a run in it, got none; name the run: --resume RUN"),
        (("--resume", "--out", texts[0]), f"{texts[0]}: expected the folder of a run, got a file"),
    ):
        code, out, err = cli("train", *argv)
        assert (code, out, err) == (1, "", f"fastnll train: {sentence}\n")


def test_a_run_of_an_earlier_version(cli: Cli, texts: list[str]) -> None:
    assert cli("train", texts[0], *QUICK, "--out", "run").code == 0
    config = json.loads(Path("run/config.json").read_text())
    del config["input"]
    Path("run/config.json").write_text(json.dumps(config))
    code, _, err = cli("train", "--resume", "run")
    assert (code, err.count("\n")) == (1, 1)
    assert "expected the options of a run to continue, got none of 'input'; it was begun by an earlier fastnll" in err


def test_a_torn_checkpoint_is_passed_over(cli: Cli, texts: list[str]) -> None:
    argv = (*texts, *QUICK)
    resumed(cli, *argv, "--out", "whole")
    resumed(cli, *argv, "--out", "cut")
    newest = checkpoints_in("cut/checkpoint")[-1]
    arrays = next(newest.glob("model.*"))
    arrays.write_bytes(arrays.read_bytes()[:-5])
    code, _, err = cli("train", "--resume", "cut")
    assert code == 0
    assert err.startswith(f"fastnll train: {arrays}: expected the ")
    assert err.count("\n") == 1
    assert bits("whole") == bits("cut")
    assert records("whole") == records("cut")
    for path in checkpoints_in("cut/checkpoint"):
        (path / "state.json").write_text("{")
    code, _, err = cli("train", "--resume", "cut")
    assert (code, err.count("\n")) == (1, 1)
    assert "the file is torn" in err


def test_another_instruction_set_is_told(cli: Cli, texts: list[str]) -> None:
    assert cli("train", texts[0], *QUICK, "--out", "run").code == 0
    config = json.loads(Path("run/config.json").read_text())
    config["machine"] = {"backend": "native", "isa": "neon"}
    Path("run/config.json").write_text(json.dumps(config))
    code, _, err = cli("train", "--resume", "run")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("fastnll train: run was begun with native neon and goes on with ")
    assert err.endswith("the result is the same up to rounding, not to the bit\n")


def test_help_shows_how(cli: Cli) -> None:
    code, out, _ = cli("train", "--help")
    assert code == 0
    for example in (
        "fastnll train book.txt --model ngram --held-out 0.1 --patience 5",
        "fastnll train --resume runs/opcodes",
        "fastnll train --data opcodes --out runs/opcodes --resume",
    ):
        assert f"  {example}" in out
    for option in (
        "--resume [RUN]",
        "--held-out X",
        "--eval-every K",
        "--patience N",
        "--min-delta X",
        "--accumulate K",
    ):
        assert option in out


def test_the_picture_of_a_resumed_run(cli: Cli, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the curve is drawn with matplotlib")
    drawn: list[Any] = []
    from fastnll import plots

    monkeypatch.setattr(plots, "plot_curve", lambda *args, **options: drawn.append((args, options)))
    argv = (*texts, *QUICK, "--held-out", "0.2", "--patience", "30")
    resumed(cli, *argv, "--out", "whole")
    interrupted(cli, monkeypatch, 33, *argv, "--out", "cut")
    resumed(cli, "--resume", "cut")
    (path, tokens, loss), options = drawn[1]
    assert path == Path("cut/curve.png")
    assert (list(tokens), list(loss)) == (drawn[0][0][1], drawn[0][0][2])
    assert len(loss) == 60
    assert tuple(map(list, options["held_out"])) == tuple(map(list, drawn[0][1]["held_out"]))
    assert options["best"] == drawn[0][1]["best"]
    assert options["held_out"][1][options["best"]] == min(options["held_out"][1])
