"""Models by name, as configuration files and the command line know them."""

from __future__ import annotations

import inspect
from typing import Any

from fastnll.errors import OptionError
from fastnll.models.base import Model
from fastnll.models.bigram import Bigram
from fastnll.models.categorical import Categorical
from fastnll.models.ngram import NGram
from fastnll.models.softmax_regression import SoftmaxRegression

__all__ = ["MODELS", "make"]

MODELS: dict[str, type[Model]] = {model.name: model for model in (Categorical, Bigram, NGram, SoftmaxRegression)}


def make(name: str, **config: Any) -> Model:
    """Return the model of a name.

    Parameters
    ----------
    name : {"categorical", "bigram", "ngram", "softmax_regression"}
    **config
        The constructor's arguments.

    Raises
    ------
    OptionError
        An unknown name, or arguments the model does not have.

    Examples
    --------
    >>> make("ngram", vocab_size=103, context=3)
    NGram(vocab_size=103, context=3, dim=32, hidden=128)
    >>> make(**make("bigram", vocab_size=10).config())
    Bigram(vocab_size=10)
    """
    if name not in MODELS:
        raise OptionError(f"name: expected one of {', '.join(MODELS)}, got {name!r}")
    signature = inspect.signature(MODELS[name])
    try:
        signature.bind(**config)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise OptionError(f"model {name!r}: expected the arguments {known}, got {config} ({error})") from None
    return MODELS[name](**config)
