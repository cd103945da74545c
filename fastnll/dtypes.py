"""The dtype policy: what is stored, what is computed in, what sums are held in.

==========  =========  ============  ==============
storage     compute    row outputs   sums over rows
==========  =========  ============  ==============
float64     float64    float64       float64
float32     float32    float32       float64
bfloat16    float32    float32       float64
float16     float32    float32       float64
==========  =========  ============  ==============

*Row outputs* are losses and log-sum-exps: never rounded to a 16-bit logits dtype. bfloat16 is the
extension dtype of ``ml_dtypes``; it is recognised by name, so nothing imports that package here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["FLOATS", "INTEGERS", "FloatType", "float_type", "row_dtype"]


class FloatType(NamedTuple):
    """How one storage dtype is computed with.

    Attributes
    ----------
    name : str
        NumPy name of the storage dtype.
    code : int
        Index of the dtype in the native kernel tables.
    itemsize : int
        Bytes per stored element.
    compute : numpy.dtype
        What a kernel computes in.
    rows : numpy.dtype
        What per-row results (loss, logsumexp) are returned in.
    eps : float
        Distance from 1 to the next number of the storage dtype.
    """

    name: str
    code: int
    itemsize: int
    compute: np.dtype[Any]
    rows: np.dtype[Any]
    eps: float


_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)

FLOATS: dict[str, FloatType] = {
    "float64": FloatType("float64", 0, 8, _F64, _F64, 2.0**-52),
    "float32": FloatType("float32", 1, 4, _F32, _F32, 2.0**-23),
    "bfloat16": FloatType("bfloat16", 2, 2, _F32, _F32, 2.0**-7),
    "float16": FloatType("float16", 3, 2, _F32, _F32, 2.0**-10),
}

# NumPy composes a dtype's name anew each time, which takes longer than a small batch: names are looked up once.
_BY_DTYPE: dict[np.dtype[Any], FloatType | None] = {}

# Integer targets are read in place; the index is the code of the native readers.
INTEGERS: tuple[str, ...] = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def float_type(dtype: np.dtype[Any]) -> FloatType | None:
    """Return the policy for a storage dtype, or None where it is not a supported float.

    Examples
    --------
    >>> import numpy as np
    >>> float_type(np.dtype("float16")).compute
    dtype('float32')
    """
    try:
        return _BY_DTYPE[dtype]
    except KeyError:
        found = FLOATS.get(dtype.name) if dtype.isnative else None
        _BY_DTYPE[dtype] = found
        return found


def row_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of per-row results for logits of a storage dtype.

    Examples
    --------
    >>> import numpy as np
    >>> row_dtype(np.dtype("float16"))
    dtype('float32')
    """
    found = float_type(dtype)
    assert found is not None
    return found.rows
