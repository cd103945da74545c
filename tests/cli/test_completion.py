"""Tab completion, asked of the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
from pathlib import Path

import pytest

from fastnll.cli.completion import all_nodes, bash, tree, zsh
from fastnll.cli.main import COMMANDS
from fastnll.cli.parsing import Parser
from tests.cli.conftest import Cli

NODES = all_nodes()
NAMES = {command.name for command in COMMANDS}
# A shell that is not on the path: FASTNLL_TEST_ZSH=/somewhere/zsh
ZSH = os.environ.get("FASTNLL_TEST_ZSH") or shutil.which("zsh")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def offers(folder: Path, script: str, *words: str) -> set[str]:
    """What bash offers when Tab follows these words, the last of which is being typed."""
    asked = " ".join(f"'{word}'" for word in words)
    source = f"{script}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _fastnll; "
    source += "printf '%s\\n' \"${COMPREPLY[@]}\""
    result = subprocess.run(
        ["bash", "--norc", "-c", source], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr.replace("bash: line 1: ", "") == "" or "compopt" in result.stderr
    return set(result.stdout.split("\n")) - {""}


@needs_bash
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], {"train"}),
        (["train", "--mod"], {"--model"}),
        (["train", "--model", ""], {"categorical", "bigram", "ngram"}),
        (["train", "--model", "=", "bi"], {"bigram"}),
        (["train", "--model", "="], {"categorical", "bigram", "ngram"}),
        (["train", "--model", "bigram", "--out", ""], {"book one.txt", "notes"}),
        (["train", "b"], {"book one.txt"}),
        (["train", "--lr", ""], set()),
        (["roofline", ""], set()),
        (["info", "--"], {"--help", "--json", "--traceback"}),
        (["completion", ""], {"bash", "zsh"}),
        (["--v"], {"--version"}),
    ],
    ids=lambda words: " ".join(sorted(words) if isinstance(words, set) else words),
)
def test_bash_offers(tmp_path: Path, words: list[str], expected: set[str]) -> None:
    (tmp_path / "book one.txt").write_text("x")
    (tmp_path / "notes").mkdir()
    assert offers(tmp_path, bash(NODES), "fastnll", *words) == expected


@needs_bash
def test_bash_offers_every_command_and_every_option(tmp_path: Path) -> None:
    script = bash(NODES)
    assert offers(tmp_path, script, "fastnll", "") == NAMES
    for node in NODES:
        flags = {flag for option in node.options for flag in option.flags}
        assert flags >= {"-h", "--help"}
        assert offers(tmp_path, script, "fastnll", *node.path, "-") == flags


def nested() -> Parser:
    """A tree with a subcommand's subcommand, quotes, brackets and colons in its texts."""
    parser = Parser(prog="fastnll", description="d")
    commands = parser.add_subparsers(parser_class=Parser)
    data = commands.add_parser("data", help="it's [data]: all of it")
    commands.add_parser("date", help="another")
    inspect = data.add_subparsers(parser_class=Parser).add_parser("inspect", help="look")
    inspect.add_argument("--kind", choices=["a", "b"], action="append", help="50 %% of: it's")
    inspect.add_argument("--count", type=int, help="c")
    inspect.add_argument("files", nargs="+", metavar="FILE")
    return parser


@needs_bash
def test_bash_goes_down_to_nested_commands(tmp_path: Path) -> None:
    script = bash(list(tree(nested())))
    assert offers(tmp_path, script, "fastnll", "data", "") == {"inspect"}
    assert offers(tmp_path, script, "fastnll", "data", "inspect", "--kind", "") == {"a", "b"}


def zsh_shows(folder: Path, script: str, typed: str) -> str:
    """Type a line and two Tabs into an interactive zsh that has read the script; return what the terminal shows."""
    assert ZSH
    (folder / "_fastnll").write_text(script)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update(TERM="dumb", PS1="$ ", COLUMNS="200", ZDOTDIR=str(folder))
        os.execv(ZSH, [ZSH, "-f", "-i"])
    shown = b""

    def read_until(mark: bytes, quiet: float) -> None:
        """Read until the mark has come, or nothing has for `quiet` seconds."""
        nonlocal shown
        while mark not in shown and select.select([terminal], [], [], quiet)[0]:
            shown += os.read(terminal, 65536)

    try:
        prepare = "unsetopt zle_bracketed_paste; stty cols 200 rows 200; LISTMAX=0"
        prepare += "; autoload -U compinit; compinit -D; eval \"$(<_fastnll)\"; fastnll() { :; }; print rea''dy\n"
        os.write(terminal, prepare.encode())
        read_until(b"ready", 60)
        shown = b""
        os.write(terminal, typed.encode() + b"\t\t")
        read_until(b"\0", 1.5)  # a list has no mark at its end
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|.\x08", "", shown.decode(errors="replace"))
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


@pytest.mark.skipif(ZSH is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("fastnll ", [*NAMES, "minimise the negative log-likelihood"]),
        ("fastnll inf", ["fastnll info"]),
        ("fastnll train --model=", ["categorical", "bigram", "ngram"]),
        ("fastnll train --wa", ["--warmup="]),
        ("fastnll bench --", ["--quick", "small shapes: a check of correctness", "--from"]),
        ("fastnll train --out ", ["book"]),
        ("fastnll completion ", ["bash", "zsh"]),
    ],
)
def test_zsh_offers(tmp_path: Path, typed: str, expected: list[str]) -> None:
    (tmp_path / "book.txt").write_text("x")
    shown = zsh_shows(tmp_path, zsh(NODES), typed)
    for words in expected:
        assert words in shown, shown
    assert not re.search(r"parse error|_arguments:|not found", shown), shown


@pytest.mark.skipif(ZSH is None, reason="zsh is not installed")
def test_zsh_takes_quotes_brackets_and_colons(tmp_path: Path) -> None:
    assert "it's [data]: all of it" in zsh_shows(tmp_path, zsh(list(tree(nested()))), "fastnll ")
    assert "50 % of: it's" in zsh_shows(tmp_path, zsh(list(tree(nested()))), "fastnll data inspect --")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_command_prints_the_script(cli: Cli, shell: str) -> None:
    code, out, err = cli("completion", shell)
    assert (code, err) == (0, "")
    assert out == {"bash": bash, "zsh": zsh}[shell](NODES)


def test_an_unknown_shell(cli: Cli) -> None:
    code, out, err = cli("completion", "fish")
    assert (code, out) == (2, "")
    assert err.startswith("fastnll completion: argument shell: expected one of bash, zsh, got 'fish'")
