"""Starting jobs from tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastnll.distributed import find_mpiexec
from fastnll.errors import FastnllError

ROOT = Path(__file__).parents[2]
# What tells a process that it is part of a job already.
_JOB = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "SLURM_", "HYDRA_", "HYDI_", "FASTNLL_", "OMP_")
TIMEOUT = 300


def need_mpi() -> None:
    """Skip where no job can be started."""
    pytest.importorskip("mpi4py", reason="needs the extra mpi: mpi4py")
    try:
        find_mpiexec()
    except FastnllError as error:
        pytest.skip(f"needs the extra mpi: {error}")


def start(n: int, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Start ``fastnll launch`` in a session of its own, so that nothing of it outlives the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_JOB)}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "fastnll", "launch", "-n", str(n), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a job; one that hangs is ended and fails the test."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the job did not end in {TIMEOUT} s; it printed {out!r} and {err!r}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def launch(n: int, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``fastnll launch -n N ...`` to its end."""
    return finish(start(n, *arguments, **variables))
