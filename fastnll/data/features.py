"""Rows of features with a label each: the dataset of a classifier."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from fastnll.data.checks import chunks, first_bad_token, integer, max_token, sequence_ids, token_array
from fastnll.errors import DataError, DTypeError, OptionError, ShapeError

__all__ = ["FeatureDataset"]


class FeatureDataset:
    """N rows of D features and one class id each; a row counts as a sequence of length 1.

    Parameters
    ----------
    features : array of float, shape (N, D)
        float64, float32, float16 or bfloat16 are kept as they are; integers and bools become float64.
    labels : array of int, shape (N,)
        Class ids, any integer dtype, kept as it is.
    n_classes : int, optional
        V: every label is in ``[0, V)``. Default: the largest label plus one.

    Attributes
    ----------
    features : ndarray, shape (N, D), read-only
    labels : ndarray, shape (N,), read-only

    Raises
    ------
    ShapeError, DTypeError
        Arrays of other shapes or kinds.
    DataError
        A feature that is not finite, a label out of range: the first one, and how many.

    Examples
    --------
    >>> ds = FeatureDataset([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 2, 1])
    >>> len(ds), ds.n_features, ds.n_classes
    (3, 2, 3)
    >>> ds.take([2, 0]).labels
    array([1, 0], dtype=uint8)
    """

    def __init__(self, features: Any, labels: Any, *, n_classes: int | None = None) -> None:
        rows = _feature_array(features)
        ids = token_array(labels, "labels")
        if ids.size != rows.shape[0]:
            raise ShapeError(f"labels: expected one for each of the {rows.shape[0]} rows of features, got {ids.size}")
        if n_classes is None:
            largest = max_token(ids, 0, ids.size)
            if largest < 0 and not ids.size:
                raise OptionError("n_classes: expected to be given for a dataset without rows, got None")
            n_classes = max(largest, 0) + 1
        self.n_classes = integer("n_classes", n_classes, 1)
        _check_labels(ids, self.n_classes)
        _check_finite(rows)
        self.features, self.labels = rows.view(), ids.view()
        self.features.flags.writeable = self.labels.flags.writeable = False

    @property
    def n_features(self) -> int:
        """D, the number of columns."""
        return int(self.features.shape[1])

    @property
    def n_sequences(self) -> int:
        """N: a row is a sequence of one prediction."""
        return int(self.labels.size)

    @property
    def n_tokens(self) -> int:
        """N: every row has one label."""
        return int(self.labels.size)

    @property
    def vocab_size(self) -> int:
        """V, the number of classes."""
        return self.n_classes

    @property
    def tokens(self) -> np.ndarray:
        """The labels, under the name a sequence dataset has for them."""
        return self.labels

    @property
    def offsets(self) -> np.ndarray:
        """0, 1, .. N as int64, shape (N + 1,)."""
        return np.arange(self.labels.size + 1, dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """N ones, int64."""
        return np.ones(self.labels.size, np.int64)

    def __len__(self) -> int:
        return int(self.labels.size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Features and label of one row."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected a row below {len(self)}, got {index}")
        return self.features[index], int(self.labels[index])

    def take(self, ids: Any) -> FeatureDataset:
        """Those rows, in that order, copied.

        Raises
        ------
        DataError
            A row number out of range: the first one, and how many.
        """
        which = sequence_ids(ids, len(self))
        part = object.__new__(FeatureDataset)
        part.features, part.labels, part.n_classes = self.features[which], self.labels[which], self.n_classes
        return part

    def sha256(self) -> str:
        """SHA-256 over shape, dtype, features and labels, in hexadecimal."""
        header = f"{self.features.shape} {self.features.dtype} {self.n_classes}"
        digest = hashlib.sha256(header.encode())
        rows = max(1, (1 << 20) // max(1, self.n_features))
        for low, high in chunks(0, len(self), rows):
            digest.update(np.ascontiguousarray(self.features[low:high]).view(np.uint8).tobytes())
            digest.update(self.labels[low:high].astype("<i8").tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"FeatureDataset({len(self)} rows, {self.n_features} features of {self.features.dtype}, "
            f"{self.n_classes} classes)"
        )


def _feature_array(features: Any) -> np.ndarray:
    try:
        rows = np.asarray(features)
    except ValueError:
        raise ShapeError("features: expected shape (N, D), got rows of different lengths") from None
    if rows.ndim != 2:
        raise ShapeError(f"features: expected shape (N, D), got {rows.shape}; one feature is features[:, None]")
    if rows.dtype.kind in "iub":
        return rows.astype(np.float64)
    # ml_dtypes registers bfloat16 as a void-like kind; it is known by name, without importing the package.
    if rows.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise DTypeError(f"features: expected a float dtype, got {rows.dtype}")
    return rows if rows.dtype.isnative else rows.astype(rows.dtype.newbyteorder("="))


def _check_labels(labels: np.ndarray, n_classes: int) -> None:
    bad = first_bad_token(labels, 0, labels.size, n_classes)
    if bad is not None:
        raise DataError(
            f"labels: expected class ids in [0, {n_classes}), got {bad[1]} at row {bad[0]}; "
            f"{bad[2]} of {labels.size} are outside; "
            f"pass n_classes={max(bad[1] + 1, n_classes)} or correct the labels"
        )


def _check_finite(rows: np.ndarray) -> None:
    step = max(1, (1 << 20) // max(1, rows.shape[1]))
    count, first = 0, None
    for low, high in chunks(0, rows.shape[0], step):
        finite = np.isfinite(rows[low:high])
        if finite.all():
            continue
        where = np.argwhere(~finite)
        if first is None:
            first = (low + int(where[0][0]), int(where[0][1]))
        count += len(where)
    if first is not None:
        raise DataError(
            f"features: expected finite values, got {float(rows[first])} at row {first[0]}, "
            f"column {first[1]}; {count} of {rows.size} are not finite; drop or fill them first"
        )
