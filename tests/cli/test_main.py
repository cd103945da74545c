"""The entry point: commands, help, mistakes, exit codes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastnll as fn
from fastnll.cli import main as entry
from fastnll.cli.common import number, whole
from fastnll.cli.main import COMMANDS
from tests.cli.conftest import Cli

NAMES = [command.name for command in COMMANDS]


def test_every_command_module_is_listed() -> None:
    folder = Path(entry.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    commands = {name for name in modules if hasattr(importlib.import_module(f"fastnll.cli.{name}"), "add_parser")}
    assert commands == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example(cli: Cli, name: str) -> None:
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert f"usage: fastnll {name}" in out
    assert f"  fastnll {name}" in out.split("example")[-1]


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
    ],
)
def test_usage_errors_are_one_sentence(cli: Cli, argv: list[str], sentence: str) -> None:
    code, out, err = cli(*argv)
    assert (code, out, err) == (2, "", sentence + "\n")


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("fastnll ")


def test_info(cli: Cli) -> None:
    assert cli("info").out == f"{fn.info()}\n"
    assert json.loads(cli("info", "--json").out) == fn.info().to_dict()


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
        "print([m for m in ('matplotlib', 'tqdm', 'safetensors', 'torch', 'jax') if m in sys.modules])"
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
