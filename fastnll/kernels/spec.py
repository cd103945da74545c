"""The specification of every kernel: its task, what may alias, its error bound and its bytes.

A backend is a module with one function per name in `OPS`, each taking the task class named there.
Tasks hold arrays that `fastnll.arrays` has already checked; a kernel never checks, never raises and
writes only where its task says. Letters: N rows = ``outer * inner``, V classes, K ids per row.

Logits and whatever has their shape come as views ``(outer, inner, V)`` of any strides: two row axes are
enough to see ``(N, V)``, ``(B, T, V)`` slices and a class axis in the middle without a copy. Per-row
vectors are contiguous and have N elements, in the order of the row axes.

A row of weight 0 is absent: it is never read, its loss is 0 and its gradient exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "OPS",
    "ROW_BLOCK",
    "CrossEntropyTask",
    "GatherTask",
    "LinearLossTask",
    "LinearTask",
    "OpSpec",
    "SgdTask",
    "SoftmaxTask",
    "TargetScan",
    "VjpTask",
]

Array = npt.NDArray[Any]

# Rows are dealt to threads, and their losses summed, in blocks of this many rows. The size is part of
# the promise of bitwise reproducibility: a batch split at multiples of it adds the same block sums.
ROW_BLOCK = 64


@dataclass(slots=True, eq=False)
class SoftmaxTask:
    """logsumexp, softmax or log_softmax of each row.

    Attributes
    ----------
    x : (outer, inner, V) array
        Logits.
    out : (outer, inner, V) array, optional
        Receives probabilities, or log-probabilities where `log`; may be `x` itself.
    lse : (N,) array, optional
        Receives the logsumexp of each row.
    log : bool
        Whether `out` receives logarithms.
    threads : int
    fresh : bool
        Whether the pages of `out` have not been touched yet.
    """

    x: Array
    out: Array | None = None
    lse: Array | None = None
    log: bool = False
    threads: int = 1
    fresh: bool = False


@dataclass(slots=True, eq=False)
class VjpTask:
    """Vector-Jacobian product of log_softmax (`log`) or softmax.

    Attributes
    ----------
    y : (outer, inner, V) array
        What the forward op returned.
    grad : (outer, inner, V) array
        Gradient with respect to `y`, of y's dtype.
    out : (outer, inner, V) array
        Receives the gradient with respect to the logits; may be `grad` or `y` itself.
    """

    y: Array
    grad: Array
    out: Array
    log: bool = True
    threads: int = 1


@dataclass(slots=True, eq=False)
class CrossEntropyTask:
    """The loss of each row, its weighted sum, and its gradient.

    With a = softcap * tanh(x / (temperature * softcap)) (or x / temperature without a softcap), over the
    classes that take part, and lse = log sum_v exp(a_v), the loss of row r is

        loss_r = row_weight_r * [ (1 - eps) * sum_k c_rk * (lse - a_rk)
                                  + eps / L_r * sum_live_v w_v * (lse - a_rv) + z_loss * lse^2 ]

    where k runs over the row's target (``c = target_weight_r``, 1 where None), its top-k ids, or all
    classes with `probs`; live classes are those with a > -inf, L_r their number; and 0 * inf = 0.

    Attributes
    ----------
    x : (outer, inner, V) array
        Logits; a padded vocabulary has been cut off by the view.
    targets : (outer, inner) integer array, optional
        Class ids, read in place. Rows of weight 0 may hold anything.
    ids, id_probs : (N, K) int64 and float64 arrays, optional
        Sparse targets in place of `targets`.
    probs : (outer, inner, V) float array, optional
        Dense targets in place of `targets`.
    class_weight : (V,) float64 array, optional
        w_v. Multiplies dense and sparse targets and the smoothing term.
    class_mask : (outer or 1, inner or 1, V) bool array, optional
        True where the class takes part; elsewhere a = -inf.
    row_weight : (N,) float64 array, optional
        Weight of each row's loss, 1 where None.
    target_weight : (N,) float64 array, optional
        c_r of the integer target.
    grad_weight : (N,) float64 array, optional
        Factor of each row's gradient; `row_weight` (or 1) where None.
    grad_scale : float
        Factor of every row's gradient.
    smoothing, z_loss, temperature : float
    softcap : float
        0 for none.
    loss : (N,) array, optional
        Receives loss_r.
    block_sums : (ceil(N / ROW_BLOCK),) float64 array, optional
        Receives the sum of loss_r over each block of rows.
    grad : (outer, inner, V) array, optional
        Receives d(sum_r f_r loss_r / row_weight_r)/dx, f_r the row's gradient factor; may be `x`.
    lse, entropy : (N,) arrays, optional
        logsumexp of a (nats) and entropy of softmax(a) (nats).
    argmax, rank : (N,) int64 arrays, optional
        First class with the largest a; number of classes with a larger a than the target's.
    threads : int
    fresh : bool
        Whether the pages of `grad` have not been touched yet.
    """

    x: Array
    targets: Array | None = None
    ids: Array | None = None
    id_probs: Array | None = None
    probs: Array | None = None
    class_weight: Array | None = None
    class_mask: Array | None = None
    row_weight: Array | None = None
    target_weight: Array | None = None
    grad_weight: Array | None = None
    grad_scale: float = 1.0
    smoothing: float = 0.0
    z_loss: float = 0.0
    temperature: float = 1.0
    softcap: float = 0.0
    loss: Array | None = None
    block_sums: Array | None = None
    grad: Array | None = None
    lse: Array | None = None
    entropy: Array | None = None
    argmax: Array | None = None
    rank: Array | None = None
    threads: int = 1
    fresh: bool = False


@dataclass(slots=True, eq=False)
class GatherTask:
    """K elements of each row, minus the row's logsumexp unless the rows are log-probabilities already.

    Attributes
    ----------
    x : (outer, inner, V) array
    ids : (N, K) int64 array
        Each in 0 .. V-1, or negative for "absent": its output is 0.
    out : (N, K) array
        Of the row dtype.
    normalised : bool
        True where x holds log-probabilities: nothing is subtracted, only the elements are read.
    """

    x: Array
    ids: Array
    out: Array
    normalised: bool = False
    threads: int = 1


@dataclass(slots=True, eq=False)
class SgdTask:
    """One step of SGD on one flat array, in place, in PyTorch's order of operations.

    g = grad_scale * grad, negated where `maximize`; g += weight_decay * param; with momentum the buffer
    becomes g on the first step, momentum * buffer + (1 - dampening) * g after; the direction is the
    buffer, or g + momentum * buffer with `nesterov`; param -= lr * direction.
    """

    param: Array
    grad: Array
    buffer: Array | None
    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    grad_scale: float = 1.0
    nesterov: bool = False
    maximize: bool = False
    first_step: bool = False
    threads: int = 1


@dataclass(slots=True, eq=False)
class LinearTask:
    """The products of a linear head for some rows: ``linear_logits`` before the loss, ``linear_grads`` after it.

    C rows of N, every one of them live; V classes, D features. Sums over k are held in the compute dtype and
    are cut by size alone, so that results do not depend on `threads`.

    Attributes
    ----------
    hidden : (N, D) array
        Any strides between rows; elements of a row side by side, as in `weight`.
    weight : (V, D) array
        Of hidden's dtype.
    rows : (C,) int64 array
        The rows to work on.
    logits : (C, V) array
        Of the compute dtype. ``linear_logits`` writes ``hidden[rows] @ weight.T + bias``; ``linear_grads`` reads the
        gradient of those logits, G.
    bias : (V,) array, optional
        Of the compute dtype.
    grad_hidden : (N, D) array, optional
        ``grad_hidden[rows]`` receives ``G @ weight``, in hidden's or the compute dtype.
    grad_weight : (V, D) array, optional
        Of the compute dtype, contiguous; receives ``G.T @ hidden[rows]``.
    grad_bias : (V,) float64 array, optional
        The column sums of G are added to it.
    add_hidden, add_weight : bool
        Add to what is there, in place of overwriting it.
    workspace : uint8 array, optional
        Memory that the native products may use; they make it where None.
    threshold : float, optional
        Elements of G of at most this size may be left out of ``grad_hidden`` and ``grad_weight`` by a backend that has
        ``linear_slices``. The bias' gradient is always whole.
    mass, sums : (slices, C) float64 arrays, optional
        Beside `threshold`: receive the sum of the absolute values left out, and that of the values themselves, of each
        row in each slice of the vocabulary.
    squares, kept : (slices,) float64 arrays, optional
        Likewise the sum of their squares, and how many elements were multiplied.
    threads : int
    """

    hidden: Array
    weight: Array
    rows: Array
    logits: Array
    bias: Array | None = None
    grad_hidden: Array | None = None
    grad_weight: Array | None = None
    grad_bias: Array | None = None
    add_hidden: bool = False
    add_weight: bool = False
    workspace: Array | None = None
    threshold: float | None = None
    mass: Array | None = None
    sums: Array | None = None
    squares: Array | None = None
    kept: Array | None = None
    threads: int = 1


@dataclass(slots=True, eq=False)
class LinearLossTask:
    """The losses of some rows of a linear head, from logits that no array holds; a backend need not have it.

    For class ids, without options that transform a logit or look at the whole row. ``linear_losses`` writes `loss`
    for every row, and to `careful` which ones it could not finish: those without a finite largest logit, or whose
    target is no class. They need their logits.

    Attributes
    ----------
    hidden, weight, bias, rows, threads
        As in `LinearTask`.
    targets : (C,) int64 array
    factors : (C,) float64 array, optional
        Of each row's loss.
    loss, target_logits : (C,) float64 arrays
    careful : (C,) bool array
    workspace : uint8 array
    """

    hidden: Array
    weight: Array
    rows: Array
    targets: Array
    factors: Array | None
    loss: Array
    target_logits: Array
    careful: Array
    workspace: Array
    bias: Array | None = None
    threads: int = 1


class TargetScan(NamedTuple):
    """What one pass over integer targets found; positions count rows in C order."""

    n_ignored: int
    n_bad: int
    first_bad: int


class OpSpec(NamedTuple):
    """One line of the op table.

    Attributes
    ----------
    name : str
        Function of the backend modules.
    public : tuple of str
        Public functions that run it.
    task : type or None
        Its argument.
    aliases : str
        Which arrays may be the same memory.
    dtypes : tuple of str
        Storage dtypes of its main array.
    eps : float
        Error bound in units of the storage eps, beyond the error of the naive formula in that dtype.
    model_bytes : callable
        ``model_bytes(n, v, itemsize, mode)``: bytes that must cross the memory bus, each array once.
        Modes: "value", "out" (another array is written), "inplace".
    """

    name: str
    public: tuple[str, ...]
    task: type | None
    aliases: str
    dtypes: tuple[str, ...]
    eps: float
    model_bytes: Callable[[int, int, int, str], int]


_ALL = ("float64", "float32", "bfloat16", "float16")


def _softmax_bytes(n: int, v: int, itemsize: int, mode: str) -> int:
    return n * v * itemsize * (1 if mode == "value" else 2)


def _cross_entropy_bytes(n: int, v: int, itemsize: int, mode: str) -> int:
    return _softmax_bytes(n, v, itemsize, mode) + n * 8


def _linear_bytes(n: int, v: int, itemsize: int, mode: str) -> int:
    # Those of the logits, and of their gradient, which no memory sees: arithmetic bounds the products.
    return _softmax_bytes(n, v, itemsize, mode)


def _gather_bytes(n: int, v: int, itemsize: int, mode: str) -> int:
    # A gather from log-probabilities touches one cache line a row, not the row.
    return n * (64 + 8 + 8) if mode == "normalised" else n * (v * itemsize + 8 + 8)


OPS: dict[str, OpSpec] = {
    spec.name: spec
    for spec in (
        OpSpec("logsumexp", ("logsumexp",), SoftmaxTask, "none", _ALL, 4, _softmax_bytes),
        OpSpec("softmax", ("softmax", "log_softmax"), SoftmaxTask, "out is x", _ALL, 4, _softmax_bytes),
        OpSpec(
            "softmax_vjp",
            ("softmax_vjp", "log_softmax_vjp"),
            VjpTask,
            "out is grad or y",
            _ALL,
            4,
            lambda n, v, itemsize, mode: n * v * itemsize * 3,
        ),
        OpSpec(
            "cross_entropy",
            ("cross_entropy", "cross_entropy_value_and_grad", "cross_entropy_details"),
            CrossEntropyTask,
            "grad is x",
            _ALL,
            4,
            _cross_entropy_bytes,
        ),
        OpSpec("gather", ("nll_loss", "selected_log_probs"), GatherTask, "none", _ALL, 6, _gather_bytes),
        OpSpec(
            "sgd_update",
            ("sgd_update",),
            SgdTask,
            "none",
            _ALL,
            2,
            lambda n, v, itemsize, mode: n * itemsize * (5 if mode == "momentum" else 3),
        ),
        OpSpec(
            "linear_logits",
            ("linear_cross_entropy", "linear_cross_entropy_value_and_grad"),
            LinearTask,
            "none",
            _ALL,
            4,
            _linear_bytes,
        ),
        OpSpec("linear_grads", (), LinearTask, "none", _ALL, 4, _linear_bytes),
        OpSpec("scan_targets", (), None, "none", (), 0, lambda n, v, itemsize, mode: n * itemsize),
    )
}


def row_blocks(n_rows: int) -> int:
    """Return the number of row blocks of a batch.

    Examples
    --------
    >>> row_blocks(65)
    2
    """
    return -(-n_rows // ROW_BLOCK)


def as_float64(x: Array) -> npt.NDArray[np.float64]:
    """Return a float64 copy or view of any supported storage dtype.

    Examples
    --------
    >>> as_float64(np.ones(2, np.float16)).dtype
    dtype('float64')
    """
    return np.asarray(x, dtype=np.float64)
