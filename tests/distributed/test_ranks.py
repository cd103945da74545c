"""The same objective on 1 to 4 processes: the same bits, one voice, and an end to all when one fails."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastnll.config import available_cores
from fastnll.distributed import find_mpiexec, launch_command, launch_environment
from fastnll.errors import OptionError
from tests.distributed.launching import ROOT, TIMEOUT, finish, launch, need_mpi, start

RANKS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What `checks.py` found on each number of ranks; each resumes a run of the one before."""
    need_mpi()
    folder = tmp_path_factory.mktemp("ranks")
    found = {}
    for n in RANKS:
        done = launch(n, ROOT / "tests" / "distributed" / "checks.py", folder)
        assert done.returncode == 0, done.stderr
        found[n] = {"out": done.stdout, **json.loads((folder / f"results-{n}.json").read_text())}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("n", RANKS)
def test_any_number_of_ranks_gives_the_same_bits(jobs: dict[int, dict[str, Any]], n: int) -> None:
    # That they are those of a process without MPI is asserted in checks.py, for every problem.
    assert len(jobs[1]) > 15
    assert jobs[n] == jobs[1]
    assert len(set(jobs[1].values())) == len(jobs[1])  # no two problems are the same one


@pytest.mark.slow
def test_only_rank_0_prints(jobs: dict[int, dict[str, Any]]) -> None:
    assert {found["out"] for found in jobs.values()} == {"printed by rank 0\n"}


FAILING = """
import sys
from pathlib import Path
from mpi4py import MPI
from fastnll.config import resolve_threads
from fastnll.distributed import current
ranks = current()
Path(sys.argv[1], f"threads-{ranks.rank}").write_text(str(resolve_threads()))
print("said by", ranks.rank, file=sys.stderr)
MPI.COMM_WORLD.Barrier()
if sys.argv[2] == "all" or ranks.rank == 1:
    if sys.argv[2] == "exit":
        sys.exit(3)
    raise ValueError("what went wrong")
MPI.COMM_WORLD.Barrier()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("one", 1), ("all", 1), ("exit", 3)])
def test_an_error_of_one_rank_ends_the_job(tmp_path: Path, how: str, code: int) -> None:
    need_mpi()
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    set_by_user = {"FASTNLL_NUM_THREADS": "5"} if how == "all" else {}
    done = launch(2, script, tmp_path, how, **set_by_user)
    assert done.returncode == code, done.stderr
    assert "what went wrong" in done.stderr or how == "exit", done.stderr
    threads = {(tmp_path / f"threads-{rank}").read_text() for rank in range(2)}
    assert threads == {"5" if set_by_user else str(max(1, available_cores() // 2))}
    if how == "all":
        # What goes wrong everywhere is said once.
        assert done.stderr.count("ValueError: what went wrong") == 1
        assert "rank 1" not in done.stderr
    elif how == "one":
        assert "rank 1: ValueError: what went wrong" in done.stderr
        assert "rank 1: said by 1" in done.stderr


OWN = """
import sys
from fastnll.data import SequenceDataset
from fastnll.distributed import DistributedObjective
from fastnll.models import Bigram
from fastnll.objective import Objective
objective = DistributedObjective(Objective(Bigram(3), SequenceDataset([0, 1, 2, 1, 0])))
params = objective.model.init()
objective.value(params)
if objective.ranks.rank == 1:
    raise KeyError("on rank 1 alone")
objective.value(params)
objective.ranks.sum(1)
"""


@pytest.mark.slow
def test_an_error_ends_a_job_that_mpiexec_started_itself(tmp_path: Path) -> None:
    need_mpi()
    script = tmp_path / "own.py"
    script.write_text(OWN)
    environment = {**launch_environment(2), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*find_mpiexec(), "-n", "2", sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode != 0
    assert "KeyError: 'on rank 1 alone'" in done.stderr
    assert "fastnll: rank 1 of 2 failed" in done.stderr


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoint").glob("step-*"))


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks of a job: Python processes below the launcher's mpiexec."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name of the program stands in brackets and may hold anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue  # it has ended meanwhile
    below = {process.pid}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(pid for pid in below if commands.get(pid, [])[:3] == [sys.executable, "-m", "fastnll.cli.rank"])


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks in /proc")
def test_a_killed_job_goes_on_with_other_numbers_of_ranks(tmp_path: Path) -> None:
    need_mpi()
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i * i} is the square of {i}; {'odd' if i % 2 else 'even'}\n" for i in range(3000)))
    sizes = ["--model", "ngram", "--context", "2", "--dim", "4", "--hidden", "8", "--batch-tokens", "4096"]
    # The length of the run decides the schedule: long enough that nobody reaches the end before he is stopped.
    options = [*sizes, "--steps", "400", "--checkpoint-every", "10", "--deterministic", "--keep", "100"]
    run = tmp_path / "run"
    process = start(3, "train", text, *options, "--out", run)
    wait_for(lambda: len(checkpoints(run)) >= 2, process)
    victims = ranks_of(process)
    assert len(victims) == 3
    os.kill(victims[1], signal.SIGKILL)
    assert finish(process).returncode not in (0, 143)
    assert not ranks_of(process)
    before = checkpoints(run)

    process = start(2, "train", "--resume", run)
    wait_for(lambda: len(checkpoints(run)) >= len(before) + 2, process)
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    # MPICH's mpiexec hands SIGTERM on; that of Open MPI ends the ranks as a kill does.
    if "HYDRA" in subprocess.run([*find_mpiexec(), "--version"], capture_output=True, text=True, check=True).stdout:
        assert done.returncode == 143, done.stderr
        assert done.stderr.count("stopped by SIGTERM after step") == 1
    assert done.returncode != 0
    assert checkpoints(run)[-1] > before[-1]

    done = launch(4, "train", "--resume", run)
    assert done.returncode == 0, done.stderr
    alone = tmp_path / "alone"
    command = [sys.executable, "-m", "fastnll", "train", text, *options, "--out", alone]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    hashes = [
        hashlib.sha256((folder / "checkpoint" / "step-000400" / "model.safetensors").read_bytes()).hexdigest()
        for folder in (run, alone)
    ]
    assert hashes[0] == hashes[1]
    # One process wrote: no step is in the metrics twice, but those that were made again.
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(steps.count(step) for step in steps) <= 3


def test_a_launcher_of_another_mpi_is_noticed(tmp_path: Path) -> None:
    need_mpi()
    other = tmp_path / "mpiexec"
    other.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    done = launch(2, "--mpiexec", other, "info")
    assert done.returncode == 1
    assert "expected 2 ranks, got 1: this mpiexec is not that of the MPI library mpi4py has loaded" in done.stderr


def test_mistakes_are_found_before_anything_is_started(tmp_path: Path) -> None:
    # None of these may get as far as starting ranks.
    nothing = tmp_path / "nothing"
    nothing.write_text("#!/bin/sh\necho started\n")
    nothing.chmod(0o755)
    for arguments, sentence in {
        (): "fastnll launch: COMMAND: expected a command or a script to run, got none",
        ("launch", "-n", "2", "info"): "COMMAND: expected a command or a script to run, got launch again",
        ("train", "--stepz", "3"): "did you mean --steps?",
        ("trian",): "did you mean train?",
    }.items():
        done = launch(2, "--mpiexec", nothing, *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr, done.stderr
        assert "started" not in done.stdout


def test_which_mpiexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTNLL_MPIEXEC", raising=False)
    program = tmp_path / "mpirun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    assert find_mpiexec() == [str(program)]
    assert launch_command(3, ["train"])[:3] == [str(program), "-n", "3"]
    monkeypatch.setenv("FASTNLL_MPIEXEC", f"{program} -hosts a,b")
    assert find_mpiexec() == [str(program), "-hosts", "a,b"]
    assert find_mpiexec(f"{program} -ppn 2") == [str(program), "-ppn", "2"]
    with pytest.raises(OptionError, match="mpiexec: expected a program that can be run, got 'missing -x'"):
        find_mpiexec("missing -x")


def test_what_a_user_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", "core")
    environment = launch_environment(3)
    assert environment["PRTE_MCA_rmaps_default_mapping_policy"] == "core"
    assert environment["OMPI_ALLOW_RUN_AS_ROOT"] == "1"
    assert environment["FASTNLL_RANKS"] == "3"
