"""What `fastnll launch` runs on every rank: a fastnll command, or a script, as one process of a job."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["main"]

# How long a rank that failed waits for the others to fail too, before it ends the job. What is wrong on all ranks (an
# option, a missing file) then is said once, and an error of one rank ends the others in half a second.
_PATIENCE = 0.5
# After a signal (128 + its number), which all ranks were sent: rank 0 has a report to write before it leaves.
_AFTER_SIGNAL = 30.0


def main(arguments: Sequence[str]) -> int:
    """Run a command line on this rank and return its exit code; end all ranks if it fails on one.

    Parameters
    ----------
    arguments : sequence of str
        Of ``fastnll``, or a script that ends in ``.py`` and its own.

    Notes
    -----
    Only rank 0 prints. What another rank would have printed to stderr appears, with its number, if that
    rank fails and rank 0 does not.
    """
    from fastnll.cli.main import _fail
    from fastnll.distributed.launching import RANKS
    from fastnll.distributed.ranks import activate
    from fastnll.errors import FastnllError

    try:
        ranks = activate()
    except FastnllError as error:
        return _fail(f"fastnll launch: {error}", 1)
    expected = int(os.environ.get(RANKS, ranks.size))
    if ranks.size != expected:
        library = _library()
        return _fail(
            f"fastnll launch: expected {expected} ranks, got {ranks.size}: this mpiexec is not that of the MPI library "
            f"mpi4py has loaded ({library}); name the right one with --mpiexec",
            1,
        )
    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        if not ranks.root:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            stack.enter_context(contextlib.redirect_stderr(said))
        stack.enter_context(_cores(ranks.comm))
        code = _run(list(arguments))
        sys.stdout.flush()
    _end(ranks, code, said.getvalue())
    return code


def _run(arguments: list[str]) -> int:
    from fastnll.cli.main import main as command

    try:
        if not arguments[0].endswith(".py"):
            return command(arguments)
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")
        return 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        # Whatever it is, the other ranks have to hear of it.
        traceback.print_exc()
        return 1


@contextlib.contextmanager
def _cores(comm: Any) -> Iterator[None]:
    """Give this rank its share of the machine's cores, unless the user has decided on threads."""
    from threadpoolctl import threadpool_limits

    from fastnll.config import using
    from fastnll.distributed.ranks import share_of_cores

    share = share_of_cores(comm)
    if any(os.environ.get(name) for name in ("FASTNLL_NUM_THREADS", "OMP_NUM_THREADS")):
        yield
        return
    with using(threads=share), threadpool_limits(share):
        yield


def _end(ranks: Any, code: int, said: str) -> None:
    """Leave together with the other ranks, or take them along."""
    from fastnll.distributed.ranks import end_all

    request = ranks.comm.Ibarrier()
    waited_until = time.monotonic() + (_AFTER_SIGNAL if code > 128 else _PATIENCE)
    while not request.Test():
        if code and time.monotonic() > waited_until:
            # The others are in a collective that this rank will never join.
            print("".join(f"rank {ranks.rank}: {line}\n" for line in said.splitlines()), end="", file=sys.stderr)
            end_all(ranks.comm, code)
        time.sleep(0.001)
    codes = ranks.comm.allgather(code)
    if code and not codes[0] and codes.index(max(codes)) == ranks.rank:
        print("".join(f"rank {ranks.rank}: {line}\n" for line in said.splitlines()), end="", file=sys.stderr)


def _library() -> str:
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().split()[:3])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
