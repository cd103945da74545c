"""What the objective asks of its arguments, once, before anything is computed."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from fastnll.data.checks import first_bad_token
from fastnll.errors import LabelError, OptionError, ShapeError
from fastnll.losses import CrossEntropy
from fastnll.models.base import Model
from fastnll.options import DEFAULTS

__all__ = ["check_dataset", "check_l2", "check_loss", "counts_suffice", "likelihood"]

# Options that describe the rows of one batch; a dataset has its own rows.
_PER_BATCH = ("mask", "token_weight", "offsets", "shift", "normalizer")

# Options that make the loss of a row more than -log p(target), beside those that change p.
_BEYOND_LIKELIHOOD = ("weight", "label_smoothing", "z_loss")

# Options with which the loss of a row is not what counts of (context, target) pairs were made for.
_NOT_COUNTED = (*_BEYOND_LIKELIHOOD, "softcap", "temperature", "valid_classes", "class_mask", "nonfinite", "verify")


def _changed(loss: CrossEntropy, names: tuple[str, ...]) -> list[str]:
    # Defaults are numbers, strings and None; what a user gives may be an array, for which == is not a bool.
    options = loss.options
    return [n for n in names if isinstance(v := getattr(options, n), np.ndarray) or v != getattr(DEFAULTS, n)]


def counts_suffice(loss: CrossEntropy) -> bool:
    """Return whether a row's loss is -log p(target), with p the model's own distribution."""
    return not _changed(loss, _NOT_COUNTED)


def likelihood(loss: CrossEntropy) -> CrossEntropy:
    """Return the loss without what is not part of the likelihood: class weights, smoothing, penalties."""
    changes = {name: getattr(DEFAULTS, name) for name in _changed(loss, _BEYOND_LIKELIHOOD)}
    return loss.replace(**changes) if changes else loss


def check_loss(loss: Any) -> CrossEntropy:
    """Return the loss if each of its options means the same for every row of a dataset."""
    if not isinstance(loss, CrossEntropy):
        raise OptionError(f"loss: expected a CrossEntropy, got {type(loss).__name__}")
    wrong = _changed(loss, _PER_BATCH)
    if loss.options.class_mask is not None and np.ndim(loss.options.class_mask) != 1:
        wrong.append("class_mask")
    if wrong:
        raise OptionError(
            f"loss: expected options that mean the same for every row of the dataset, got {', '.join(wrong)}; "
            "leave tokens out with ignore_index, or pass a dataset without them"
        )
    if loss.options.axis not in (-1, 1):
        raise OptionError(f"loss: expected axis -1, the classes of a model's logits, got {loss.options.axis}")
    return loss


def check_l2(l2: Any) -> float:
    """Return the strength of the penalty as a float."""
    if isinstance(l2, numbers.Real) and not isinstance(l2, bool) and 0.0 <= float(l2) < math.inf:
        return float(l2)
    raise OptionError(f"l2: expected a finite number of at least 0, got {l2!r}")


def check_dataset(model: Model, dataset: Any, data: Any) -> None:
    """Raise if a dataset is not one this model can be evaluated on.

    Only a dataset that declares a larger vocabulary than the model's is scanned.
    """
    if not (hasattr(data, "tokens") and hasattr(data, "offsets")):
        raise OptionError(
            f"dataset: expected a SequenceDataset, Pieces or FeatureDataset, got {type(dataset).__name__}; "
            "SequenceDataset.from_sequences takes lists"
        )
    features, wanted = getattr(data, "features", None), getattr(model, "n_features", None)
    if (features is None) != (wanted is None):
        kind = "SequenceDataset" if wanted is None else "FeatureDataset"
        raise OptionError(f"dataset: expected a {kind} for model {model.name!r}, got {type(dataset).__name__}")
    if features is not None and features.shape[1] != wanted:
        raise ShapeError(f"dataset: expected {wanted} features for model {model.name!r}, got {features.shape[1]}")
    context = getattr(dataset, "context", None)
    if context is not None and context < model.skip:
        raise OptionError(
            f"dataset: expected pieces with a context of at least {model.skip} for model {model.name!r}, "
            f"got {context}, which would lose the first prediction of every piece; use pieces(max_tokens, context=1)"
        )
    _check_tokens(model, data)


def _check_tokens(model: Model, data: Any) -> None:
    v, offsets = model.vocab_size, data.offsets
    low, high = int(offsets[0]), int(offsets[-1])
    if low == high or data.vocab_size <= v:
        return
    bad = first_bad_token(data.tokens, low, high, v)
    if bad is None:
        return
    position, value, count = bad
    sequence = int(np.searchsorted(offsets, position, side="right")) - 1
    raise LabelError(
        f"dataset: expected token ids in [0, {v}), the vocabulary of model {model.name!r}, got {value} at sequence "
        f"{sequence}, position {position - int(offsets[sequence])}; {count} of {high - low} tokens are outside; make "
        f"the model with vocab_size={data.vocab_size}, or encode the data with the tokenizer the model was made for"
    )
