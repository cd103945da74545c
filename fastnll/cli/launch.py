"""``fastnll launch``: a command or a script on many processes."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fastnll.cli.common import whole
from fastnll.errors import OptionError

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "launch",
        description="Run a fastnll command, or a Python script, on several processes that share its work over MPI. "
        "Needs mpi4py and an MPI library: pip install 'fastnll[mpi]', or your site's own. The processes on a machine "
        "share out its cores, unless FASTNLL_NUM_THREADS, OMP_NUM_THREADS or --threads says otherwise.",
        epilog="examples:\n"
        "  fastnll launch -n 4 train book.txt --model ngram\n"
        "  fastnll launch -n 4 eval runs/first other.txt\n"
        "  fastnll launch -n 8 --mpiexec 'mpiexec -hosts a,b -ppn 4' script.py --its-own option",
    )
    parser.add_argument("-n", "--ranks", type=whole(1), required=True, metavar="N", help="number of processes")
    parser.add_argument(
        "--mpiexec",
        metavar="COMMAND",
        help="what starts them, with options of its own (default: FASTNLL_MPIEXEC, this environment's, the PATH's)",
    )
    parser.add_argument("command_line", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="what to run")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Start the processes, wait for them, and return their exit code."""
    from fastnll.distributed import launch_command, launch_environment

    rest: Sequence[str] = args.command_line
    if not rest or rest[0] == "launch":
        got = "launch again" if rest else "none"
        raise OptionError(f"COMMAND: expected a command or a script to run, got {got}; fastnll launch -n 4 train")
    if not rest[0].endswith(".py"):
        # A mistake is found here, once, before any process is started.
        from fastnll.cli.main import _parse

        _parse(list(rest))
    sys.stdout.flush()
    process = subprocess.Popen(
        launch_command(args.ranks, rest, mpiexec=args.mpiexec), env=launch_environment(args.ranks)
    )
    with _forwarding(process):
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand signals on to mpiexec, which hands them to the ranks; Ctrl-C has reached it already."""

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, forward),
    }
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
