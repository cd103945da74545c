"""``fastnll completion``: what bash and zsh need to complete the commands, made from the parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastnll.cli.parsing import commands_of

__all__ = ["Node", "add_parser", "all_nodes", "bash", "run", "tree", "zsh"]


@dataclass(frozen=True)
class Value:
    """What follows an option or stands at a position: words to choose from, files, or something to be typed."""

    name: str
    words: tuple[str, ...] = ()
    files: bool = False
    many: bool = False


@dataclass(frozen=True)
class Option:
    """The flags of one option, what it is for, and its value if it takes one."""

    flags: tuple[str, ...]
    help: str
    value: Value | None
    repeats: bool = False


@dataclass
class Node:
    """A command: the words that lead to it, its options, positions and subcommands (with their summaries)."""

    path: tuple[str, ...]
    options: list[Option] = field(default_factory=list)
    positions: list[Value] = field(default_factory=list)
    children: dict[str, str] = field(default_factory=dict)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "completion",
        help="a script that lets bash or zsh complete these commands",
        description="Print a script that completes commands, options and their values. To have it in every shell, "
        "write it where the shell looks.",
        epilog="examples:\n"
        "  fastnll completion bash > ~/.local/share/bash-completion/completions/fastnll\n"
        "  fastnll completion zsh > ~/.zfunc/_fastnll\n\n"
        "for this shell alone:\n"
        '  eval "$(fastnll completion bash)"\n\n'
        "zsh needs, in ~/.zshrc: fpath+=~/.zfunc; autoload -U compinit; compinit",
    )
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell to write for")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print(bash(all_nodes()) if args.shell == "bash" else zsh(all_nodes()), end="")
    return 0


def all_nodes() -> list[Node]:
    """Return every command of ``fastnll``, the root first.

    Examples
    --------
    >>> all_nodes()[0].children["info"]
    'what this installation is and what it chose; paste it into an issue'
    """
    from fastnll.cli.main import COMMANDS, build_parser

    nodes = list(tree(build_parser()))
    nodes[0].children = {command.name: command.summary for command in COMMANDS}
    return nodes


def tree(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Node]:
    """Yield a parser and all subcommands below it, parents first."""
    node = Node(path)
    summaries: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {pseudo.dest: _line(pseudo.help) for pseudo in action._choices_actions}
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            repeats = isinstance(action, argparse._AppendAction)
            node.options.append(Option(tuple(action.option_strings), _line(action.help), _value(action), repeats))
        else:
            value = _value(action)
            node.positions += [value] if value else []
    children = commands_of(parser)
    node.children = {
        name: summaries.get(name) or _line(child.description).split(". ")[0] for name, child in children.items()
    }
    yield node
    for name, child in children.items():
        yield from tree(child, (*path, name))


def _line(text: str | None) -> str:
    return " ".join((text or "").replace("%%", "%").split())


def _value(action: argparse.Action) -> Value | None:
    if action.nargs == 0:
        return None
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    many = action.nargs in ("*", "+", argparse.REMAINDER) or (isinstance(action.nargs, int) and action.nargs > 1)
    if action.choices is not None:
        return Value(name, tuple(str(choice) for choice in action.choices), many=many)
    # A number has a type of its own; text that is not called a name or a word is a path in all our commands.
    return Value(name, files=action.type in (None, str, Path) and name not in ("NAME", "WORD"), many=many)


_BASH = """\
# bash completion for fastnll; made by: fastnll completion bash
_fastnll() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} path="" words="" files="" i
    # --option=value arrives as three words
    if [[ $cur == "=" ]]; then cur=""; elif [[ $prev == "=" ]]; then prev=${{COMP_WORDS[COMP_CWORD - 2]}}; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path/${{COMP_WORDS[i]}}" in
            {paths}) path="$path/${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$path $prev" in
{values}
        *)
            case "$path" in
{nodes}
            esac
            ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if [[ -n $files && $cur != -* ]]; then
        compopt -o filenames 2>/dev/null
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$cur"))
    fi
}}
complete -F _fastnll fastnll
"""


def bash(nodes: list[Node]) -> str:
    """Return the script for bash 3.2 and later, without the bash-completion package.

    Examples
    --------
    >>> from fastnll.cli.main import build_parser
    >>> bash(list(tree(build_parser("completion")))).splitlines()[-1]
    'complete -F _fastnll fastnll'
    """
    paths = ["/" + "/".join(node.path) for node in nodes if node.path]
    values, bodies = [], []
    for node in nodes:
        path = "".join(f"/{name}" for name in node.path)
        for option in node.options:
            if option.value:
                pattern = " | ".join(f'"{path} {flag}"' for flag in option.flags)
                # After an option that takes many values come more of them, or the next option.
                offered = " ".join(option.value.words)
                body = f'words="{offered}"' if offered else "files=1" if option.value.files else ":"
                values.append(f"        {pattern}) {body} ;;")
        flags = [flag for option in node.options for flag in option.flags]
        words = [word for value in node.positions for word in value.words]
        files = " files=1" if any(value.files for value in node.positions) else ""
        plain = " ".join([*node.children, *words])
        bodies.append(
            f'                "{path}") words="{plain}"; [[ $cur == -* ]] && words="{" ".join(flags)}";{files} ;;'
        )
    return _BASH.format(paths=" | ".join(paths), values="\n".join(values), nodes="\n".join(bodies))


def zsh(nodes: list[Node]) -> str:
    """Return the script for zsh: the same, with what every option is for.

    Examples
    --------
    >>> from fastnll.cli.main import build_parser
    >>> zsh(list(tree(build_parser("completion")))).splitlines()[0]
    '#compdef fastnll'
    """
    lines = ["#compdef fastnll", "# zsh completion for fastnll; made by: fastnll completion zsh"]
    for node in reversed(nodes):
        lines += [
            "",
            f"{_function(node.path)}() {{",
            "    local curcontext=$curcontext state line",
            "    _arguments -C \\",
        ]
        specs = [spec for option in node.options for spec in _specs(option)]
        specs += [f"'{'*' if value.many else ''}:{_quoted(value.name)}:{_action(value)}'" for value in node.positions]
        if node.children:
            specs += ["'1: :->command'", "'*:: :->arguments'"]
        lines += [f"        {spec} \\" for spec in specs]
        lines[-1] = lines[-1].removesuffix(" \\")
        if node.children:
            lines += ["    case $state in", "        command)", "            local -a commands=("]
            lines += [
                f"                '{_quoted(name)}:{_quoted(summary)}'" for name, summary in node.children.items()
            ]
            lines += ["            )", "            _describe command commands", "            ;;"]
            lines += ["        arguments)", "            case $line[1] in"]
            lines += [f"                {name}) {_function((*node.path, name))} ;;" for name in node.children]
            lines += ["            esac", "            ;;", "    esac"]
        lines.append("}")
    lines += ["", "# Autoloaded as a function, or read with eval.", "if [[ $funcstack[1] == _fastnll ]]; then"]
    lines += ['    _fastnll "$@"', "else", "    compdef _fastnll fastnll", "fi"]
    return "\n".join(lines) + "\n"


def _function(path: tuple[str, ...]) -> str:
    return "_".join(["_fastnll", *path])


def _quoted(text: str) -> str:
    """Return text for a place between single quotes where brackets and colons end a part."""
    for mark in "\\[]:":
        text = text.replace(mark, "\\" + mark)
    return text.replace("'", "'\\''")


def _action(value: Value) -> str:
    if value.words:
        return "(" + " ".join(_quoted(word) for word in value.words) + ")"
    return "_files" if value.files else " "


def _specs(option: Option) -> Iterator[str]:
    others = "" if option.repeats else "(" + " ".join(option.flags) + ")"
    star = "*" if option.repeats else ""
    for flag in option.flags:
        end = "=" if option.value and flag.startswith("--") else ""
        value = f":{_quoted(option.value.name)}:{_action(option.value)}" if option.value else ""
        yield f"'{others}{star}{flag}{end}[{_quoted(option.help)}]{value}'"
