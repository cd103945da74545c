"""The entry point of ``fastnll`` and ``python -m fastnll``: finds the subcommand, turns errors into sentences."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from fastnll.errors import FastnllError, OptionError

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A subcommand: its name, which is also its module in this package, and what it is for."""

    name: str
    summary: str


# One line here makes a subcommand of a module with `add_parser(subparsers)`, which sets `run(args) -> int`.
COMMANDS = (
    Command("train", "minimise the negative log-likelihood of a text or an embedded dataset"),
    Command("eval", "the negative log-likelihood of other text under a trained model"),
    Command("bench", "time the kernels against this machine's limit and against the peers installed"),
    Command("roofline", "measure what this machine can do"),
    Command("info", "what this installation is and what it chose; paste it into an issue"),
)

EPILOG = """\
examples:
  fastnll train                      a bigram model of the Python reference, in some seconds
  fastnll train book.txt --model ngram
  fastnll eval runs/ngram-... other.txt

fastnll COMMAND --help has the options of a command."""


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name. Default: those of the process.

    Returns
    -------
    int
        0 for success, 1 for a failure, 2 for a command line or an option that means nothing, 128 + n after
        signal n. Messages go to stderr.

    Examples
    --------
    >>> main(["info", "--json"]) == 0          # doctest: +ELLIPSIS
    {...}
    True
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(arguments)
        return int(args.run(args))
    except SystemExit as stop:
        # argparse ends --help and --version this way.
        return int(stop.code or 0)
    except UsageError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("fastnll: interrupted", 130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody to tell. What is still buffered would
        # raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (FastnllError, OSError, MemoryError) as error:
        if "--traceback" in arguments:
            raise
        return _fail(f"{_name(arguments)}: {_sentence(error)}", 2 if isinstance(error, OptionError) else 1)


def _name(arguments: list[str]) -> str:
    command = _command(arguments)
    return f"fastnll {command}" if command else "fastnll"


def _command(arguments: list[str]) -> str | None:
    names = [command.name for command in COMMANDS]
    return next((argument for argument in arguments if argument in names), None)


def _sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory{f' ({error})' if str(error) else ''}; use a smaller batch, model or file"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    from fastnll.cli.common import version

    subparser: argparse.ArgumentParser
    parser = Parser(
        prog="fastnll",
        description="Negative log-likelihood objectives over sequence datasets, minimised with SGD on CPUs.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"fastnll {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=Parser)
    chosen, subparser = _command(arguments), parser
    for command in COMMANDS:
        if command.name == chosen:
            # Only the module that runs is imported: `fastnll info` does not wait for the training stack.
            subparser = importlib.import_module(f"fastnll.cli.{command.name}").add_parser(commands)
            subparser.add_argument("--traceback", action="store_true", help="show where an error came from")
        else:
            commands.add_parser(command.name, help=command.summary)
    if not arguments:
        parser.print_help(sys.stderr)
        raise UsageError("fastnll: expected a command, got none; 'fastnll train' trains a first model")
    if chosen is None and not arguments[0].startswith("-"):
        raise UsageError(_unknown("command", arguments[0], [command.name for command in COMMANDS], parser))
    args, rest = parser.parse_known_args(arguments)
    if rest:
        flags = [flag for action in subparser._actions for flag in action.option_strings]
        kind = "option" if rest[0].startswith("-") else "argument"
        raise UsageError(_unknown(kind, rest[0].split("=")[0], flags, subparser))
    if args.command is None:
        raise UsageError("fastnll: expected a command; see 'fastnll --help'")
    return args


def _unknown(kind: str, got: str, known: list[str], parser: argparse.ArgumentParser) -> str:
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.6)
    advice = f"did you mean {near[0]}?" if near else f"see '{parser.prog} --help'"
    return f"{parser.prog}: unknown {kind} {got!r}; {advice}"
