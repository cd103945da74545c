"""``logsumexp``, ``softmax`` and ``log_softmax`` with the signatures, defaults and results of `scipy.special`.

``from fastnll.interop.scipy_special import logsumexp`` in place of ``from scipy.special import logsumexp``: arrays of
real numbers go to the kernels; whatever else SciPy takes (complex, extended and boolean numbers, empty arrays,
negative weights) or refuses goes to SciPy, which answers as it always did. ``axis=None`` means the whole array here.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fastnll import ops
from fastnll.arrays import as_array
from fastnll.dtypes import FLOATS

__all__ = ["log_softmax", "logsumexp", "softmax"]

Array = npt.NDArray[Any]

# Where a logsumexp and the largest element are both this close to 0, the sum of the others is most of the result, and
# SciPy keeps its digits by adding it to the largest element's own term with log1p.
_NEAR_ZERO = 2.0**-6


class _Rows(NamedTuple):
    """An array with the reduced axes merged into the last one.

    Attributes
    ----------
    rows : ndarray (..., V)
    axes : tuple of int
        The reduced axes of the original, from the front.
    order : tuple of int
        The axes of the original in the order they have in `rows`.
    moved : tuple of int
        Shape before the merge.
    """

    rows: Array
    axes: tuple[int, ...]
    order: tuple[int, ...]
    moved: tuple[int, ...]

    def back(self, result: Array) -> Array:
        """Return an array of the shape of `rows` in the original's shape."""
        if len(self.order) == result.ndim and self.order == tuple(range(result.ndim)):
            return result
        return result.reshape(self.moved).transpose(np.argsort(self.order))


def _rows(a: Array, axis: Any) -> _Rows | None:
    """Return `a` as rows along an axis in SciPy's sense, or None for an axis that is SciPy's to judge."""
    if a.ndim == 0 or a.size == 0:
        return None
    try:
        given = range(a.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        counted = [operator.index(i) for i in given]
    except TypeError:
        return None
    axes = tuple(sorted(i % a.ndim for i in counted))
    if not axes or len(set(axes)) < len(axes) or any(not -a.ndim <= i < a.ndim for i in counted):
        return None
    order = (*(i for i in range(a.ndim) if i not in axes), *axes)
    moved = a.transpose(order)
    shape = moved.shape[: a.ndim - len(axes)]
    return _Rows(moved.reshape(*shape, -1), axes, order, moved.shape)


def _real_array(x: Any) -> Array | None:
    """Return `x` as an array that the kernels take, or None."""
    if isinstance(x, np.matrix | np.ma.MaskedArray):
        return None
    try:
        a = as_array(x, "x")
    except (TypeError, ValueError):
        return None
    known = a.dtype.kind in "iu" or a.dtype.name in FLOATS
    return a if known else None


def logsumexp(
    a: npt.ArrayLike, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False
) -> Any:
    r"""Return :math:`\log \sum b \exp a` over the given axes: `scipy.special.logsumexp`.

    Parameters
    ----------
    a : array_like
        Any strides. Integers are taken as float64.
    axis : int, tuple of int, or None
        Axes to sum over; None, the default, means all of them.
    b : array_like, optional
        Factors of the exponentials; broadcast against `a`. Where one is 0, `a` does not count, whatever it is.
    keepdims : bool
        Keep the reduced axes, with length 1.
    return_sign : bool
        Also return the sign of the sum; without it a negative sum gives NaN.

    Returns
    -------
    res : ndarray or scalar
        In the dtype that SciPy returns: `a`'s own for floats (with `b`, that of both together), else float64.
    sgn : ndarray or scalar
        Only where `return_sign`: 1, 0 or -1.

    Raises
    ------
    ValueError, TypeError, numpy.exceptions.AxisError
        As SciPy does.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021), for the shifted form.

    Examples
    --------
    >>> import numpy as np
    >>> float(logsumexp(np.log([[1.0, 2.0], [3.0, 4.0]])).round(12)) == float(np.log(10.0).round(12))
    True
    >>> logsumexp([0.0, 0.0, np.inf], b=[1, 1, 0]).round(6)
    np.float64(0.693147)
    """
    x = _real_array(a)
    weighted = _weighted(x, b) if x is not None and b is not None else x
    made = None if weighted is None else _rows(weighted, axis)
    if weighted is None or made is None:
        return scipy.special.logsumexp(_plain(a), axis=axis, b=_plain(b), keepdims=keepdims, return_sign=return_sign)
    dtype = weighted.dtype if weighted.dtype.kind == "f" else np.dtype(np.float64)
    rows = made.rows if weighted.dtype.kind == "f" else made.rows.astype(np.float64)
    with np.errstate(over="ignore"):
        out = np.asarray(ops.logsumexp(rows)).astype(dtype, copy=False)
    _repair(out, rows)
    if keepdims:
        out = out.reshape([1 if i in made.axes else size for i, size in enumerate(weighted.shape)])
    result = out if out.ndim else out[()]
    if not return_sign:
        return result
    # No weight is negative here: the sum of the exponentials is positive, or 0 where its logarithm is -inf.
    sign = np.where(np.isnan(out), np.nan, out > -np.inf).astype(dtype)
    return result, sign if sign.ndim else sign[()]


def _plain(x: Any) -> Any:
    """Return what SciPy should be given: foreign arrays as NumPy's, everything else as it is."""
    return as_array(x, "x") if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray) else x


def _repair(out: Array, rows: Array) -> None:
    """Replace sums of infinities, and those that cancel to nearly 0, by what SciPy makes of these rows."""
    odd = np.asarray(~np.isfinite(out))
    near = np.abs(out) < _NEAR_ZERO
    if near.any():
        odd[near] |= np.abs(rows[near].max(axis=-1)) < _NEAR_ZERO
    if odd.any():
        out[odd] = scipy.special.logsumexp(rows[odd], axis=-1)


def _weighted(x: Array, b: Any) -> Array | None:
    """Return a + log(b), -inf where b is 0; None for weights that are negative, not finite, not real or one number."""
    if np.ndim(b) == 0:  # of SciPy's own promotion
        return None
    w = np.asarray(b, np.int8) if getattr(b, "dtype", None) == np.bool_ else _real_array(b)
    if w is None or not np.isfinite(w).all() or (w < 0).any():
        return None
    try:
        x, w = np.broadcast_arrays(x, w)
    except ValueError:
        return None
    dtype = np.result_type(x, w)
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    absent = w == 0
    if absent.any() and not np.isfinite(x[absent]).all():
        return None  # 0 * inf: not counted, unless nothing is
    total = np.where(absent, 1, w).astype(dtype)
    np.log(total, out=total)
    np.add(total, x, out=total, where=~absent)
    total[absent] = -np.inf
    return total


def _normalised(x: Any, axis: Any, log: bool) -> Any:
    a = _real_array(x)
    made = None if a is None else _rows(a, axis)
    if a is None or made is None:
        return (scipy.special.log_softmax if log else scipy.special.softmax)(_plain(x), axis=axis)
    rows = made.rows
    result = ops.log_softmax(rows) if log else ops.softmax(rows)
    if log:
        # A row without a distribution is NaN all over; SciPy leaves its finite elements at -inf where there is a +inf.
        odd = np.isnan(result[..., 0])
        if odd.any():
            with np.errstate(invalid="ignore"):
                result[odd] = scipy.special.log_softmax(rows[odd].astype(result.dtype), axis=-1)
    if a.dtype.kind in "iu":  # what NumPy's exp makes of these integers, which is what SciPy returns
        result = result.astype(np.exp(np.zeros(1, a.dtype)).dtype)
    return made.back(result)


def softmax(x: npt.ArrayLike, axis: Any = None) -> Any:
    r"""Return :math:`\exp x / \sum \exp x`, the sum over the given axes: `scipy.special.softmax`.

    Parameters
    ----------
    x : array_like
        Any strides.
    axis : int, tuple of int, or None
        Axes that sum to 1; None, the default, means the whole array.

    Returns
    -------
    ndarray or scalar
        Of x's shape, in the dtype that SciPy returns: x's own for floats, and for integers float16, float32 or
        float64 by their size. Unsigned integers, which SciPy lets wrap around, are taken at their value.

    Raises
    ------
    ValueError, TypeError, numpy.exceptions.AxisError
        As SciPy does.

    References
    ----------
    J. S. Bridle, "Probabilistic interpretation of feedforward classification network outputs" (1990).

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.zeros((2, 2))).tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    """
    return _normalised(x, axis, log=False)


def log_softmax(x: npt.ArrayLike, axis: Any = None) -> Any:
    r"""Return :math:`x - \log \sum \exp x`, the sum over the given axes: `scipy.special.log_softmax`.

    Parameters
    ----------
    x : array_like
        Any strides.
    axis : int, tuple of int, or None
        Axes to normalise over; None, the default, means the whole array.

    Returns
    -------
    ndarray or scalar
        Of x's shape and in `softmax`'s dtype. In a row with +inf the finite elements are -inf, as SciPy has them.

    Raises
    ------
    ValueError, TypeError, numpy.exceptions.AxisError
        As SciPy does.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021), for the shifted form.

    Examples
    --------
    >>> import numpy as np
    >>> log_softmax(np.log([[1.0, 2.0], [1.0, 4.0]])).round(6).tolist()
    [[-2.079442, -1.386294], [-2.079442, -0.693147]]
    """
    return _normalised(x, axis, log=True)
