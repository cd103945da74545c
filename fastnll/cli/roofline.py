"""``fastnll roofline``: what this machine's memory and arithmetic allow."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fastnll.cli.common import whole
from fastnll.config import resolve_threads
from fastnll.errors import OptionError

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "roofline",
        help="measure the limits of this machine",
        description="Measure what this machine's memory, exp and matrix product can do with the threads in use. "
        "The result is kept in the user's cache folder and shown again until --refresh.",
        epilog="examples:\n  fastnll roofline\n  fastnll roofline --refresh --plot roofline.png",
    )
    parser.add_argument("--threads", type=whole(1), metavar="N", help="threads of every probe (default: those in use)")
    parser.add_argument("--refresh", action="store_true", help="measure again")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--plot", metavar="FILE", help="draw the limits (png, svg, pdf)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status.

    Raises
    ------
    OptionError
        For a thread count below 1, or a picture without matplotlib or in a format it does not know.
    """
    from fastnll.profiling import cache_path, load_or_measure

    threads = resolve_threads(args.threads)
    limits = load_or_measure(threads, refresh=args.refresh)
    if args.json:
        print(json.dumps(limits.to_dict(), indent=1))
    else:
        print(limits.table())
        kept = cache_path(threads)
        if kept.exists():
            print(f"\nkept in {kept}; --refresh measures again")
    if args.plot:
        from fastnll.profiling.picture import draw_roofline

        try:
            draw_roofline(limits, args.plot)
        except (ImportError, ValueError, OSError) as error:
            raise OptionError(f"--plot: {error}") from error
    return 0
