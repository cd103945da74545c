"""The page of the command line: what ``fastnll COMMAND --help`` prints, so that there is one text of each."""

from __future__ import annotations

import os
from unittest import mock

from sphinx.application import Sphinx

MARK = "<!-- the help of every command -->"


def _help() -> str:
    from fastnll.cli.main import COMMANDS, build_parser
    from fastnll.cli.parsing import commands_of

    parts = []
    with mock.patch.dict(os.environ, COLUMNS="100"):
        commands = commands_of(build_parser())
        for command in COMMANDS:
            parser = commands[command.name]
            parts.append(f"## fastnll {command.name}\n\n```text\n{parser.format_help()}```\n")
            for name, child in commands_of(parser).items():
                parts.append(f"### fastnll {command.name} {name}\n\n```text\n{child.format_help()}```\n")
    return "\n".join(parts)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, _help())


def setup(app: Sphinx) -> dict[str, bool]:
    """Fill in the mark when a page is read."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
