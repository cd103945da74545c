"""``fastnll train``: the main job on real data, every option, every way to fail."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.checkpoint import load_checkpoint
from fastnll.data import python_docs
from fastnll.models import bigram_optimum
from fastnll.runs import open_run
from tests.cli.conftest import Cli

QUICK = ("--steps", "40", "--batch-tokens", "256")


def trained(cli: Cli, *argv: str) -> dict[str, Any]:
    outcome = cli("train", *argv, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    result: dict[str, Any] = json.loads(outcome.out)
    return result


def test_main_job(cli: Cli) -> None:
    """No arguments: within 0.5 % of the closed-form optimum of the embedded text, and a whole run folder."""
    begin = time.monotonic()
    code, out, err = cli("train")
    assert time.monotonic() - begin < 60
    assert (code, err) == (0, "")
    dataset = python_docs()
    best = bigram_optimum(dataset)
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    bits = best.value / best.n_predicted / math.log(2)
    assert bits <= float(rows["bits per token"]) < 1.005 * bits
    assert float(rows["NLL per token"].split()[0]) == pytest.approx(
        float(rows["bits per token"]) * math.log(2), abs=1e-4
    )
    assert rows["tokens"] == f"{dataset.n_tokens:,} ({best.n_predicted:,} predicted)"
    assert rows["vocabulary"] == str(dataset.vocab_size)
    assert rows["bigram optimum"].startswith(f"{bits:.4f} bits per token; this model is 0.")
    assert float(rows["perplexity"]) == pytest.approx(2 ** float(rows["bits per token"]), rel=1e-4)
    assert {"bits per byte", "tokens per second", "run folder"} < rows.keys()
    folder = Path(rows["run folder"])
    assert folder.parent == Path("runs")
    assert {p.name for p in folder.iterdir()} >= {"config.json", "metrics.jsonl", "checkpoint"}
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["sha256"] == dataset.sha256()
    final = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["final/bits_per_token"] == pytest.approx(float(rows["bits per token"]), abs=1e-4)


@pytest.mark.slow
def test_ngram_ends_below_the_bigram_optimum(cli: Cli) -> None:
    result = trained(cli, "--model", "ngram")
    assert result["bits_per_token"] < 0.8 * result["bigram_optimum_bits_per_token"]
    assert result["above_bigram_optimum_percent"] < -20


def test_opcodes(cli: Cli) -> None:
    result = trained(cli, "--data", "opcodes", "--steps", "1500")
    assert result["n_sequences"] > 1000
    assert result["bits_per_byte"] is None
    assert 0 <= result["above_bigram_optimum_percent"] < 2


@pytest.mark.parametrize("model", ["categorical", "bigram", "ngram"])
@pytest.mark.parametrize("tokenizer", ["bytes", "chars"])
def test_files(cli: Cli, text: Path, model: str, tokenizer: str) -> None:
    other = text.with_name("other.txt")
    other.write_text("line 7 says 49")
    result = trained(cli, str(text), str(other), "--model", model, "--tokenizer", tokenizer, *QUICK, "--out", "run")
    n_bytes = len(text.read_bytes()) + 14
    assert result["n_bytes"] == n_bytes
    assert result["n_tokens"] == (n_bytes if tokenizer == "bytes" else n_bytes - 120)
    assert result["n_sequences"] == 2
    assert result["n_predicted"] == result["n_tokens"] - (0 if model == "categorical" else 2)
    assert result["vocab_size"] == (256 if tokenizer == "bytes" else len(set(text.read_text() + "line 7 says 49")))
    assert result["nll_per_token"] < 0.95 * math.log(result["vocab_size"])
    assert result["steps"] == 40
    assert (result["bigram_optimum_bits_per_token"] is None) == (model == "categorical")


def test_options_reach_the_run(cli: Cli, text: Path) -> None:
    options = "--model ngram --context 3 --dim 5 --hidden 6 --dtype float64 --epochs 2 --lr 0.25 --momentum 0.5 "
    options += "--no-nesterov --batch-tokens 512 --schedule constant --warmup 7 --max-norm 0.5 --weight-decay 0.01 "
    options += "--seed 3 --threads 1 --out run"
    result = trained(cli, str(text), *options.split())
    config = open_run("run").config
    assert {key: config["model"][key] for key in ("name", "context", "dim", "hidden")} == {
        "name": "ngram",
        "context": 3,
        "dim": 5,
        "hidden": 6,
    }
    training = config["training"]
    assert training["steps"] == result["steps"]
    expected = {
        "lr": 0.25,
        "momentum": 0.5,
        "nesterov": False,
        "batch_tokens": 512,
        "schedule": "constant",
        "warmup": 7,
    }
    expected |= {"max_norm": 0.5, "weight_decay": 0.01, "seed": 3, "threads": 1, "epochs": 2, "dtype": "float64"}
    assert {key: training[key] for key in expected} == expected
    checkpoint = load_checkpoint("run")
    assert {array.dtype.name for array in checkpoint.params.values()} == {"float64"}
    assert checkpoint.optimizer is not None
    assert checkpoint.optimizer["max_norm"] == 0.5
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [record["lr"] for record in records[:3]] == pytest.approx([0.25 / 7, 0.5 / 7, 0.75 / 7])
    assert records[7]["lr"] == records[-2]["lr"] == 0.25
    assert records[0]["grad_norm"] > 0
    assert result["trained_tokens"] == 2 * result["n_predicted"]


@pytest.mark.parametrize("backend", ["native", "numba", "reference"])
def test_backends_agree(cli: Cli, text: Path, backend: str) -> None:
    from fastnll.kernels.registry import available_backends

    reason = available_backends()[backend]
    if reason is not None:
        pytest.skip(f"{backend} is not available: {reason}")
    one = trained(cli, str(text), "--model", "ngram", *QUICK, "--dtype", "float64", "--backend", backend, "--out", "a")
    two = trained(
        cli, str(text), "--model", "ngram", *QUICK, "--dtype", "float64", "--backend", "reference", "--out", "b"
    )
    assert one["nll"] == pytest.approx(two["nll"], rel=1e-9)


def test_same_seed_same_bits(cli: Cli, text: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        trained(cli, str(text), *QUICK, "--seed", seed, "--out", name)
    bits = [load_checkpoint(name).params["logits"].tobytes() for name in "abc"]
    assert bits[0] == bits[1] != bits[2]


def test_curve(cli: Cli, text: Path) -> None:
    pytest.importorskip("matplotlib")
    trained(cli, str(text), *QUICK, "--out", "run")
    assert Path("run/curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib(cli: Cli, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = cli("train", str(text), *QUICK, "--out", "run")
    assert code == 0
    assert err == ("fastnll train: curve.png was not drawn, for matplotlib is not installed (pip install matplotlib)\n")
    assert "bits per token" in out
    assert not Path("run/curve.png").exists()


def bad_files(folder: Path) -> dict[str, tuple[list[str], str]]:
    (folder / "empty.txt").write_bytes(b"")
    (folder / "binary.txt").write_bytes(b"\x7fELF\x00\x01")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "one.txt").write_text("x")
    (folder / "used").mkdir()
    (folder / "used" / "a").write_text("a")
    (folder / "good.txt").write_text("abcabcabd" * 9)
    return {
        "missing": (["no.txt"], "no.txt: expected a text file, got no such file"),
        "folder": (["used"], "used: expected a dataset, got a folder; name the files in it"),
        "empty": (["empty.txt"], "empty.txt: expected a text file, got an empty file"),
        "binary": (["binary.txt"], "binary.txt: expected UTF-8 text, got byte 0x00 at offset 4; this is a binary file"),
        "latin": (["latin.txt"], "latin.txt: expected UTF-8 text, got byte 0xe9 at offset 3; save the file as UTF-8"),
        "second": (["good.txt", "no.txt"], "no.txt: expected a text file, got no such file"),
        "single": (["one.txt"], "dataset: expected at least one predicted token"),
        "out used": (
            ["good.txt", "--out", "used"],
            "used: expected a new or empty folder for the run, got one with files",
        ),
        "out file": (
            ["good.txt", "--out", "one.txt"],
            "one.txt: expected a folder that can be written, got a file; name another one",
        ),
        "out below": (
            ["good.txt", "--out", "one.txt/run"],
            "one.txt/run: expected a folder that can be written, got one below the file one.txt; name another one",
        ),
    }


@pytest.mark.parametrize(
    "case",
    ["missing", "folder", "empty", "binary", "latin", "second", "single", "out used", "out file", "out below"],
)
def test_failures_are_one_sentence(cli: Cli, tmp_path: Path, case: str) -> None:
    argv, sentence = bad_files(tmp_path)[case]
    code, out, err = cli("train", *argv)
    assert (code, out) == (1, "")
    assert err.startswith(f"fastnll train: {sentence}")
    assert err.count("\n") == 1
    # Nothing is left behind that looks like a run.
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--steps", "0"], "argument --steps: expected an integer of at least 1, got '0'"),
        (["--lr", "-1"], "argument --lr: expected a number of at least 0, got '-1'"),
        (["--momentum", "1"], "argument --momentum: expected a number of at least 0 and below 1, got '1'"),
        (["--max-norm", "0"], "argument --max-norm: expected a number above 0, got '0'"),
        (["--threads", "none"], "argument --threads: expected an integer of at least 1, got 'none'"),
        (["--epochs", "1", "--steps", "1"], "argument --steps: not allowed with argument --epochs"),
        (["--model", "transformer"], "argument --model: expected one of categorical, bigram, ngram, got 'transformer'"),
        (["--data", "opcodes", "--tokenizer", "bytes"], "--tokenizer: expected none for --data opcodes"),
        (["text.txt", "--data", "opcodes"], "--data: expected files or an embedded dataset"),
        (
            ["--group", "bias"],
            "argument --group: expected NAME[,NAME]:KEY=X[,KEY=X], as b1,bias:weight_decay=0, got 'b",
        ),
        (["--group", "logits:rate=1"], "argument --group: expected keys among lr, momentum, weight_decay, got 'rate'"),
        (["--group", "logits:lr=x"], "argument --group: lr: expected a number of at least 0, got 'x'"),
        (["--group", "logits:lr=1,lr=2"], "argument --group: expected every key once, got 'lr' twice in 'logits:lr=1"),
        (["text.txt", "--group", "logit:lr=1"], "--group: expected parameters among logits, got 'logit'; did you mean"),
        (
            ["text.txt", "--group", "*:lr=1", "--group", "l*:lr=2"],
            "--group: expected every parameter once, got 'logits",
        ),
        (["text.txt", "--lr", "0", "--group", "*:lr=1"], "--group: expected lr= beside --lr above 0 alone, got '*:lr="),
        (["--hidden", "5"], "--hidden: expected with --model ngram alone, got --model bigram"),
        (["text.txt", "--steps", "5", "--warmup", "5"], "warmup_steps: expected fewer than total_steps=5, got 5"),
    ],
)
def test_usage_errors_are_one_sentence(cli: Cli, text: Path, argv: list[str], sentence: str) -> None:
    code, out, err = cli("train", *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"fastnll train: {sentence}")
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_run_that_diverges_names_the_last_good_checkpoint(cli: Cli, text: Path) -> None:
    argv = ["train", str(text), "--model", "ngram", "--lr", "1e38", "--max-norm", "1e30", "--schedule", "constant"]
    code, out, err = cli(*argv, "--warmup", "0", *QUICK, "--out", "run")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "expected" in err
    # No warm-up: the first steps already break it, whichever check sees it first.
    assert "No checkpoint had been written to run yet" in err or "The last checkpoint before that is run" in err


def test_a_full_disk(cli: Cli, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device", "run/checkpoint/step-000040")

    monkeypatch.setattr("fastnll.callbacks.saving.save_checkpoint", full)
    code, out, err = cli("train", str(text), *QUICK, "--out", "run")
    assert (code, out) == (1, "")
    sentence = "run/checkpoint/step-000040: No space left on device. No checkpoint had been written to run yet"
    assert err == f"fastnll train: {sentence}\n"


def test_a_disk_that_fills_up(cli: Cli, text: Path) -> None:
    """The kernel refuses to let files grow, as on a full disk: a sentence, an intact checkpoint, and it goes on."""
    resource = pytest.importorskip("resource", reason="limits on files are those of POSIX")
    argv = (str(text), "--steps", "80", "--batch-tokens", "256", "--checkpoint-every", "10")
    trained(cli, *argv, "--out", "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The largest file of a checkpoint has 3 to 4 KB; the records reach 6000 bytes after some 25 of 80.
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        code, out, err = cli("train", *argv, "--out", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out, err.count("\n")) == (1, "", 1)
    newest = load_checkpoint("run")
    assert 10 <= newest.progress.step < 80
    name = newest.path.name
    assert err == (
        "fastnll train: run/metrics.jsonl: File too large. The last checkpoint before that is "
        f"run/checkpoint/{name}; 'fastnll train --resume run' goes on from it\n"
    )
    trained(cli, "--resume", "run")
    assert load_checkpoint("run").params["logits"].tobytes() == load_checkpoint("whole").params["logits"].tobytes()
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 81


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_a_whole_run(tmp_path: Path, text: Path, number: signal.Signals) -> None:
    """A real process, Ctrl-C or SIGTERM in the middle: it finishes the step, saves, reports, and says so."""
    argv = [
        sys.executable,
        "-m",
        "fastnll",
        "train",
        str(text),
        "--steps",
        "1e8",
        "--batch-tokens",
        "64",
        "--out",
        "run",
    ]
    with subprocess.Popen(
        argv,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TQDM_DISABLE": "1"},
    ) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        # Records come every 1/2000 of the steps, which is never here: the open file says that the loop runs.
        while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "bits per token" in out
    assert f"stopped by {number.name} after step" in err
    assert err.endswith("; 'fastnll train --resume run' goes on\n")
    assert err.count("\n") == 1
    loaded = load_checkpoint(tmp_path / "run")
    assert 0 < loaded.progress.step < 1e8
    assert np.isfinite(loaded.params["logits"]).all()
