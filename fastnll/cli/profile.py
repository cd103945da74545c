"""``fastnll profile``: where the time of somebody's script goes, without a change to it."""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fastnll.errors import DataError, OptionError

__all__ = ["add_parser", "profiled", "run"]

_SORT = ("wall_time", "self_cpu_time_total", "cpu_time_total", "count", "bytes", "gbps", "limit_share", "faults")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "profile",
        usage="fastnll profile [options] (SCRIPT | -m MODULE) [ARGS ...]\n"
        "       fastnll profile --merge FILE TRACE [TRACE ...]",
        description="Run a Python script as it is and report where its time went: what fastnll moved and computed, how "
        "close to this machine's limits, what was lost to page faults, to waiting for data, and outside fastnll. The "
        "report goes to stderr, after the script's own output; the exit code is the script's.",
        epilog="examples:\n"
        "  fastnll profile train.py --epochs 3\n"
        "  fastnll profile --trace trace.json --plot profile.png train.py\n"
        "  fastnll profile -m mypackage.train --epochs 3\n"
        "  mpiexec -n 2 fastnll profile --trace trace.json train.py   (a file a rank: trace.rank0.json, ...)\n"
        "  fastnll profile --merge trace.json trace.rank0.json trace.rank1.json\n\n"
        "Options of fastnll profile come before SCRIPT; everything behind it is the script's.\n"
        "Traces open at ui.perfetto.dev.",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("--json", metavar="FILE", help="write summary, table, steps and advice as JSON ('-': stdout)")
    parser.add_argument("--trace", metavar="FILE", help="write a Chrome trace (.json or .json.gz)")
    parser.add_argument("--plot", metavar="FILE", help="draw where a step goes and the roofline (png, svg, pdf)")
    parser.add_argument(
        "--sort-by",
        choices=_SORT,
        default="wall_time",
        metavar="COLUMN",
        help=f"of the table: {', '.join(_SORT)} (default: wall_time)",
    )
    parser.add_argument(
        "--limits",
        choices=("cached", "measure", "none"),
        default="cached",
        help="compare with the limits that 'fastnll roofline' has kept (default), measure missing ones, or neither",
    )
    parser.add_argument("--merge", metavar="FILE", help="run nothing; put the traces of several ranks into FILE")
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="Python file (or module) to run")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARGS", help="its arguments")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        The script's exit code; 1 for an exception, 130 after Ctrl-C.

    Raises
    ------
    OptionError, DataError
        No script, one that is not there, a file that cannot be written.
    """
    from fastnll.profiling import merge_traces, profile

    if args.merge:
        try:
            merge_traces([*([args.script] if args.script else []), *args.args], args.merge)
        except ValueError as error:
            raise DataError(f"--merge: {error}") from error
        return 0
    if not args.script:
        raise OptionError("SCRIPT: expected a Python file to run, got none")
    if not args.module and not os.path.exists(args.script):
        raise DataError(f"{args.script}: no such file")
    prof = profile(limits=None if args.limits == "none" else args.limits)
    with _as_main(args.script, args.args, args.module), prof:
        code = _call(args.script, args.module)
    prof.trim()
    sys.stdout.flush()
    _say(prof, args.sort_by, args.json, args.trace, args.plot)
    return code


@contextlib.contextmanager
def _as_main(script: str, arguments: Sequence[str], module: bool) -> Iterator[None]:
    """Give the script the `sys.argv` and the `sys.path` it would have had."""
    argv, path = sys.argv, sys.path[:]
    sys.argv = [script, *arguments]
    # The folder of the script, as ``python SCRIPT`` has it; for a module the one we are in.
    first = os.getcwd() if module else os.path.dirname(os.path.abspath(script))
    sys.path.insert(0, first)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


def _call(script: str, module: bool) -> int:
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return int(stop.code or 0)
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        # As Python would have shown it: without the frames of this file and of runpy.
        traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame of the script on."""
    frame = trace
    while frame is not None and frame.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        frame = frame.tb_next
    # Frozen importlib frames stay: an error in the script's own imports is told there.
    return frame if frame is not None else None


def _say(prof: Any, sort_by: str, json: str | None, trace: str | None, plot: str | None) -> None:
    """Print the report (rank 0 alone) and write the files, one a rank where there are several."""
    rank, size = prof.recording.rank, prof.recording.size
    if not prof.recording.events:
        print("fastnll profile: the script did not call fastnll; there is nothing to report", file=sys.stderr)
        return
    try:
        if rank == 0:
            print(f"\n{prof.report(sort_by)}", file=sys.stderr)
        if trace:
            prof.export_chrome_trace(_of_rank(trace, rank, size))
        if json == "-":
            sys.stdout.write(_json_text(prof))
        elif json:
            prof.export_json(_of_rank(json, rank, size))
        if plot and rank == 0:
            prof.plot(plot)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be written: {error.strerror}") from error
    except (ImportError, ValueError) as error:
        raise OptionError(f"--plot: {error}") from error


def _json_text(prof: Any) -> str:
    from fastnll.profiling.report import json_text

    return json_text(prof.analysis) + "\n"


def _of_rank(path: str, rank: int, size: int) -> str:
    """Return the file of one rank.

    Examples
    --------
    >>> _of_rank("out/trace.json.gz", 1, 2), _of_rank("trace.json", 0, 1)
    ('out/trace.rank1.json.gz', 'trace.json')
    """
    if size == 1:
        return path
    folder, name = os.path.split(path)
    stem, dot, suffix = name.partition(".")
    return os.path.join(folder, f"{stem}.rank{rank}{dot}{suffix}")


@contextlib.contextmanager
def profiled(folder: Path | None) -> Iterator[None]:
    """Profile a block and leave profile.json, trace.json and profile.png in a folder; None profiles nothing.

    The report goes to stderr. Without matplotlib the picture is left out.
    """
    if folder is None:
        yield
        return
    from fastnll.profiling import profile

    prof = profile()
    try:
        with prof:
            yield
    finally:
        if prof.recording.events:
            rank, size = prof.recording.rank, prof.recording.size
            if rank == 0:
                print(f"\n{prof.report()}\n", file=sys.stderr)
            prof.export_chrome_trace(_of_rank(str(folder / "trace.json"), rank, size))
            prof.export_json(_of_rank(str(folder / "profile.json"), rank, size))
            with contextlib.suppress(ImportError):
                prof.plot(folder / "profile.png")
