"""Command lines: a parser whose mistakes are one sentence each, and what a user may have meant."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Parser", "UsageError", "commands_of", "complaint", "deepest", "meant", "near_files", "unknown_option"]

# How a sentence ends that says of a file that it is missing, and nothing more.
_NOT_THERE = ("no such file", "no such folder", "no such file or directory", "not a directory")


class UsageError(Exception):
    """A command line that means nothing; exit code 2."""


class _Help(argparse.HelpFormatter):
    """Fills paragraphs, but leaves text that comes in lines (examples) as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "".join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one sentence with what to do next, and no option is guessed from a prefix."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": _Help, **options})

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a page of usage."""
        raise UsageError(f"{self.prog}: {message}; see '{self.prog} --help'")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own sentence differs between Python versions, and suggests nothing.
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = meant(str(value), choices)
        advice = f"; did you mean {near}?" if near else ""
        raise argparse.ArgumentError(action, f"expected one of {', '.join(choices)}, got {str(value)!r}{advice}")


def meant(got: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that is nearest to what was typed, if any is near.

    Examples
    --------
    >>> meant("trian", ["train", "eval"]), meant("xyzzy", ["train", "eval"])
    ('train', None)
    """
    near = difflib.get_close_matches(got, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the subcommands of a parser by name; empty if it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def deepest(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the subcommand, or subcommand's subcommand, that the arguments name."""
    for argument in arguments:
        children = commands_of(parser)
        if argument in children:
            parser = children[argument]
    return parser


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def unknown_option(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str | None:
    """Return the first long option that the parser of these arguments does not have."""
    known = _options(deepest(parser, arguments))
    for argument in arguments:
        if argument == "--":
            return None
        name = argument.split("=")[0]
        if name.startswith("--") and name not in known:
            return name
    return None


def complaint(kind: str, got: str, parser: argparse.ArgumentParser) -> str:
    """Return the sentence about an option or argument that `parser` does not have."""
    near = meant(got, _options(parser))
    advice = f"did you mean {near}?" if near else f"see '{parser.prog} --help'"
    return f"{parser.prog}: unknown {kind} {got!r}; {advice}"


def near_files(arguments: Iterable[str], sentence: str) -> str:
    """Return advice about the file that the sentence says is not there; "" if there is none.

    Parameters
    ----------
    arguments : iterable of str
        Of the command line; those that are missing files, and that the sentence begins with, count.
    sentence : str
        Advised on only if it ends by saying that nothing is there: one that is about something else, or that says
        what to do, is complete.

    Examples
    --------
    >>> near_files(["no-such-folder/book.txt"], "no-such-folder/book.txt: no such file")
    "; there is no folder 'no-such-folder'"
    """
    if not sentence.lower().endswith(_NOT_THERE):
        return ""
    for path in _missing(arguments, sentence):
        outermost = next((part for part in reversed(Path(path).parents) if not part.is_dir()), None)
        if outermost is not None:
            called = repr(str(outermost))
            return f"; {called} is a file, not a folder" if outermost.exists() else f"; there is no folder {called}"
        folder, name = os.path.split(path)
        try:
            there = sorted(os.listdir(folder or "."))
        except PermissionError:
            continue
        near = meant(name, [entry for entry in there if not entry.startswith(".")])
        if near:
            return f"; did you mean {os.path.join(folder, near)!r}?"
    return ""


def _missing(arguments: Iterable[str], sentence: str) -> Iterator[str]:
    for argument in arguments:
        path = argument.partition("=")[2] if argument.startswith("--") else argument
        if path and not path.startswith("-") and sentence.startswith(path) and not os.path.lexists(path):
            yield path
