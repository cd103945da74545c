"""The entry point: commands, help, mistakes, exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastnll as fn
from fastnll.cli import main as entry
from fastnll.cli.common import number, whole
from fastnll.cli.main import COMMANDS, build_parser
from fastnll.cli.parsing import commands_of, near_files
from tests.cli.conftest import Cli

NAMES = [command.name for command in COMMANDS]
# Commands that print nothing a program would read: a script, or the output of what they run.
NO_JSON = {"completion", "launch", "profile"}


def parsers(
    parser: argparse.ArgumentParser | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command and subcommand, whoever wrote it: words and parser."""
    parser = parser or build_parser()
    for name, child in commands_of(parser).items():
        yield (*path, name), child
        yield from parsers(child, (*path, name))


PARSERS = dict(parsers())
ALL = pytest.mark.parametrize("path", PARSERS, ids=" ".join)
LEAVES = pytest.mark.parametrize("path", [p for p, q in PARSERS.items() if not commands_of(q)], ids=" ".join)


def examples(parser: argparse.ArgumentParser) -> list[list[str]]:
    """The command lines that the help of a parser shows."""
    lines = re.findall(r"^  fastnll (.*)$", parser.epilog or "", re.MULTILINE)
    return [shlex.split(re.split(r"\s{2,}|\s[>|]\s", line)[0].replace("*", "x")) for line in lines]


def test_every_command_module_is_listed() -> None:
    folder = Path(entry.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    commands = {name for name in modules if hasattr(importlib.import_module(f"fastnll.cli.{name}"), "add_parser")}
    assert commands == set(NAMES)


@ALL
def test_help(cli: Cli, path: tuple[str, ...]) -> None:
    code, out, err = cli(*path, "--help")
    assert (code, err) == (0, "")
    assert f"usage: fastnll {' '.join(path)}" in out
    assert f"  fastnll {' '.join(path)}" in out.split("example")[-1]


@ALL
def test_examples_are_command_lines_that_mean_something(path: tuple[str, ...]) -> None:
    shown = examples(PARSERS[path])
    assert shown
    for line in shown:
        assert line[0] in NAMES
        build_parser(line[0]).parse_args(line)


@ALL
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    for action in PARSERS[path]._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action
        assert "%(" not in (action.help or "")


@LEAVES
def test_json(path: tuple[str, ...]) -> None:
    flags = {flag for action in PARSERS[path]._actions for flag in action.option_strings}
    assert "--json" in flags or path[0] in NO_JSON


@ALL
def test_a_misspelt_option_is_recognised(cli: Cli, path: tuple[str, ...]) -> None:
    """Also where an argument is missing: the spelling is what the user has to be told."""
    code, out, err = cli(*path, "--traceback"[:-2] + "kc")
    assert (code, out) == (2, "")
    assert err == f"fastnll {' '.join(path)}: unknown option '--tracebakc'; did you mean --traceback?\n"


@ALL
def test_a_value_that_is_no_choice_is_answered_with_the_choices(cli: Cli, path: tuple[str, ...]) -> None:
    for action in PARSERS[path]._actions:
        if action.option_strings and action.choices:
            near = str(next(iter(action.choices)))
            code, out, err = cli(*path, action.option_strings[-1], f"{near}x")
            assert (code, out) == (2, "")
            assert len(err.splitlines()) == 1
            assert f"got '{near}x'; did you mean {near}?" in err


def test_the_help_is_not_wider_than_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for path in PARSERS:
        assert max(map(len, cli(*path, "--help").out.splitlines())) <= 110


def test_help_lists_every_command(cli: Cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    flat = " ".join(out.split())
    assert all(f"{command.name} {command.summary}" in flat for command in COMMANDS)


def test_nothing_typed(cli: Cli) -> None:
    code, out, err = cli()
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "fastnll: expected a command, got none; 'fastnll train' trains a first model"
    assert "usage: fastnll" in err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["trian"], "fastnll: unknown command 'trian'; did you mean train?"),
        (["xyzzy"], "fastnll: unknown command 'xyzzy'; see 'fastnll --help'"),
        (["train", "--epocs", "3"], "fastnll train: unknown option '--epocs'; did you mean --epochs?"),
        (["train", "--epocs=3"], "fastnll train: unknown option '--epocs'; did you mean --epochs?"),
        (["train", "--step", "3"], "fastnll train: unknown option '--step'; did you mean --steps?"),
        (["--vresion"], "fastnll: unknown option '--vresion'; did you mean --version?"),
        (["train", "--steps"], "fastnll train: argument --steps: expected one argument; see 'fastnll train --help'"),
        (["info", "extra"], "fastnll info: unknown argument 'extra'; see 'fastnll info --help'"),
        (["--traceback"], "fastnll: unknown option '--traceback'; see 'fastnll --help'"),
        (["trian", "eval"], "fastnll: unknown command 'trian'; did you mean train?"),
        (["eval", "--jsn"], "fastnll eval: unknown option '--jsn'; did you mean --json?"),
        (["eval", "--", "--jsn"], "fastnll eval: FILE: expected text files or --data NAME to evaluate on, got none"),
    ],
)
def test_usage_errors_are_one_sentence(cli: Cli, argv: list[str], sentence: str) -> None:
    code, out, err = cli(*argv)
    assert (code, out, err) == (2, "", sentence + "\n")


def test_a_file_in_place_of_a_command(cli: Cli, text: Path) -> None:
    code, out, err = cli("text.txt")
    assert (code, out) == (2, "")
    assert err == "fastnll: expected a command, got the file 'text.txt'; did you mean 'fastnll train text.txt'?\n"


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("txet.txt", "; did you mean 'text.txt'?"),
        ("folder/txet.txt", "; did you mean 'folder/text.txt'?"),
        ("fodler/text.txt", "; there is no folder 'fodler'"),
        ("no/such/text.txt", "; there is no folder 'no'"),
        ("text.txt/part.txt", "; 'text.txt' is a file, not a folder"),
        ("text.txt/a/part.txt", "; 'text.txt' is a file, not a folder"),
        ("xyzzy", ""),
    ],
)
def test_a_file_that_is_not_there(cli: Cli, text: Path, tmp_path: Path, given: str, advice: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "text.txt").write_text("x")
    code, out, err = cli("train", given, "--steps", "1")
    assert (code, out) == (1, "")
    assert err.startswith(f"fastnll train: {given}: expected ")
    assert err.endswith(f"{advice}\n")
    assert "; did" in advice or "; did" not in err


def test_advice_is_given_about_missing_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("x")
    assert near_files(["--json=bok.txt"], "bok.txt: no such file") == "; did you mean 'book.txt'?"
    assert near_files(["bok.txt"], "bok.txt: the disk is full") == ""
    assert near_files(["book.txt"], "book.txt: no such file") == ""
    assert near_files(["--out", "bok"], "no-bok.txt: no such file") == ""


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("train text.txt --out text.txt/run", "text.txt/run: expected a folder that can be written, got one below the"),
        ("train text.txt --out text.txt/a/b", "text.txt/a/b: expected a folder that can be written, got one below the"),
        (
            "data convert text.txt -o text2.txt",
            "--to: expected a name that ends in .fnll, .npy, .npz, .arrow, .feather,",
        ),
        (
            "data convert text.txt -o text.txt/a.fnll",
            "text.txt/a.fnll: expected to write a dataset, got a name below a",
        ),
        ("data convert text.txt -o text.txt/a.npy", "text.txt/a.npy: expected to write a dataset, got a name below a"),
        ("data convert text.txt -o no/a.fnll", "no/a.fnll: expected to write a dataset, got no such folder; make it"),
    ],
)
def test_what_is_written_is_not_looked_for(cli: Cli, text: Path, argv: str, sentence: str) -> None:
    """A sentence that says what to do is left as it is."""
    code, out, err = cli(*argv.split())
    assert (code, out) == (2 if "--to" in sentence else 1, "")
    assert err.startswith(f"fastnll {argv.split()[0]}: {sentence}")
    assert "there is no" not in err
    assert "did you mean" not in err
    assert err.count("\n") == 1


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("fastnll ")


def test_info(cli: Cli) -> None:
    assert cli("info").out == f"{fn.info()}\n"
    assert json.loads(cli("info", "--json").out) == fn.info().to_dict()


def test_info_is_what_an_issue_needs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("FASTNLL_NUM_THREADS", "2")
    facts = json.loads(cli("info", "--json").out)
    assert facts["environment"]["OMP_NUM_THREADS"] == "3"
    assert facts["memory_bytes"] > 2**20
    assert isinstance(facts["free_threaded"], bool)
    assert "FASTNLL_NUM_THREADS=2" in cli("info").out
    assert re.search(r"numpy \d", cli("info").out)


def test_traceback_on_request(cli: Cli) -> None:
    with pytest.raises(fn.DataError, match="no such file"):
        entry.main(["train", "no.txt", "--traceback"])


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "fastnll: interrupted"),
        (MemoryError(), 1, "fastnll info: not enough memory; use a smaller batch, model or file"),
        (OSError(28, "No space left on device", "x.bin"), 1, "fastnll info: x.bin: No space left on device"),
        (fn.OptionError("threads: expected\nmore"), 2, "fastnll info: threads: expected more"),
        (fn.BackendError("backend: none"), 1, "fastnll info: backend: none"),
    ],
)
def test_errors_become_sentences(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr("fastnll.cli.info.run", fail)
    outcome = cli("info")
    assert (outcome.code, outcome.err) == (code, sentence + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_benchmark_with_its_code(tmp_path: Path, number: int, code: int) -> None:
    words = ["bench", "--quick", "--all", "--peers", "--no-accuracy"]
    with subprocess.Popen(
        [sys.executable, "-m", "fastnll", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "cross_entropy" not in process.stdout.readline():
            time.sleep(0.01)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in error
    assert error.strip() == ("fastnll: terminated" if number == signal.SIGTERM else "")


def test_a_handler_of_the_caller_is_left_alone(cli: Cli) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cli("info")
    assert signal.getsignal(signal.SIGTERM) == before


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "fastnll", "info"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr.startswith("fastnll info: No space left on device")


def test_a_mistake_of_ours_is_not_hidden(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("fastnll.cli.info.run", fail)
    with pytest.raises(ZeroDivisionError):
        cli("info")


def test_output_into_a_pipe_that_closes() -> None:
    script = "import sys; from fastnll.cli.main import main; sys.exit(main(['info']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141
    assert error == ""


def test_python_dash_m(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "fastnll", "train", "missing.txt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "fastnll train: missing.txt: expected a text file, got no such file\n"


def test_info_does_not_wait_for_the_training_stack() -> None:
    script = (
        "import sys; from fastnll.cli.main import main; main(['info']); "
        "heavy = ('scipy', 'numba', 'matplotlib', 'tqdm', 'safetensors', 'torch', 'jax'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("text", ["1", "1e3", "1_000", "7.0"])
def test_whole_numbers(text: str) -> None:
    assert whole(1)(text) == int(float(text))


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "nan", "inf", "1e400", "x", ""])
def test_no_whole_numbers(text: str) -> None:
    with pytest.raises(Exception, match=f"expected an integer of at least 1, got {text!r}"):
        whole(1)(text)


@pytest.mark.parametrize("text", ["0", "1", "-1", "nan", "inf", "x"])
def test_no_numbers_above_zero_and_below_one(text: str) -> None:
    with pytest.raises(Exception, match="expected a number above 0 and below 1, got"):
        number(0, above=True, below=1)(text)
