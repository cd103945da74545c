"""``fastnll profile`` on scripts that know nothing of it; its exit codes, files and messages."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastnll.cli.main import main
from tests.cli.conftest import Cli

SCRIPT = '''
"""A script of somebody's own."""
import sys
import numpy as np
import fastnll
from helper import targets

print("arguments", sys.argv[1:], __name__, sys.path[0] == sys.argv[1])
logits = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
for _ in range(20):
    fastnll.cross_entropy_value_and_grad(logits, targets, out=np.empty_like(logits))
if "fail" in sys.argv:
    raise KeyError("the script's own")
if "exit" in sys.argv:
    sys.exit(7)
if "text" in sys.argv:
    sys.exit("it was not to be")
if "interrupt" in sys.argv:
    raise KeyboardInterrupt
if "wrong" in sys.argv:
    fastnll.cross_entropy(logits, targets + 1000)
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "helper.py").write_text("import numpy as np\ntargets = np.arange(64)\n")
    path = folder / "work.py"
    path.write_text(SCRIPT)
    return path


def run(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "fastnll", "profile", *argv, cwd=cwd)


def python(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cwd), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_a_script_as_it_is(script: Path, tmp_path: Path) -> None:
    folder = str(script.parent)
    done = run("--json", "p.json", "--trace", "t.json.gz", str(script), folder, "--json", "-m", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Everything behind the script is the script's.
    assert done.stdout == f"arguments {[folder, '--json', '-m']} __main__ True\n"
    assert "cross_entropy_value_and_grad" in done.stderr
    assert "note: the limits of this machine have not been measured for 1 thread" in done.stderr
    rows = {row["key"]: row["count"] for row in json.loads((tmp_path / "p.json").read_text())["rows"]}
    assert rows["cross_entropy_value_and_grad"] == 20
    trace = json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))
    # The recording begins with the first event, not with the imports before it.
    assert min(event["ts"] for event in trace["traceEvents"] if event["ph"] == "X") == 0


@pytest.mark.parametrize(
    ("argument", "code", "end"),
    [
        ("exit", 7, None),
        ("text", 1, "it was not to be"),
        ("fail", 1, 'KeyError: "the script\'s own"'),
        ("interrupt", 130, "KeyboardInterrupt"),
        ("wrong", 1, "fastnll.errors.LabelError: targets: expected class ids"),
    ],
)
def test_the_end_of_the_script_is_its_own(
    script: Path, tmp_path: Path, argument: str, code: int, end: str | None
) -> None:
    done = run(str(script), argument, cwd=tmp_path)
    alone = python(str(script), argument, cwd=tmp_path)
    assert done.returncode == code
    assert argument == "interrupt" or alone.returncode == code
    assert "recorded" in done.stderr and "kernel.cross_entropy" not in alone.stderr
    if end is None:
        assert "Traceback" not in done.stderr
        return
    assert end in done.stderr
    if "Traceback" in alone.stderr:
        # The same traceback as without the profiler, line by line.
        assert alone.stderr.strip() in done.stderr
        assert "runpy" not in done.stderr


def test_a_module(script: Path) -> None:
    done = run("-m", "work", "one", cwd=script.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("arguments ['one'] __main__")
    assert run("-m", "no_such_module", cwd=script.parent).returncode == 1


def test_json_on_stdout_and_no_limits(script: Path, tmp_path: Path) -> None:
    script.write_text("import fastnll\nfastnll.logsumexp([1.0, 2.0])\n")
    done = run("--json", "-", "--limits", "none", "--sort-by", "count", str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["events"] == 2
    assert "note:" not in done.stderr


def test_a_script_without_fastnll(script: Path, tmp_path: Path) -> None:
    script.write_text("print('nothing')\n")
    done = run("--trace", "t.json", str(script), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing\n")
    assert done.stderr == "fastnll profile: the script did not call fastnll; there is nothing to report\n"


def test_files_of_ranks(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("PMI_RANK", rank)
        done = run("--trace", "t.json", "--json", "p.json", str(script), str(tmp_path), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("recorded" in done.stderr) is (rank == "0")
    assert run("--merge", "all.json", "t.rank0.json", "t.rank1.json", cwd=tmp_path).returncode == 0
    merged = json.loads((tmp_path / "all.json").read_text())
    assert {event["pid"] for event in merged["traceEvents"]} == {0, 1}
    assert (tmp_path / "p.rank0.json").exists() and (tmp_path / "p.rank1.json").exists()


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        ([], 2, "fastnll profile: SCRIPT: expected a Python file to run, got none"),
        (["none.py"], 1, "fastnll profile: none.py: no such file"),
        (["--merge", "all.json"], 1, "fastnll profile: --merge: paths: expected at least one trace, got none"),
        (["--merge", "all.json", "none.json"], 1, "fastnll profile: none.json: No such file or directory"),
        (["--sort-by", "time", "x.py"], 2, "fastnll profile: argument --sort-by: expected one of wall_time, "),
    ],
)
def test_command_lines_that_mean_nothing(cli: Cli, argv: list[str], code: int, sentence: str) -> None:
    outcome = cli("profile", *argv)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith(sentence)


@pytest.mark.parametrize("option", ["--trace", "--json", "--plot"])
def test_files_that_cannot_be_written(cli: Cli, tmp_path: Path, option: str) -> None:
    pytest.importorskip("matplotlib", reason="--plot draws")
    (tmp_path / "s.py").write_text("import fastnll\nfastnll.logsumexp([1.0])\n")
    code, _, err = cli("profile", option, "no/such/folder.png", "s.py")
    assert code == 1
    assert "cannot be written: No such file or directory" in err


def test_the_process_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.py").write_text("import sys, fastnll\nsys.path.append('x')\nfastnll.logsumexp([1.0])\n")
    monkeypatch.chdir(tmp_path)
    argv, path, module = sys.argv, sys.path[:], sys.modules["__main__"]
    assert main(["profile", "s.py"]) == 0
    assert (sys.argv, sys.path, sys.modules["__main__"]) == (argv, path, module)
