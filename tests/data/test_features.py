"""FeatureDataset: what is kept and what is refused."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest

from fastnll.data import FeatureDataset
from fastnll.errors import DataError, DTypeError, OptionError, ShapeError


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ml_dtypes.bfloat16])
def test_floats_are_kept(dtype: object) -> None:
    features = np.arange(6).reshape(3, 2).astype(dtype)
    ds = FeatureDataset(features, np.array([0, 1, 1], np.uint8))
    assert ds.features.dtype == features.dtype
    assert np.shares_memory(ds.features, features)
    assert ds.labels.dtype == np.uint8
    assert (ds.n_features, ds.n_classes, ds.vocab_size, ds.n_tokens, ds.n_sequences) == (2, 2, 2, 3, 3)
    assert ds.offsets.tolist() == [0, 1, 2, 3]
    assert ds.lengths.tolist() == [1, 1, 1]
    part = ds.take([2, 0])
    assert part.features.tolist() == [[4, 5], [0, 1]]
    assert (part.labels.tolist(), part.n_classes) == ([1, 0], 2)
    assert ds.sha256() != part.sha256()
    assert ds.sha256() == FeatureDataset(features.copy(), [0, 1, 1]).sha256()


def test_rows_and_integers() -> None:
    ds = FeatureDataset([[1, 2], [3, 4]], [1, 0], n_classes=5)
    assert ds.features.dtype == np.float64
    assert ds[1][0].tolist() == [3.0, 4.0]
    assert ds[-1][1] == 0
    with pytest.raises(IndexError, match="row below 2, got 2"):
        ds[2]
    with pytest.raises(ValueError, match="read-only"):
        ds.features[0, 0] = 1
    assert repr(ds) == "FeatureDataset(2 rows, 2 features of float64, 5 classes)"
    assert len(FeatureDataset(np.zeros((0, 3)), [], n_classes=2)) == 0


BAD = [
    ((np.zeros(3), [0, 0, 0]), ShapeError, "features: expected shape (N, D), got (3,); one feature is"),
    (
        ([[1.0], [1.0, 2.0]], [0, 0]),
        ShapeError,
        "features: expected shape (N, D), got rows of different lengths",
    ),
    ((np.zeros((2, 2)), [0]), ShapeError, "labels: expected one for each of the 2 rows of features, got 1"),
    ((np.zeros((2, 2), complex), [0, 0]), DTypeError, "features: expected a float dtype, got complex128"),
    ((np.zeros((2, 2)), [0.5, 0.5]), DTypeError, "labels: expected an integer dtype, got float64"),
    (
        (np.zeros((2, 2)), np.array([0, -1])),
        DataError,
        "labels: expected class ids in [0, 1), got -1 at row 1; 1 of 2",
    ),
    (
        (np.array([[0, np.inf], [np.nan, 1]]), [0, 1]),
        DataError,
        "features: expected finite values, got inf at row 0, column 1; 2 of 4 are not finite",
    ),
    ((np.zeros((0, 2)), []), OptionError, "n_classes: expected to be given for a dataset without rows"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD)
def test_refusals_say_what_was_expected(arguments: tuple, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        FeatureDataset(*arguments)


def test_labels_above_the_classes_are_counted() -> None:
    words = "labels: expected class ids in [0, 2), got 3 at row 1; 2 of 3 are outside; pass n_classes=4"
    with pytest.raises(DataError, match=re.escape(words)):
        FeatureDataset(np.zeros((3, 1)), [0, 3, 2], n_classes=2)
