"""``fastnll info``: what to paste into an issue."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        description="Version, processor, backends and why one is missing, threads, packages.",
        epilog="examples:\n  fastnll info\n  fastnll info --json",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    import fastnll as fn

    report = fn.info()
    print(json.dumps(report.to_dict(), indent=2) if args.json else report)
    return 0
