"""``fastnll eval``: the same numbers as the objective, and sentences for what cannot be evaluated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fastnll.data import SequenceDataset
from fastnll.objective import Objective
from fastnll.runs import open_run
from tests.cli.conftest import Cli


@pytest.fixture
def run(cli: Cli, text: Path) -> str:
    """The folder of a small trained model."""
    assert cli("train", str(text), "--steps", "60", "--batch-tokens", "256", "--out", "run").code == 0
    return "run"


def test_same_numbers_as_training(cli: Cli, text: Path) -> None:
    train = json.loads(cli("train", str(text), "--steps", "60", "--out", "run", "--json").out)
    again = json.loads(cli("eval", "run", str(text), "--json").out)
    for key in ("nll", "n_predicted", "bits_per_token", "bits_per_byte", "perplexity", "n_tokens"):
        assert again[key] == pytest.approx(train[key], rel=1e-12)
    assert again["step"] == 60


def test_same_numbers_as_the_objective(cli: Cli, run: str) -> None:
    texts = {"a.txt": "line 5 says 25", "b.txt": "e", "c.txt": "nothing else, né?" * 30}
    for name, content in texts.items():
        Path(name).write_text(content, encoding="utf-8")
    folder = open_run(run)
    model, checkpoint = folder.load()
    objective = Objective(model, SequenceDataset.from_text(texts.values(), folder.tokenizer))
    result = json.loads(cli("eval", run, *texts, "--json", "--per-sequence").out)
    assert result["nll"] == pytest.approx(objective.value(checkpoint.params), rel=1e-12)
    assert result["bits_per_byte"] == pytest.approx(objective.bits_per_byte(checkpoint.params), rel=1e-12)
    assert [entry["sequence"] for entry in result["sequences"]] == list(texts)
    assert [entry["nll"] for entry in result["sequences"]] == objective.per_sequence(checkpoint.params).tolist()
    assert [entry["n_predicted"] for entry in result["sequences"]] == [13, 0, 17 * 30 - 1]
    assert result["sequences"][1]["bits_per_token"] is None
    assert sum(entry["nll"] for entry in result["sequences"]) == pytest.approx(result["nll"])


def test_table(cli: Cli, run: str) -> None:
    Path("a.txt").write_text("line 5 says 25")
    Path("b.txt").write_text("l")
    code, out, err = cli("eval", run, "a.txt", "b.txt", "--per-sequence")
    assert (code, err) == (0, "")
    rows = dict(line.split("  ", 1) for line in out.split("\n\n")[0].splitlines())
    bits, nats = float(rows["bits per token"]), float(rows["NLL per token"].split()[0])
    assert bits == pytest.approx(nats / math.log(2), abs=2e-4)
    assert float(rows["perplexity"]) == pytest.approx(math.exp(nats), rel=1e-3)
    header, first, second = out.split("\n\n")[1].splitlines()
    assert header.split()[0] == "sequence"
    assert first.split()[:2] == ["a.txt", "13"]
    assert second.split() == ["b.txt", "0", "0.0000", "-"]


def test_embedded_data(cli: Cli) -> None:
    assert cli("train", "--steps", "50", "--out", "run").code == 0
    result = json.loads(cli("eval", "run", "--data", "python_docs", "--json", "--per-sequence").out)
    assert len(result["sequences"]) == result["n_sequences"] > 10
    assert [entry["sequence"] for entry in result["sequences"]] == list(range(result["n_sequences"]))


def test_unknown_character(cli: Cli, run: str) -> None:
    Path("other.txt").write_text("line €")
    code, out, err = cli("eval", run, "other.txt")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "'€'" in err
    assert "position 5" in err


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        ([], 2, "the following arguments are required: RUN"),
        (["run"], 2, "FILE: expected text files or --data NAME to evaluate on, got none"),
        (["run", "no.txt"], 1, "no.txt: expected a text file, got no such file"),
        (["nowhere", "text.txt"], 1, "nowhere: expected the folder of a run, got no such folder"),
        (["text.txt", "text.txt"], 1, "text.txt: expected the folder of a run, got a file"),
        ([".", "text.txt"], 1, ".: expected the folder of a run, got one without config.json"),
        (["run", "text.txt", "--data", "opcodes"], 2, "--data: expected files or an embedded dataset"),
        (["run", "--data", "opcodes"], 1, "opcodes: expected the opcodes the model was trained on"),
    ],
)
def test_errors_are_one_sentence(cli: Cli, run: str, argv: list[str], code: int, sentence: str) -> None:
    outcome = cli("eval", *argv)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
    assert sentence in outcome.err


def test_a_model_of_opcodes_and_a_text(cli: Cli, text: Path) -> None:
    assert cli("train", "--data", "opcodes", "--steps", "5", "--out", "ops").code == 0
    code, _, err = cli("eval", "ops", str(text))
    assert code == 1
    assert err.startswith("fastnll eval: ops: expected a model of text to evaluate files with, got one of opcodes")
    assert cli("eval", "ops", "--data", "opcodes").code == 0


def test_a_torn_checkpoint(cli: Cli, run: str, text: Path) -> None:
    newest = sorted(Path(run, "checkpoint").iterdir())[-1]
    arrays = next(newest.glob("model.*"))
    arrays.write_bytes(arrays.read_bytes()[:-5])
    code, _, err = cli("eval", run, str(text))
    assert (code, err.count("\n")) == (1, 1)
    assert f"{arrays}: expected the" in err
    assert "torn" in err
