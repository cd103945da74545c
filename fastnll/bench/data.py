"""The arrays of a case: the same ones whenever and wherever it is run."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.bench.cases import Case

__all__ = ["Data", "make_data", "storage_dtype"]

Array = npt.NDArray[Any]


@dataclass
class Data:
    """The arrays of one case; nobody may write to them.

    Attributes
    ----------
    case : Case
    x : array
        Logits (log-probabilities for ops that take those, the parameter for SGD), in the storage dtype.
    targets : int64 array
        One class id a row, of the logits' shape without the class axis.
    extra : array
        A second array of the shape of `x`: an upstream or parameter gradient. Empty where no op needs it. Of a linear
        head x is hidden and this the weight.
    """

    case: Case
    x: Array
    targets: npt.NDArray[np.int64]
    extra: Array


def storage_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of that name, with bfloat16 from ml_dtypes.

    Raises
    ------
    ImportError
        For bfloat16 without ml_dtypes.

    Examples
    --------
    >>> storage_dtype("float32")
    dtype('float32')
    """
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def make_data(case: Case) -> Data:
    """Return the arrays of a case: the same ones whenever it is asked for.

    Logits are normal with standard deviation 3, so that the softmax of every row has mass on many classes.
    Log-probabilities are normalised in float64 and then rounded.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    dtype = storage_dtype(case.dtype)
    draw = np.float64 if case.dtype == "float64" else np.float32
    if case.features:
        n, v = case.shape
        hidden = rng.standard_normal((n, case.features), dtype=draw)
        weight = rng.standard_normal((v, case.features), dtype=draw) * draw(3 / case.features**0.5)
        targets = rng.integers(0, v, size=n, dtype=np.int64)
        return Data(case, hidden.astype(dtype, copy=False), targets, weight.astype(dtype, copy=False))
    x: Array = rng.standard_normal(case.shape, dtype=draw)
    x *= 3
    targets = np.empty(0, np.int64)
    extra = np.empty(0, dtype)
    if case.op == "sgd_update":
        extra = rng.standard_normal(case.shape, dtype=draw).astype(dtype, copy=False)
    else:
        rows_shape = tuple(np.delete(case.shape, case.axis))
        targets = rng.integers(0, case.classes, size=rows_shape, dtype=np.int64)
    if case.op in ("nll_loss", "log_softmax_vjp", "softmax_vjp"):
        shifted = x - x.max(axis=case.axis, keepdims=True)
        lse = np.log(np.sum(np.exp(shifted), axis=case.axis, keepdims=True, dtype=np.float64))
        x = np.asarray(shifted - lse, dtype=draw)
        if case.op == "softmax_vjp":
            np.exp(x, out=x)
    if case.op.endswith("_vjp"):
        extra = rng.standard_normal(case.shape, dtype=draw).astype(dtype, copy=False)
    return Data(case, x.astype(dtype, copy=False), targets, extra)
