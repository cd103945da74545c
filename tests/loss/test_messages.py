"""Every message: what is wrong, where, how many, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.loss.tables import batch, soft_targets

X, T = batch(6, 11)
CUBE, IDS = X.reshape(2, 3, 11), T.reshape(2, 3)
DENSE, (SPARSE_IDS, SPARSE_PROBS) = soft_targets(6, 11)


def changed(a: Any, *changes: tuple[Any, Any]) -> Any:
    b = np.array(a)
    for index, value in changes:
        b[index] = value
    return b


def call(x: Any = X, t: Any = T, **o: Any) -> Callable[[], Any]:
    return lambda: fn.cross_entropy(x, t, **o)


# name: (call, exception, pieces of the message in order)
MESSAGES: dict[str, tuple[Callable[[], Any], type[Exception], list[str]]] = {
    # targets out of range
    "one bad target": (call(t=changed(T, (2, 12))), fn.LabelError,
        ["targets: expected class ids from 0 to 10, or ignore_index=-100, got 12 at position 2 (1 of 6 out of range)",
         "the largest id is 12: the logits would need 13 classes"]),
    "first of several, two axes": (call(CUBE, changed(IDS, ((1, 0), 40), ((1, 2), 12))), fn.LabelError,
        ["got 40 at position (1, 0) (2 of 6 out of range)", "would need 41 classes"]),
    "padding": (call(t=changed(T, (3, -1), (5, -1))), fn.LabelError,
        ["got -1 at position 3 (2 of 6", "-1 looks like padding: if so, pass ignore_index=-1"]),
    "padding of an unsigned dtype": (call(t=changed(T.astype("u2"), (3, 65535), (5, 65535))), fn.LabelError,
        ["65535 looks like padding"]),
    "ids from 1": (call(t=np.array([1, 11, 2, 3, 11, 4])), fn.LabelError, ["look as if they start at 1", "subtract 1"]),
    "several negative ids": (call(t=changed(T, (3, -1), (5, -2))), fn.LabelError, ["got -1 at position 3 (2 of 6"]),
    "valid_classes": (call(t=changed(T, (2, 9)), valid_classes=8), fn.LabelError,
        ["from 0 to 7 (valid_classes=8 of 11 columns)", "got 9 at position 2",
         "valid_classes would have to be at least 10"]),
    "several ignored ids": (call(t=changed(T, (2, 12)), ignore_index=(3, -1)), fn.LabelError,
        ["or ignore_index=-1, 3,"]),
    "masked rows do not count": (call(t=changed(T, (0, 50), (2, 12)), mask=np.arange(6) > 0), fn.LabelError,
        ["got 12 at position 2 (1 of 6", "largest id is 12"]),
    "a shift names the user's position": (call(t=changed(T, (3, 12)), shift=2), fn.LabelError,
        ["got 12 at position 3"]),
    "a shift over documents": (call(t=changed(T, (3, 12)), shift=1, offsets=[0, 2, 6]), fn.LabelError,
        ["at position 3"]),
    "a shift over two axes": (call(CUBE, changed(IDS, ((1, 2), 12)), shift=1), fn.LabelError, ["at position (1, 2)"]),
    "sparse ids": (call(t=(changed(SPARSE_IDS, ((4, 2), 11)), SPARSE_PROBS)), fn.LabelError,
        ["targets: expected ids from 0 to 10, got 11 at position (4, 2) (1 of 24 out of range)"]),
    # targets of another kind
    "float ids": (call(t=T.astype(float)), fn.DTypeError,
        ["targets: expected an integer dtype, got float64", "targets.astype(numpy.int64)"]),
    "swapped": (call(T, X), fn.ShapeError, ["logits first and targets second", "(6,) and (6, 11)", "swapped"]),
    "swapped, two row axes": (call(IDS, CUBE.astype(np.float32)), fn.ShapeError, ["swapped"]),
    "integer one-hot": (call(t=np.eye(11, dtype=int)[T]), fn.ShapeError, ["the logits' own shape", "pass floats"]),
    "class axis elsewhere": (call(CUBE, np.zeros((2, 11), int)), fn.ShapeError,
        ["targets: expected shape (2, 3) for class axis 2", "fits axis=1"]),
    "soft targets of another shape": (call(t=DENSE[:, :9]), fn.ShapeError,
        ["probabilities of the logits' shape (6, 11)"]),
    "sparse of another shape": (call(t=(SPARSE_IDS, SPARSE_PROBS[:, :2])), fn.ShapeError, ["(6,) + (K,)"]),
    "sparse float ids": (call(t=(SPARSE_PROBS, SPARSE_IDS)), fn.DTypeError, ["integer ids, got ids of float64"]),
    "sparse complex": (call(t=(SPARSE_IDS, SPARSE_PROBS * 1j)), fn.DTypeError,
        ["float probs, got probs of complex128"]),
    "ragged": (call(t=[[0, 1], [2]]), fn.ShapeError, ["targets: expected a rectangular array"]),
    "negative probability": (call(t=changed(DENSE, ((3, 4), -0.1))), fn.OptionError,
        ["at least 0", "row 3 (1 of 6 rows)"]),
    "nan probability": (call(t=changed(DENSE, ((4, 0), np.nan))), fn.OptionError, ["row 4"]),
    "infinite sparse probability": (call(t=(SPARSE_IDS, changed(SPARSE_PROBS, ((5, 0), np.inf)))), fn.OptionError,
        ["finite probabilities", "row 5"]),
    "shift of soft targets": (call(t=DENSE, shift=1), fn.OptionError, ["shift: expected class ids"]),
    "shift of sparse targets": (call(t=(SPARSE_IDS, SPARSE_PROBS), shift=1), fn.OptionError,
        ["shift: expected class ids"]),
    # options
    "unknown": (call(smoothing=0.1), TypeError, ["unexpected option 'smoothing'", "label_smoothing"]),
    "reduction": (call(reduction="average"), fn.OptionError, ["reduction: expected one of 'mean', 'sum'", "'average'"]),
    "reduction of no text": (call(reduction=np.zeros(2)), fn.OptionError, ["reduction: expected one of"]),
    "empty": (call(empty="one"), fn.OptionError, ["empty: expected one of 'nan', 'zero', 'raise', got 'one'"]),
    "validate": (call(validate=False), fn.OptionError, ["validate: expected one of 'on', 'off', got False"]),
    "nonfinite": (call(nonfinite="warn"), fn.OptionError, ["nonfinite: expected one of 'propagate', 'raise'"]),
    "smoothing": (call(label_smoothing=1.5), fn.OptionError,
        ["label_smoothing: expected a finite number from 0 to 1, got 1.5"]),
    "smoothing of no number": (call(label_smoothing="a"), fn.OptionError,
        ["label_smoothing: expected a number, got 'a'"]),
    "z_loss": (call(z_loss=-1.0), fn.OptionError, ["z_loss: expected a finite number of at least 0, got -1.0"]),
    "softcap": (call(softcap=0), fn.OptionError, ["softcap: expected a number above 0, got 0.0"]),
    "temperature": (call(temperature=-2), fn.OptionError, ["temperature: expected a number above 0, got -2.0"]),
    "temperature nan": (call(temperature=np.nan), fn.OptionError, ["temperature: expected a finite number"]),
    "verify": (call(verify=2), fn.OptionError, ["verify: expected a finite number from 0 to 1, got 2.0"]),
    "normalizer": (call(normalizer=0), fn.OptionError, ["normalizer: expected a number above 0"]),
    "normalizer and none": (call(normalizer=2, reduction="none"), fn.OptionError,
        ["normalizer: expected reduction", "'none'"]),
    "shift": (call(shift=-1), fn.OptionError, ["shift: expected an integer of at least 0, got -1"]),
    "shift float": (call(shift=1.5), fn.OptionError, ["shift: expected an integer, got 1.5"]),
    "valid_classes 0": (call(valid_classes=0), fn.OptionError, ["valid_classes: expected an integer of at least 1"]),
    "valid_classes > V": (call(valid_classes=12), fn.OptionError, ["valid_classes: expected at most 11", "got 12"]),
    "ignore_index": (call(ignore_index=1.5), fn.OptionError, ["ignore_index: expected an integer, several, or None"]),
    "mask dtype": (call(mask=np.ones(6)), fn.OptionError, ["mask: expected booleans", "float64", "token_weight"]),
    "mask shape": (call(mask=np.ones(5, bool)), fn.ShapeError,
        ["mask: expected a shape that broadcasts", "(6,)", "got (5,)"]),
    "token_weight shape": (call(token_weight=np.ones((6, 11))), fn.ShapeError,
        ["token_weight: expected a shape", "(6, 11)"]),
    "token_weight nan": (call(token_weight=changed(np.ones(6), (4, np.nan))), fn.OptionError,
        ["token_weight: expected finite numbers, got nan at row 4 (1 of 6)"]),
    "token_weight text": (call(token_weight=["a"] * 6), fn.DTypeError, ["token_weight: expected numbers"]),
    "weight shape": (call(weight=np.ones(10)), fn.ShapeError, ["weight: expected shape (11,)", "(10,)"]),
    "weight axes": (call(weight=np.ones((1, 11))), fn.ShapeError, ["weight: expected shape (V,)", "(1, 11)"]),
    "weight below 0": (call(weight=changed(np.ones(11), (4, -1.0), (6, np.inf))), fn.OptionError,
        ["at position 4 (2 of 11)"]),
    "weight text": (call(weight=["a"] * 11), fn.DTypeError, ["weight: expected numbers, one per class"]),
    "class_mask dtype": (call(class_mask=np.ones(11, int)), fn.OptionError, ["class_mask: expected booleans", "int64"]),
    "class_mask length": (call(class_mask=np.ones(10, bool)), fn.ShapeError,
        ["class_mask: expected 11 classes, got 10"]),
    "class_mask shape": (call(class_mask=np.ones((3, 11), bool)), fn.ShapeError,
        ["broadcasts to (6, 11), got (3, 11)"]),
    "offsets end": (call(offsets=[0, 4]), fn.ShapeError, ["offsets: expected a last boundary of 6", "got 4"]),
    "offsets fall": (call(offsets=[0, 4, 3, 6]), fn.OptionError,
        ["offsets: expected boundaries", "got 3 at position 2"]),
    "offsets start": (call(offsets=[1, 6]), fn.OptionError, ["got 1 at position 0"]),
    "offsets floats": (call(offsets=[0.0, 6.0]), fn.ShapeError, ["offsets: expected a 1-D integer array", "float64"]),
    "axis": (call(axis=2), fn.ShapeError, ["axis: expected -2 to 1", "got 2"]),
    "threads": (call(threads=0), fn.OptionError, ["threads"]),
    # nothing to learn from
    "no live row": (call(mask=np.zeros(6, bool), empty="raise"), fn.OptionError,
        ["at least one live row, got none of 6", "empty='nan' or empty='zero'"]),
    "not finite": (call(changed(X, ((3, 1), np.nan)), nonfinite="raise"), fn.VerificationError,
        ["logits: expected finite losses, got nan in row 3 (1 of 6 rows)", "look for"]),
    # options of nll_loss
    "nll_loss class_mask": (lambda: fn.nll_loss(X, T, class_mask=np.ones(11, bool)), fn.OptionError,
        ["class_mask", "cross_entropy"]),
    "nll_loss temperature": (lambda: fn.nll_loss(X, T, temperature=2), fn.OptionError,
        ["temperature", "cross_entropy"]),
    "nll_loss soft": (lambda: fn.nll_loss(X, DENSE), fn.OptionError, ["class ids", "cross_entropy"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    function, kind, pieces = MESSAGES[name]
    with pytest.raises(kind) as caught:
        function()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert re.search(".*".join(map(re.escape, pieces)), message, re.DOTALL), message
    assert "\n" not in message


def test_what_is_no_error() -> None:
    """Near misses of the messages above."""
    assert fn.cross_entropy(X[:2], (0, 2)) == fn.cross_entropy(X[:2], [0, 2]), "a tuple of two ids is no sparse target"
    assert fn.cross_entropy(X, changed(T, (2, 50)), mask=np.arange(6) != 2) == fn.cross_entropy(
        X, changed(T, (2, -100))
    )
    assert np.isfinite(fn.cross_entropy(X, T, offsets=np.array([0, 6], np.uint8)))
    outside = changed(SPARSE_IDS, ((4, 2), 99))
    absent = changed(SPARSE_PROBS, ((4, 2), 0.0))
    assert np.isfinite(fn.cross_entropy(X, (outside, absent))), "an id of probability 0 is not looked at"
