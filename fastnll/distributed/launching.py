"""How the processes of a job are started: which mpiexec, with which command and environment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from fastnll.errors import BackendError, OptionError

__all__ = ["RANKS", "find_mpiexec", "launch_command", "launch_environment"]

# How many ranks a process was started as one of: a launcher of another MPI starts n jobs of one rank each, and nothing
# else would tell.
RANKS = "FASTNLL_RANKS"

# Open MPI refuses to run as root (as in containers) and more ranks than cores, and binds each rank to one core, which
# starves its threads. Where somebody has decided otherwise these say nothing; MPICH does not know them.
_OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}


def find_mpiexec(given: str | None = None) -> list[str]:
    """Return the command that starts ranks: the program and its own arguments.

    Parameters
    ----------
    given : str, optional
        Command line to use. Default: ``FASTNLL_MPIEXEC``; else the mpiexec of this Python's environment, which is the
        one that ``pip install mpich`` brings; else that of the PATH, a site's own.

    Raises
    ------
    BackendError
        There is none.
    OptionError
        A given one that is not there.

    Examples
    --------
    >>> find_mpiexec(f"{sys.executable} -x")[1:]
    ['-x']
    """
    text = given or os.environ.get("FASTNLL_MPIEXEC")
    if text:
        command = shlex.split(text)
        program = shutil.which(command[0]) if command else None
        if program is None:
            raise OptionError(f"mpiexec: expected a program that can be run, got {text!r}")
        return [program, *command[1:]]
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), None):
        for name in ("mpiexec", "mpirun"):
            program = shutil.which(name, path=folder)
            if program is not None:
                return [program]
    raise BackendError(
        "mpiexec: expected one in this environment or on the PATH, got none; pip install 'fastnll[mpi]', load your "
        "site's MPI, or name it with --mpiexec"
    )


def launch_command(n: int, arguments: Sequence[str], *, mpiexec: str | None = None) -> list[str]:
    """Return the command line that runs a fastnll command, or a script, on n ranks.

    Examples
    --------
    >>> launch_command(2, ["train"], mpiexec=f"{sys.executable} -x")[1:4]
    ['-x', '-n', '2']
    """
    return [*find_mpiexec(mpiexec), "-n", str(n), sys.executable, "-m", "fastnll.cli.rank", *arguments]


def launch_environment(n: int) -> dict[str, str]:
    """Return the environment for `launch_command`: this one, and what ranks need beside it."""
    return {**_OPEN_MPI, **os.environ, RANKS: str(n)}
