"""``fastnll train --group``: a learning rate, a momentum or a weight decay of some parameters alone."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy.typing as npt

from fastnll.cli.common import number
from fastnll.cli.parsing import meant
from fastnll.errors import OptionError

__all__ = ["group", "grouped"]

Array = npt.NDArray[Any]
_NUMBERS = {"lr": number(0), "momentum": number(0, below=1), "weight_decay": number(0)}


def group(text: str) -> str:
    """An argparse type: ``NAME[,NAME]:KEY=X[,KEY=X]``, names with wildcards; one group always comes out as one text.

    Examples
    --------
    >>> group("b1,bias:lr=1e-1, weight_decay=0")
    'b1,bias:lr=0.1,weight_decay=0.0'
    """
    patterns, options = _parts(text)
    return f"{','.join(patterns)}:{','.join(f'{key}={value!r}' for key, value in options.items())}"


def _parts(text: str) -> tuple[list[str], dict[str, float]]:
    names, _, rest = text.partition(":")
    patterns = [name.strip() for name in names.split(",")]
    pairs = [[part.strip() for part in pair.split("=", 1)] for pair in rest.split(",")]
    if not all(patterns) or not all(len(pair) == 2 and pair[1] for pair in pairs):
        raise argparse.ArgumentTypeError(f"expected NAME[,NAME]:KEY=X[,KEY=X], as b1,bias:weight_decay=0, got {text!r}")
    options: dict[str, float] = {}
    for key, value in pairs:
        if key not in _NUMBERS:
            near = meant(key, _NUMBERS)
            advice = f"; did you mean {near}?" if near else ""
            raise argparse.ArgumentTypeError(f"expected keys among {', '.join(_NUMBERS)}, got {key!r}{advice}")
        if key in options:
            raise argparse.ArgumentTypeError(f"expected every key once, got {key!r} twice in {text!r}")
        try:
            options[key] = _NUMBERS[key](value)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{key}: {error}") from None
    return patterns, options


def grouped(params: Mapping[str, Array], groups: Sequence[str] | None, options: Mapping[str, Any]) -> Any:
    """The parameters of a model as what `fastnll.SGD` takes: themselves, or groups, the last of which is the rest.

    Parameters
    ----------
    params : dict of ndarray
    groups : list of str or None
        From `group`.
    options : dict
        Those of the run, `lr` and `nesterov` among them.

    Raises
    ------
    OptionError
        A name that no parameter has, a parameter in two groups, a rate relative to a rate of 0.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.ones(2), "b": np.ones(1)}
    >>> [list(g["params"]) for g in grouped(params, ["b:lr=0.1"], {"lr": 1.0, "nesterov": True})]
    [['b'], ['w']]
    """
    if not groups:
        return dict(params)
    owner: dict[str, str] = {}
    made: list[dict[str, Any]] = []
    for text in groups:
        patterns, given = _parts(text)
        if "lr" in given and not options["lr"]:
            # The schedule is that of --lr, and a group's rate is a multiple of it.
            raise OptionError(f"--group: expected lr= beside --lr above 0 alone, got {text!r} and --lr 0")
        names = _matching(patterns, params)
        for name in names:
            if name in owner:
                raise OptionError(
                    f"--group: expected every parameter once, got {name!r} in {owner[name]!r} and {text!r}"
                )
            owner[name] = text
        # Nesterov's form needs a momentum.
        nesterov = options["nesterov"] and given.get("momentum") != 0
        made.append({"params": {name: params[name] for name in names}, **given, "nesterov": nesterov})
    rest = {name: array for name, array in params.items() if name not in owner}
    return [*made, {"params": rest}] if rest else made


def _matching(patterns: Sequence[str], names: Collection[str]) -> list[str]:
    """The names that any of the patterns fits, in the model's order."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = meant(pattern, names)
            advice = f"; did you mean {near}?" if near else ""
            raise OptionError(f"--group: expected parameters among {', '.join(names)}, got {pattern!r}{advice}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
