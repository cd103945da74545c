"""logsumexp, softmax, log_softmax and their vector-Jacobian products."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from fastnll import events
from fastnll.arrays import as_float_array, check_axis, out_rows, rows_view, split_axes
from fastnll.dtypes import row_dtype
from fastnll.errors import DTypeError, ShapeError
from fastnll.kernels import registry
from fastnll.kernels.spec import SoftmaxTask, VjpTask
from fastnll.plan import make_plan

__all__ = ["log_softmax", "log_softmax_vjp", "logsumexp", "softmax", "softmax_vjp"]

Array = npt.NDArray[Any]

# Small plain arrays, where the compiled kernels are there.
_small, _logsumexp = registry.short_cut("small_softmax"), registry.short_cut("small_logsumexp")


def logsumexp(
    x: npt.ArrayLike,
    axis: SupportsIndex = -1,
    *,
    keepdims: bool = False,
    out: Array | None = None,
    threads: SupportsIndex | None = None,
) -> Any:
    r"""Return :math:`\log \sum_v \exp x_v` along an axis, without overflow and in one read of `x`.

    Parameters
    ----------
    x : array_like (..., V, ...)
        float64, float32, float16 or bfloat16; integers are taken as float64. Any strides.
    axis : int
        The class axis.
    keepdims : bool
        Keep the class axis, with length 1.
    out : ndarray, optional
        Receives the result.
    threads : int, optional
        Threads for this call.

    Returns
    -------
    ndarray or scalar
        Shape of `x` without the class axis, in nats: float64 for float64 and integers, else float32.
        A row of only -inf gives -inf, a row with +inf gives +inf, a row with NaN gives NaN.

    Raises
    ------
    ShapeError, DTypeError
        If `x` has no classes or no such axis, or `out` does not fit.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> round(float(logsumexp(np.array([1000.0, 1000.0]))), 9)
    1000.693147181
    """
    recorder = events.active
    if recorder is None and axis == -1 and not keepdims and out is None and threads is None and _logsumexp is not None:
        short = _logsumexp(x)
        if short is not None:
            return short
    start = 0 if recorder is None else events.clock()
    a = as_float_array(x, "x")
    axis = check_axis(axis, a.ndim, "x")
    rows = rows_view(split_axes(a, axis), "x")
    lse = np.empty(rows.shape[0] * rows.shape[1], row_dtype(a.dtype))
    plan = make_plan(rows.size, threads)
    plan.backend.logsumexp(SoftmaxTask(rows, lse=lse, threads=plan.threads))
    if recorder is not None:
        recorder.done(events.OP, "logsumexp", start)
    shape = (*a.shape[:axis], *((1,) if keepdims else ()), *a.shape[axis + 1 :])
    result = lse.reshape(shape)
    if out is None:
        return result if shape else result[()]
    if out.shape != shape:
        raise ShapeError(f"out: expected shape {shape}, got {out.shape}")
    if out.dtype != lse.dtype:
        raise DTypeError(f"out: expected dtype {lse.dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise DTypeError("out: expected a writeable array, got a read-only one; pass a copy")
    out[...] = result
    return out


def _softmax(x: npt.ArrayLike, axis: SupportsIndex, out: Array | None, threads: Any, log: bool) -> Array:
    recorder = events.active
    if recorder is None and axis == -1 and threads is None and _small is not None:
        short: Array | None = _small(x, log, out)
        if short is not None:
            return short
    start = 0 if recorder is None else events.clock()
    a = as_float_array(x, "x")
    axis = check_axis(axis, a.ndim, "x")
    rows = rows_view(split_axes(a, axis), "x")
    result, out_view, finish = out_rows(out, (a,), axis, rows.shape)
    plan = make_plan(rows.size, threads)
    plan.backend.softmax(SoftmaxTask(rows, out=out_view, log=log, threads=plan.threads, fresh=out is None))
    if finish is not None:
        finish()
    if recorder is not None:
        recorder.done(events.OP, "log_softmax" if log else "softmax", start)
    return result


def softmax(
    x: npt.ArrayLike, axis: SupportsIndex = -1, *, out: Array | None = None, threads: SupportsIndex | None = None
) -> Array:
    r"""Return :math:`p_v = \exp x_v / \sum_u \exp x_u` along an axis.

    Parameters
    ----------
    x : array_like (..., V, ...)
        float64, float32, float16 or bfloat16; integers are taken as float64. Any strides.
    axis : int
        The class axis.
    out : ndarray, optional
        Receives the result; of x's shape and dtype; may be `x` itself.
    threads : int, optional
        Threads for this call.

    Returns
    -------
    ndarray
        Probabilities, of x's shape and dtype. A -inf logit has probability 0. A row with NaN or +inf, or
        of only -inf, is NaN. Results below twice the smallest normal number may be returned as 0.

    Raises
    ------
    ShapeError, DTypeError
        If `x` has no classes or no such axis, or `out` does not fit.

    References
    ----------
    J. S. Bridle, "Probabilistic interpretation of feedforward classification network outputs" (1990).

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.log([1.0, 3.0])).round(12).tolist()
    [0.25, 0.75]
    """
    return _softmax(x, axis, out, threads, log=False)


def log_softmax(
    x: npt.ArrayLike, axis: SupportsIndex = -1, *, out: Array | None = None, threads: SupportsIndex | None = None
) -> Array:
    r"""Return :math:`x_v - \log \sum_u \exp x_u` along an axis.

    Parameters
    ----------
    x : array_like (..., V, ...)
        float64, float32, float16 or bfloat16; integers are taken as float64. Any strides.
    axis : int
        The class axis.
    out : ndarray, optional
        Receives the result; of x's shape and dtype; may be `x` itself.
    threads : int, optional
        Threads for this call.

    Returns
    -------
    ndarray
        Log-probabilities in nats, of x's shape and dtype. A -inf logit stays -inf. A row with NaN or
        +inf, or of only -inf, is NaN.

    Raises
    ------
    ShapeError, DTypeError
        If `x` has no classes or no such axis, or `out` does not fit.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021), for the shifted form.

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(log_softmax(np.log([1.0, 3.0]))).round(12).tolist()
    [0.25, 0.75]
    """
    return _softmax(x, axis, out, threads, log=True)


def _vjp(
    y: npt.ArrayLike, grad: npt.ArrayLike, axis: SupportsIndex, out: Array | None, threads: Any, name: str
) -> Array:
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    a, g = as_float_array(y, name), as_float_array(grad, "grad")
    if g.shape != a.shape:
        raise ShapeError(f"grad: expected shape {a.shape} (that of {name}), got {g.shape}")
    if g.dtype != a.dtype:
        raise DTypeError(f"grad: expected dtype {a.dtype} (that of {name}), got {g.dtype}")
    axis = check_axis(axis, a.ndim, name)
    rows = rows_view(split_axes(a, axis), name)
    result, out_view, finish = out_rows(out, (a, g), axis, rows.shape)
    plan = make_plan(rows.size, threads)
    task = VjpTask(rows, split_axes(g, axis).reshape(rows.shape), out_view, name == "log_probs", plan.threads)
    plan.backend.softmax_vjp(task)
    if finish is not None:
        finish()
    if recorder is not None:
        recorder.done(events.OP, "log_softmax_vjp" if task.log else "softmax_vjp", start)
    return result


def log_softmax_vjp(
    log_probs: npt.ArrayLike,
    grad: npt.ArrayLike,
    axis: SupportsIndex = -1,
    *,
    out: Array | None = None,
    threads: SupportsIndex | None = None,
) -> Array:
    r"""Return the vector-Jacobian product of `log_softmax`: :math:`g_v - p_v \sum_u g_u`.

    Parameters
    ----------
    log_probs : array_like (..., V, ...)
        What `log_softmax` returned.
    grad : array_like
        Gradient with respect to `log_probs`, of its shape and dtype.
    axis : int
        The class axis.
    out : ndarray, optional
        Receives the result; may be `grad` or `log_probs` itself.
    threads : int, optional
        Threads for this call.

    Returns
    -------
    ndarray
        Gradient with respect to the logits.

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.

    References
    ----------
    `fastnll.kernels.reference.softmax_vjp` has the derivation.

    Examples
    --------
    >>> import numpy as np
    >>> log_softmax_vjp(np.log([0.25, 0.75]), np.array([1.0, 0.0])).round(12).tolist()
    [0.75, -0.75]
    """
    return _vjp(log_probs, grad, axis, out, threads, "log_probs")


def softmax_vjp(
    probs: npt.ArrayLike,
    grad: npt.ArrayLike,
    axis: SupportsIndex = -1,
    *,
    out: Array | None = None,
    threads: SupportsIndex | None = None,
) -> Array:
    r"""Return the vector-Jacobian product of `softmax`: :math:`p_v (g_v - \sum_u g_u p_u)`.

    Parameters
    ----------
    probs : array_like (..., V, ...)
        What `softmax` returned.
    grad : array_like
        Gradient with respect to `probs`, of its shape and dtype.
    axis : int
        The class axis.
    out : ndarray, optional
        Receives the result; may be `grad` or `probs` itself.
    threads : int, optional
        Threads for this call.

    Returns
    -------
    ndarray
        Gradient with respect to the logits.

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.

    References
    ----------
    `fastnll.kernels.reference.softmax_vjp` has the derivation.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_vjp(np.array([0.25, 0.75]), np.array([1.0, 0.0])).tolist()
    [0.1875, -0.1875]
    """
    return _vjp(probs, grad, axis, out, threads, "probs")
