"""Held-out data and early stopping on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastnll.data import read_text
from fastnll.runs import open_run
from tests.cli.conftest import Cli
from tests.cli.small import QUICK, records, resumed


def test_held_out_in_the_table_and_in_the_folder(cli: Cli, texts: list[str]) -> None:
    code, out, err = cli("train", *texts, *QUICK, "--held-out", "0.2", "--patience", "4", "--lr", "2", "--out", "run")
    assert (code, err) == (0, "")
    rows = {name.strip(): value.strip() for name, value in (line.split("  ", 1) for line in out.splitlines())}
    config = open_run("run").config
    held_out = config["held_out"]
    assert rows["held out"].startswith(f"{held_out['n_sequences']} of 12 sequences ({held_out['n_tokens']:,} tokens, ")
    assert rows["sequences"] == str(12 - held_out["n_sequences"])
    assert len(held_out["sequences"]) == held_out["n_sequences"]
    sizes = [len(read_text(name)) for name in texts]
    assert held_out["n_tokens"] == sum(sizes[i] for i in held_out["sequences"])
    assert held_out["n_tokens"] / sum(sizes) == pytest.approx(0.2, abs=0.05)
    measured = [record for record in records("run") if "held_out/loss" in record]
    best = min(measured, key=lambda record: record["held_out/loss"])
    assert rows["held-out NLL"].startswith(f"{best['held_out/loss']:.4f} nats")
    assert rows["held-out NLL"].endswith(f"per token, the lowest, after step {best['step']}")
    assert rows["stopped"] == "early stopping: no lower held-out loss in 4 evaluations"
    assert measured.index(best) == len(measured) - 5
    # `eval` takes the best parameters too, and so gives the same number for the files that were held out.
    names = [texts[i] for i in held_out["sequences"]]
    result = json.loads(cli("eval", "run", *names, "--json").out)
    assert result["nll_per_token"] == pytest.approx(best["held_out/loss"])
    assert result["step"] == best["step"]


def test_a_file_as_held_out_data(cli: Cli, texts: list[str]) -> None:
    result = resumed(cli, *texts[1:], *QUICK, "--held-out", texts[0], "--out", "run")
    assert result["held_out"]["source"] == texts[0]
    assert result["held_out"]["n_tokens"] == len(read_text(texts[0]))
    assert result["held_out"]["best_step"] is None
    evaluated = json.loads(cli("eval", "run", texts[0], "--json").out)
    assert evaluated["nll"] == pytest.approx(result["held_out"]["nll"])
    Path("strange.txt").write_text("€€€€")
    code, _, err = cli("train", *texts, *QUICK, "--held-out", "strange.txt")
    assert (code, err.count("\n")) == (1, 1)
    assert "'€'" in err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--held-out 1.5", "argument --held-out: expected a share above 0 and below 1, or a file, got '1.5'"),
        ("--held-out 0", "argument --held-out: expected a share above 0 and below 1, or a file, got '0'"),
        (
            "--held-out 0.0001",
            "held_out: expected a share that leaves at least one sequence on either side, got 0.0001",
        ),
        ("--eval-every 5", "--eval-every: expected --held-out beside it, got none; add --held-out 0.1"),
        ("--patience 5", "--patience: expected --held-out beside it, got none; add --held-out 0.1"),
        ("--held-out 0.2 --min-delta 1", "--min-delta: expected --patience beside it, got none; add --patience 5"),
        ("--held-out 0.2 --patience 0", "argument --patience: expected an integer of at least 1, got '0'"),
        ("--accumulate 0", "argument --accumulate: expected an integer of at least 1, got '0'"),
        ("--keep 0", "argument --keep: expected an integer of at least 1, got '0'"),
    ],
)
def test_wrong_combinations(cli: Cli, texts: list[str], argv: str, sentence: str) -> None:
    code, out, err = cli("train", *texts[:3], *argv.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"fastnll train: {sentence}")
    assert not Path("runs").exists()
