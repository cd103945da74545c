"""``fastnll bench``: the kernels against the machine's limit and against every peer that is installed."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastnll.cli.common import number, whole
from fastnll.config import resolve_threads
from fastnll.errors import DataError, OptionError
from fastnll.profiling.roofline import format_bytes

__all__ = ["add_parser", "run"]

_PACKAGES = ("fastnll", "numpy", "numba", "scipy", "scikit-learn", "torch", "jax")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    from fastnll.bench.cases import GROUPS, ITEMSIZES

    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="time the kernels against this machine's limit and against the peers installed",
        description="Check every contender's result, then time those that are right, in turns. Columns: time, GB/s of "
        "the model (each array once), the limit that binds (memory by kind of traffic, or exp), the share of it, the "
        "worst error in units in the last place, and how many times longer each peer takes.",
        epilog="groups:\n"
        + "".join(f"  {name:<10}{text}\n" for name, text in GROUPS.items())
        + "\nexamples:\n  fastnll bench --quick\n  fastnll bench --ops 2048x32000 --peers torch --json run.json"
        + "\n  fastnll bench --all --json run.json --report run.html"
        + "\n  fastnll bench --from run.json --plot run.png --markdown - --report run.html",
    )
    parser.add_argument("--all", action="store_true", help="every case of the table (default: the headline ones)")
    parser.add_argument("--quick", action="store_true", help="small shapes: a check of correctness, rough times")
    parser.add_argument("--ops", nargs="+", default=[], metavar="WORD", help="cases with this op, shape or mode")
    parser.add_argument(
        "--group", nargs="+", default=[], metavar="GROUP", choices=list(GROUPS), help="cases of these groups"
    )
    dtypes = ", ".join(ITEMSIZES)
    parser.add_argument("--dtype", nargs="+", default=[], metavar="DTYPE", choices=list(ITEMSIZES), help=dtypes)
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="only these peers (none: only fastnll)")
    parser.add_argument("--threads", type=whole(1), metavar="N", help="threads of every contender")
    parser.add_argument("--seconds", type=number(0.0, above=True), metavar="S", help="for each contender and case (2)")
    parser.add_argument("--no-accuracy", action="store_true", help="leave the accuracy table out")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of every contender too")
    parser.add_argument("--end-to-end", action="store_true", help="measure the training of a neural n-gram model too")
    parser.add_argument("--json", metavar="FILE", help="write the run, with every raw time ('-': print it alone)")
    parser.add_argument("--report", metavar="FILE", help="write one HTML page: tables, charts, memory, end to end")
    parser.add_argument("--pictures", metavar="FOLDER", help="write speed.svg and memory.svg, as the README shows them")
    parser.add_argument("--plot", metavar="FILE", help="draw the run (png, svg, pdf)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown, machine named ('-': print it)")
    parser.add_argument("--from", dest="source", metavar="FILE", help="show a run that --json wrote; measure nothing")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 1 if one of fastnll's own backends was left out of a case as wrong or failing; 130 after Ctrl-C, with what
        had been measured by then shown and written.

    Raises
    ------
    OptionError, DataError
        For arguments that mean nothing, and files that cannot be read or written.
    """
    with contextlib.redirect_stdout(sys.stderr if args.json == "-" else sys.stdout):
        result, stopped = (_load(args.source), False) if args.source else _measure(args)
        if args.source:
            _print_run(result)
    _write(args, result)
    from fastnll.bench.contenders import OURS

    return 130 if stopped else int(any(name in OURS for case in result["cases"] for name in case["left_out"]))


def _load(source: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(Path(source).read_text())
        if result["format"] != 1:
            raise DataError(f"{source}: expected a run of format 1, got {result['format']!r}; measure again")
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: expected JSON from fastnll bench --json, got something else ({error})") from error
    return result


def _measure(args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The run, and whether it was stopped before its end."""
    from fastnll.bench import report
    from fastnll.bench.accuracy import LIBRARIES, AccuracyRow, measure_accuracy
    from fastnll.bench.cases import select_cases
    from fastnll.bench.contenders import CONTENDERS, select_contenders
    from fastnll.bench.measure import QUICK, Effort, measure_case

    threads = resolve_threads(args.threads)
    every = args.all or args.quick or bool(args.ops or args.group or args.dtype)
    cases = select_cases(words=args.ops, groups=args.group, dtypes=args.dtype, quick=args.quick, headline=not every)
    names, missing = select_contenders(args.peers, quick=args.quick)
    effort = QUICK if args.quick else Effort(seconds=2.0 if args.seconds is None else args.seconds)
    machine = _machine(threads)
    limits = None
    if not args.quick:
        from fastnll.profiling import load_or_measure

        limits = load_or_measure(threads).to_dict()
    print(f"{machine['cpu']}, {threads} threads, {machine['system']}, backend {machine['backend']}")
    here = {case.group for case in cases}
    columns = [
        name
        for name, entry in CONTENDERS.items()
        if name in names and name != "native" and (not entry.groups or here.intersection(entry.groups))
    ]
    print(report.header_line(columns), flush=True)
    done: list[dict[str, Any]] = []
    rows: list[AccuracyRow] = []
    more: dict[str, list[dict[str, Any]]] = {"memory": [], "end_to_end": []}
    stopped = False
    try:
        for case in _progress(cases):
            entry = report.case_dict(measure_case(case, names, threads, effort))
            done.append(entry)
            _say(report.case_line(entry, columns))
        if not args.no_accuracy:
            compared = tuple(name for name in LIBRARIES if name in names)
            rows = list(measure_accuracy(quick=args.quick, libraries=compared))
        for key, measured in _more(args, names, threads):
            more[key].append(measured)
    except KeyboardInterrupt:
        # A whole run takes half an hour: what it has measured so far is kept.
        stopped = True
        _say(f"stopped after {len(done)} of {len(cases)} cases")
    result = {**report.run_dict(done, rows, machine, limits), **more}
    _print_notes(result, missing)
    return result, stopped


def _more(args: argparse.Namespace, names: list[str], threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a report shows beside the cases: peak memory and training, as keys of the run and rows."""
    from fastnll.bench.end_to_end import measure_end_to_end
    from fastnll.bench.memory import measure_memory

    if args.memory or args.report:
        whole = [name for name in names if not name.startswith("native-") and name not in ("scalar", "reference")]
        for row in measure_memory(whole, threads, quick=args.quick):
            _say(f"memory: {row['case']}, {row['contender']}: {row.get('left_out') or format_bytes(row['peak_bytes'])}")
            yield "memory", row
    if args.end_to_end or args.report:
        for row in measure_end_to_end(names, threads, quick=args.quick, rounds=1 if args.quick else 5):
            speed = row.get("left_out") or f"{row['tokens_per_second']:,.0f} tokens/s"
            _say(f"training: {row['job']}, {row['contender']}: {speed}")
            yield "end_to_end", row


def _machine(threads: int) -> dict[str, Any]:
    from fastnll.kernels import registry
    from fastnll.profiling import describe

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        **describe().to_dict(),
        "threads": threads,
        "backend": registry.backend_name(),
        "isa": registry.isa_name(),
        "python": sys.version.split()[0],
        "versions": versions,
    }


def _progress(cases: list[Any]) -> Any:
    from tqdm import tqdm

    return tqdm(cases, desc="bench", unit="case", disable=None, leave=False)


def _say(line: str) -> None:
    """Print a line above the progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def _print_run(result: dict[str, Any]) -> None:
    from fastnll.bench import report

    machine, columns = result["machine"], report.peer_columns(result["cases"])
    print(f"{machine['cpu']}, {machine['threads']} threads, {machine['system']}, {result['date']}")
    print(report.header_line(columns))
    for case in result["cases"]:
        print(report.case_line(case, columns))
    _print_notes(result, {})


def _print_notes(result: dict[str, Any], missing: dict[str, str]) -> None:
    from fastnll.bench import report

    print("\nx: times as long as fastnll; * allocates its result where the case does not; ! left out; - has no such op")
    left_out = report.left_out_lines(result["cases"], missing)
    if left_out:
        print("\nleft out:\n  " + "\n  ".join(left_out))
    if result["accuracy"]:
        print("\n" + "\n".join(report.accuracy_table(result["accuracy"])))
    sys.stdout.flush()


def _write(args: argparse.Namespace, result: dict[str, Any]) -> None:
    from fastnll.bench import report

    try:
        if args.json == "-":
            print(json.dumps(result, indent=1))
        elif args.json:
            temporary = f"{args.json}.part"
            Path(temporary).write_text(json.dumps(result, indent=1))
            os.replace(temporary, args.json)
        if args.markdown == "-":
            print(report.markdown(result))
        elif args.markdown:
            Path(args.markdown).write_text(report.markdown(result) + "\n")
        if args.report:
            from fastnll.bench.report_html import write_report

            write_report(result, args.report)
        if args.pictures:
            from fastnll.bench.pictures import draw_pictures

            draw_pictures(result, args.pictures)
        if args.plot:
            _plot(result, args.plot)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be written: {error.strerror}") from error


def _plot(result: dict[str, Any], path: str) -> None:
    from fastnll.bench.picture import draw_run

    try:
        draw_run(result, path)
    except (ImportError, ValueError) as error:
        raise OptionError(f"--plot: {error}") from error
