"""The options of the loss: their names, their checks, and nothing else.

`LossOptions` is made once and used for any number of calls. What the options do to a batch (which rows
are live, what each weighs, what the sum is divided by) is in `fastnll.weights`.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.arrays import as_array
from fastnll.errors import DTypeError, OptionError, ShapeError

__all__ = ["DEFAULTS", "LossOptions"]

REDUCTIONS = ("mean", "sum", "none", "sequence_sum", "sequence_mean")

IGNORE_INDEX = -100


@dataclasses.dataclass(frozen=True, eq=False)
class LossOptions:
    """Checked options of `fastnll.cross_entropy` and of every function that takes the same ones.

    Parameters
    ----------
    reduction : {"mean", "sum", "none", "sequence_sum", "sequence_mean"}
        What is returned: one number, one per token, or one per sequence.
    ignore_index : int, iterable of int, or None
        Target ids that mark a row as absent. -100 by default; may be a valid class.
    mask : bool array, optional
        True where a row counts; broadcasts to the targets' shape.
    token_weight : float array, optional
        Weight of each row; broadcasts to the targets' shape. May be negative (policy gradients).
    weight : (V,) float array, optional
        Weight of each class, with PyTorch's rule: the mean divides by the sum of the targets' weights.
    label_smoothing : float
        eps in [0, 1]: moves that share of the target's mass evenly to all live classes.
    z_loss : float
        Adds ``z_loss * logsumexp**2`` to each row's loss (de Brebisson & Vincent 2016; PaLM, 2022).
    softcap : float, optional
        Replaces logits a by ``softcap * tanh(a / softcap)`` (Gemma 2). -inf stays -inf.
    temperature : float
        Divides the logits, before the softcap.
    valid_classes : int, optional
        Classes from this one on are padding: probability 0, gradient 0, never read.
    class_mask : bool array, optional
        True where a class takes part: shape (V,), or any shape that broadcasts to the logits'.
    normalizer : float, optional
        What "mean" divides by, in place of the sum of weights of this batch.
    offsets : (B + 1,) integer array, optional
        Row boundaries of B ragged sequences; the rows are then the flattened targets.
    shift : int
        Row i predicts ``targets[i + shift]`` of its own sequence; rows without one are absent.
    empty : {"nan", "zero", "raise"}
        What "mean" is where no row is live, and "sequence_mean" for a sequence without one.
    axis : int
        The class axis of the logits.
    threads : int, optional
        Threads for this call.
    validate : {"on", "off"}
        "off" skips the check of the targets: a target out of range makes its row NaN.
    nonfinite : {"propagate", "raise"}
        "raise" names the first row whose loss is NaN or infinite.
    verify : float
        Share of the rows recomputed in float64; a disagreement beyond the op's bound raises.

    Raises
    ------
    OptionError, ShapeError
        For a value, or a combination, that means nothing.
    """

    reduction: str = "mean"
    ignore_index: Any = IGNORE_INDEX
    mask: Any = None
    token_weight: Any = None
    weight: Any = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    temperature: float = 1.0
    valid_classes: int | None = None
    class_mask: Any = None
    normalizer: float | None = None
    offsets: Any = None
    shift: int = 0
    empty: str = "nan"
    axis: int = -1
    threads: Any = None
    validate: str = "on"
    nonfinite: str = "propagate"
    verify: float = 0.0

    def __post_init__(self) -> None:
        _one_of("reduction", self.reduction, REDUCTIONS)
        _one_of("empty", self.empty, ("nan", "zero", "raise"))
        _one_of("validate", self.validate, ("on", "off"))
        _one_of("nonfinite", self.nonfinite, ("propagate", "raise"))
        self._set("ignore_index", _ids(self.ignore_index))
        self._set("label_smoothing", _number("label_smoothing", self.label_smoothing, 0.0, 1.0))
        self._set("z_loss", _number("z_loss", self.z_loss, 0.0, math.inf))
        self._set("temperature", _positive("temperature", self.temperature))
        self._set("verify", _number("verify", self.verify, 0.0, 1.0))
        if self.softcap is not None:
            self._set("softcap", _positive("softcap", self.softcap))
        if self.normalizer is not None:
            self._set("normalizer", _positive("normalizer", self.normalizer))
            if self.reduction not in {"mean", "sum"}:
                raise OptionError(f"normalizer: expected reduction 'mean' or 'sum' beside it, got {self.reduction!r}")
        self._set("shift", _count("shift", self.shift, 0))
        if self.valid_classes is not None:
            self._set("valid_classes", _count("valid_classes", self.valid_classes, 1))
        if self.weight is not None:
            self._set("weight", _class_weight(self.weight))
        if self.offsets is not None:
            self._set("offsets", _offsets(self.offsets))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def replace(self, changes: dict[str, Any]) -> LossOptions:
        """Return these options with some changed, checked again."""
        _known(changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def make(cls, options: dict[str, Any]) -> LossOptions:
        """Return checked options from keyword arguments; the defaults cost nothing, those of an earlier call little."""
        if not options:
            return DEFAULTS
        # Values that nobody can change. The types are part of it: True, 1 and 1.0 are equal, and not all are allowed.
        types = tuple(map(type, options.values()))
        if not _PLAIN.issuperset(types):
            _known(options)
            return cls(**options)
        key = (types, tuple(options.items()))
        found = _checked.get(key)
        if found is None:
            _known(options)
            found = cls(**options)
            if len(_checked) >= _REMEMBERED:  # an option that changes with every step
                _checked.clear()
            _checked[key] = found
        return found


_NAMES = tuple(field.name for field in dataclasses.fields(LossOptions))
_PLAIN = frozenset({str, int, float, bool, type(None)})
_REMEMBERED = 128
_checked: dict[Any, LossOptions] = {}


def _known(options: Iterable[str]) -> None:
    for name in options:
        if name not in _NAMES:
            # A TypeError, as Python's own for an unexpected keyword, with the list one looks for next.
            raise TypeError(f"unexpected option {name!r}; the options are {', '.join(_NAMES)}")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise OptionError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionError(f"{name}: expected a number, got {value!r}")
    number = float(value)
    if not (low <= number <= high and math.isfinite(number)):
        bound = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise OptionError(f"{name}: expected a finite number {bound}, got {number!r}")
    return number


def _positive(name: str, value: object) -> float:
    number = _number(name, value, -math.inf, math.inf)
    if number <= 0.0:
        raise OptionError(f"{name}: expected a number above 0, got {number!r}")
    return number


def _count(name: str, value: object, least: int) -> int:
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise OptionError(f"{name}: expected an integer, got {value!r}") from None
    if count < least or isinstance(value, bool):
        raise OptionError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return count


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    try:
        return tuple(sorted({operator.index(item) for item in items}))
    except TypeError:
        raise OptionError(f"ignore_index: expected an integer, several, or None, got {value!r}") from None


def _class_weight(value: Any) -> npt.NDArray[np.float64]:
    raw = as_array(value, "weight")
    if raw.dtype.kind in "cOSUMm":
        raise DTypeError(f"weight: expected numbers, one per class, got {raw.dtype}")
    weight = raw.astype(np.float64)
    if weight.ndim != 1:
        raise ShapeError(f"weight: expected shape (V,), one weight per class, got {weight.shape}")
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if bad.size:
        raise OptionError(
            f"weight: expected finite numbers of at least 0, got {weight[bad[0]]} at position {bad[0]} "
            f"({bad.size} of {weight.size})"
        )
    return weight


def _offsets(value: Any) -> npt.NDArray[np.int64]:
    offsets = as_array(value, "offsets")
    if offsets.ndim != 1 or offsets.size < 1 or offsets.dtype.kind not in "iu":
        raise ShapeError(
            f"offsets: expected a 1-D integer array of B + 1 row boundaries, got {offsets.dtype} of shape "
            f"{offsets.shape}"
        )
    offsets = offsets.astype(np.int64)
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if falls.size or offsets[0] != 0:
        where = int(falls[0]) + 1 if offsets[0] == 0 else 0
        raise OptionError(
            f"offsets: expected boundaries that start at 0 and never fall, got {offsets[where]} at position {where}"
        )
    return offsets


DEFAULTS = LossOptions()
