"""The entry point of ``fastnll`` and ``python -m fastnll``: finds the subcommand, turns errors into sentences."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NamedTuple

from fastnll.cli.parsing import Parser, UsageError, complaint, deepest, meant, near_files, unknown_option
from fastnll.errors import FastnllError, OptionError

__all__ = ["COMMANDS", "Command", "build_parser", "main"]


class Command(NamedTuple):
    """A subcommand: its name, which is also its module in this package, and what it is for."""

    name: str
    summary: str


# One line here makes a subcommand of a module with `add_parser(subparsers)`, which sets `run(args) -> int`. Its help,
# its messages and its tab completion are then tested with everyone's (tests/cli/test_main.py).
COMMANDS = (
    Command("train", "minimise the negative log-likelihood of a text or an embedded dataset"),
    Command("eval", "the negative log-likelihood of other text under a trained model"),
    Command("data", "look into dataset files, convert them, check that they are whole"),
    Command("bench", "time the kernels against this machine's limit and against the peers installed"),
    Command("profile", "run a script and say where its time goes"),
    Command("launch", "run a command or a script on many processes"),
    Command("roofline", "measure what this machine can do"),
    Command("info", "what this installation is and what it chose; paste it into an issue"),
    Command("completion", "a script that lets bash or zsh complete these commands"),
)
_NAMES = tuple(command.name for command in COMMANDS)

EPILOG = """\
examples:
  fastnll train                      a bigram model of the Python reference, in some seconds
  fastnll train book.txt --model ngram
  fastnll eval runs/ngram-... other.txt

fastnll COMMAND --help has the options of a command. Exit codes: 0 done, 1 failed, 2 a command line that means
nothing, 130 and 143 after Ctrl-C and SIGTERM."""


class _Terminated(BaseException):
    """SIGTERM came; not an Exception, so that nothing on the way takes it for an error of its own."""


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
        with _termination():
            args = _parse(arguments)
            code = int(args.run(args))
            sys.stdout.flush()
            return code
    except SystemExit as stop:
        # argparse ends --help and --version this way.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except UsageError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("fastnll: interrupted", 130)
    except _Terminated:
        return _fail("fastnll: terminated", 143)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody to tell. What is still buffered would
        # raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (FastnllError, OSError, MemoryError) as error:
        if "--traceback" in arguments:
            raise
        sentence = _sentence(error)
        advice = near_files(arguments, sentence)
        return _fail(f"{_name(arguments)}: {sentence}{advice}", 2 if isinstance(error, OptionError) else 1)


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that temporary files are removed on the way out.

    Where somebody else has a say (a handler is set, or this is not the main thread) nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _name(arguments: list[str]) -> str:
    command = _command(arguments)
    return f"fastnll {command}" if command in _NAMES else "fastnll"


def _command(arguments: list[str]) -> str | None:
    """Return the word that stands where a command should, whether it is one or not."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory{f' ({error})' if str(error) else ''}; use a smaller batch, model or file"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def build_parser(chosen: str | None = None) -> Parser:
    """Return the parser of a command, or of all of them.

    Parameters
    ----------
    chosen : str, optional
        Import the module of this command alone and let the others be names: ``fastnll info`` does not wait for
        the training stack. None builds all.

    Examples
    --------
    >>> build_parser("info").parse_args(["info", "--json"]).json
    True
    """
    from fastnll.cli.common import version

    parser = Parser(
        prog="fastnll",
        description="Negative log-likelihood objectives over sequence datasets, minimised with SGD on CPUs.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"fastnll {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=Parser)
    for command in COMMANDS:
        if chosen is None or command.name == chosen:
            module = importlib.import_module(f"fastnll.cli.{command.name}")
            subparser = module.add_parser(commands)
            subparser.add_argument("--traceback", action="store_true", help="show where an error came from")
        else:
            commands.add_parser(command.name, help=command.summary)
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    command = _command(arguments)
    # "": no command's module is needed to say that there is none.
    parser = build_parser(command or "")
    if not arguments:
        parser.print_help(sys.stderr)
        raise UsageError("fastnll: expected a command, got none; 'fastnll train' trains a first model")
    if command is not None and command not in _NAMES and arguments[0] == command:
        raise UsageError(f"fastnll: {_unknown_command(command)}")
    try:
        args, rest = parser.parse_known_args(arguments)
    except UsageError:
        # A misspelt option often makes another argument look missing: the spelling is what has to be said.
        option = unknown_option(parser, arguments)
        if option is None:
            raise
        raise UsageError(complaint("option", option, deepest(parser, arguments))) from None
    if rest:
        kind = "option" if rest[0].startswith("-") else "argument"
        raise UsageError(complaint(kind, rest[0].split("=")[0], deepest(parser, arguments)))
    if args.command is None:
        raise UsageError("fastnll: expected a command; see 'fastnll --help'")
    return args


def _unknown_command(word: str) -> str:
    near = meant(word, _NAMES)
    if near:
        return f"unknown command {word!r}; did you mean {near}?"
    if os.path.isfile(word):
        return f"expected a command, got the file {word!r}; did you mean 'fastnll train {word}'?"
    return f"unknown command {word!r}; see 'fastnll --help'"
