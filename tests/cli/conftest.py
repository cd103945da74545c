"""The command line in this process: `cli(...)` gives the exit code and what was printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fastnll.cli.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run command lines in an empty folder; no traceback may ever be seen."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Outcome:
        code = main(argv)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Outcome(code, out, err)

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of a few thousand characters with some structure."""
    path = tmp_path / "text.txt"
    lines = (f"line {i} says {i * i} and nothing else, né?" for i in range(120))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Twelve files of different lengths and contents."""
    names = []
    for k in range(12):
        path = tmp_path / f"part{k:02d}.txt"
        path.write_text("\n".join(f"{i} plus {k} is {i + k}, not {i * k}" for i in range(5 + 3 * k)))
        names.append(path.name)
    return names
