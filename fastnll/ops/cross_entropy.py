"""Cross-entropy: value, value and gradient, details; one pass over the logits each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll import events
from fastnll.dtypes import row_dtype
from fastnll.errors import OptionError
from fastnll.kernels import registry
from fastnll.kernels.observed import note_short
from fastnll.ops._problem import Problem, grad_factors, make_problem, prepare_grad, raise_nonfinite, reduce_loss
from fastnll.ops._verify import verified
from fastnll.options import LossOptions

__all__ = [
    "CrossEntropyDetails",
    "cross_entropy",
    "cross_entropy_details",
    "cross_entropy_value_and_grad",
    "details_with",
    "value_and_grad_with",
    "value_with",
]

Array = npt.NDArray[Any]

# The compiled backend's short way in for small batches under default options; None where there is no compiled backend.
_small = registry.short_cut("small_cross_entropy")


class CrossEntropyDetails(NamedTuple):
    """What one pass over the logits says about each token; every array has the targets' shape.

    Rows that are ignored or masked hold 0 (nll, lse, entropy), -1 (argmax, rank) and False (correct).

    Attributes
    ----------
    nll : float array
        -log p(target), in nats.
    lse : float array
        logsumexp of the (transformed) logits.
    argmax : int64 array
        The most probable class, the first of equals.
    correct : bool array
        Whether that is the target.
    rank : int64 array
        Number of classes that are more probable than the target: 0 where none is.
    entropy : float array
        Entropy of the predicted distribution, in nats.

    Examples
    --------
    >>> cross_entropy_details([[0.0, 0.0]], [1]).entropy.round(6).tolist()
    [0.693147]
    """

    nll: Array
    lse: Array
    argmax: Array
    correct: Array
    rank: Array
    entropy: Array


def value_with(o: LossOptions, logits: npt.ArrayLike, targets: Any) -> Any:
    """Return the loss for checked options."""
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    p = make_problem(o, logits, targets)
    loss = reduce_loss(o, p, verified(o, p, p.plan.backend.cross_entropy))
    if recorder is not None:
        recorder.done(events.OP, "cross_entropy", start)
    return loss


def value_and_grad_with(
    o: LossOptions, logits: npt.ArrayLike, targets: Any, grad_output: Any = None, out: Array | None = None
) -> tuple[Any, Array]:
    """Return the loss and its gradient for checked options."""
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    p = make_problem(o, logits, targets)
    grad_factors(o, p, grad_output)
    result, finish = prepare_grad(p, out)
    loss = reduce_loss(o, p, verified(o, p, p.plan.backend.cross_entropy))
    if finish is not None:
        finish()
    if recorder is not None:
        recorder.done(events.OP, "cross_entropy_value_and_grad", start)
    return loss, result


def details_with(o: LossOptions, logits: npt.ArrayLike, targets: Any) -> CrossEntropyDetails:
    """Return the details for checked options."""
    recorder = events.active
    start = 0 if recorder is None else events.clock()
    p: Problem = make_problem(o, logits, targets)
    task = p.task
    if task.targets is None:
        raise OptionError("targets: expected class ids for cross_entropy_details, got probabilities")
    n = task.x.shape[0] * task.x.shape[1]
    rows = row_dtype(p.logits.dtype)
    # The details describe the distribution: no weights, smoothing or penalties in them.
    task.row_weight = None if task.row_weight is None else (task.row_weight != 0.0).astype(np.float64)
    task.target_weight = task.class_weight = None
    task.smoothing = task.z_loss = 0.0
    task.loss, task.lse, task.entropy = (np.empty(n, rows) for _ in range(3))
    task.argmax, task.rank = np.empty(n, np.int64), np.empty(n, np.int64)
    p.plan.backend.cross_entropy(task)
    if o.nonfinite == "raise":
        raise_nonfinite(task.loss, p.shape)
    correct = task.argmax == task.targets.reshape(-1)
    if task.row_weight is not None:
        correct &= task.row_weight != 0.0
    nll, lse, argmax, right, rank, entropy = (
        a.reshape(p.shape) for a in (task.loss, task.lse, task.argmax, correct, task.rank, task.entropy)
    )
    if recorder is not None:
        recorder.done(events.OP, "cross_entropy_details", start)
    return CrossEntropyDetails(nll, lse, argmax, right, rank, entropy)


def cross_entropy(logits: npt.ArrayLike, targets: Any, **options: Any) -> Any:
    r"""Return the negative log-likelihood of the targets under softmax(logits).

    With :math:`a` the logits after ``temperature`` and ``softcap``, :math:`\mathrm{lse} = \log\sum_v e^{a_v}` over the
    ``valid_classes``, and :math:`\epsilon` the label smoothing, a row's loss is

    .. math:: \mathrm{token\_weight}\,[(1-\epsilon) w_t (\mathrm{lse}-a_t)
              + \tfrac{\epsilon}{V}\textstyle\sum_v w_v(\mathrm{lse}-a_v) + z\,\mathrm{lse}^2].

    Parameters
    ----------
    logits : array_like (..., V, ...)
        float64, float32, float16 or bfloat16, of any strides; never copied, read once.
    targets : integer array, float array, or tuple
        Class ids of any integer dtype, of the logits' shape without the class axis; or probabilities of
        the logits' own shape; or ``(ids, probs)`` of shape (..., K), the sparse top-k of a teacher.
    **options
        As `fastnll.options.LossOptions` lists them: ``reduction``, ``ignore_index``, ``mask``,
        ``token_weight``,
        ``weight``, ``label_smoothing``, ``z_loss``, ``softcap``, ``temperature``, ``valid_classes``, ``class_mask``,
        ``normalizer``, ``offsets``, ``shift``, ``empty``, ``axis``, ``threads``, ``validate``, ``nonfinite``,
        ``verify``.

    Returns
    -------
    float or ndarray
        In nats. A Python float for the reductions "mean" and "sum"; for "none" an array of the targets'
        shape, for "sequence_sum" and "sequence_mean" one number per sequence: float64 for float64
        logits, else float32.

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.
    LabelError
        If a live target is no class id: the first position, its value, the range and how many.
    OptionError
        If an option is unknown in value, or nothing is live and ``empty="raise"``.

    Notes
    -----
    A row that is ignored or masked is never read. -inf logits are classes of probability 0. A row with
    NaN or +inf, or of only -inf, gives NaN.

    References
    ----------
    `fastnll.kernels.reference.cross_entropy` has the derivation. C. Szegedy et al. (2016) for label
    smoothing; A. de Brebisson and P. Vincent (2016) for the z-loss.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    >>> round(cross_entropy(logits, [0, 2]), 6)
    0.458145
    >>> cross_entropy(logits, [0, -100], reduction="none").round(6).tolist()
    [0.693147, 0.0]
    """
    if not options and _small is not None:
        recorder = events.active
        start = 0 if recorder is None else events.clock()
        found = _small(logits, targets, False, None)
        if found is not None:
            if recorder is not None:
                note_short(recorder, "cross_entropy", start, logits, False, None)
            return found[0]
    return value_with(LossOptions.make(options), logits, targets)


def cross_entropy_value_and_grad(
    logits: npt.ArrayLike, targets: Any, *, grad_output: Any = None, out: Array | None = None, **options: Any
) -> tuple[Any, Array]:
    r"""Return the loss and its gradient with respect to the logits, in one call.

    For plain class ids the gradient of a row's loss is :math:`\mathrm{softmax}(x) - \mathrm{onehot}(t)`.

    Parameters
    ----------
    logits, targets, **options
        As for `cross_entropy`.
    grad_output : float or array, optional
        Upstream gradient: a scalar, or one number per element of the returned loss.
    out : ndarray, optional
        Receives the gradient; of the logits' shape and dtype. May be `logits` itself, which is then
        overwritten: the cheapest way by far, for a fresh array costs page faults.

    Returns
    -------
    loss : float or ndarray
        As for `cross_entropy`.
    grad : ndarray
        Gradient of the loss (of its sum, for array-valued reductions), times `grad_output`, in the logits'
        shape and dtype. Exactly 0 in rows that are ignored or masked, which are never read.

    Raises
    ------
    ShapeError, DTypeError, LabelError, OptionError
        As for `cross_entropy`, and if `out` or `grad_output` does not fit.

    References
    ----------
    `fastnll.kernels.reference.cross_entropy` has the derivation.

    Examples
    --------
    >>> import numpy as np
    >>> loss, grad = cross_entropy_value_and_grad(np.log([[0.25, 0.75]]), [0])
    >>> grad.round(12).tolist()
    [[-0.75, 0.75]]
    """
    if not options and _small is not None and grad_output is None:
        recorder = events.active
        start = 0 if recorder is None else events.clock()
        found: tuple[Any, Array] | None = _small(logits, targets, True, out)
        if found is not None:
            if recorder is not None:
                note_short(recorder, "cross_entropy_value_and_grad", start, logits, True, out)
            return found
    return value_and_grad_with(LossOptions.make(options), logits, targets, grad_output, out)


def cross_entropy_details(logits: npt.ArrayLike, targets: Any, **options: Any) -> CrossEntropyDetails:
    """Return nll, logsumexp, argmax, correctness, rank and entropy of every token, in one pass.

    Parameters
    ----------
    logits, targets, **options
        As for `cross_entropy`, with class ids as targets. Options that say which rows and classes count
        and how logits are transformed apply; weights, smoothing, z_loss and reductions do not.

    Returns
    -------
    CrossEntropyDetails
        Named arrays of the targets' shape.

    Raises
    ------
    ShapeError, DTypeError, LabelError, OptionError
        As for `cross_entropy`.

    References
    ----------
    `fastnll.kernels.reference.cross_entropy` has the formulas.

    Examples
    --------
    >>> import numpy as np
    >>> d = cross_entropy_details(np.log([[0.5, 0.25, 0.25]]), [2])
    >>> d.argmax.tolist(), d.correct.tolist(), d.rank.tolist(), d.nll.round(6).tolist()
    ([0], [False], [1], [1.386294])
    """
    return details_with(LossOptions.make(options), logits, targets)
