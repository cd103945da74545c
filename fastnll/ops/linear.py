"""The linear head and the cross-entropy in one: the loss of ``hidden @ weight.T + bias`` without those logits."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from fastnll import events
from fastnll.errors import OptionError
from fastnll.kernels.spec import CrossEntropyTask
from fastnll.ops._linear_filter import Filter, FilterReport, check_filter
from fastnll.ops._linear_grads import WRT, Grads, LinearGrads, check_wrt, prepare_grads
from fastnll.ops._linear_memory import memory_plan, sizes_of
from fastnll.ops._linear_plan import MemoryPlan, check_max_memory, plan_memory
from fastnll.ops._linear_problem import LinearProblem, make_linear
from fastnll.ops._linear_run import Run, chunk_loop, is_plain, value_loop
from fastnll.ops._linear_sgd import check_sgd, sgd_loop
from fastnll.ops._linear_verify import verified_linear
from fastnll.ops._problem import grad_factors, reduce_loss
from fastnll.options import LossOptions

__all__ = [
    "FilterReport",
    "LinearGrads",
    "MemoryPlan",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "linear_value_and_grad_with",
    "linear_value_with",
    "memory_plan",
    "own_names",
]


def own_names(options: dict[str, Any]) -> dict[str, Any]:
    """Return options under the loss' own names: beside a weight matrix, the classes' weights are `class_weight`.

    Examples
    --------
    >>> own_names({"class_weight": [1.0], "shift": 1})
    {'weight': [1.0], 'shift': 1}
    """
    return {"weight" if name == "class_weight" else name: value for name, value in options.items()}


@events.framed("linear_cross_entropy", events.OP)
def linear_value_with(
    o: LossOptions, hidden: Any, weight: Any, targets: Any, bias: Any = None, *, max_memory: Any = None
) -> Any:
    """Return the loss of a linear head for checked options."""
    bound = check_max_memory(max_memory)
    lp = make_linear(o, hidden, weight, targets, bias)
    held = not is_plain(lp)
    plan = plan_memory(sizes_of(lp, held=held), bound, lp.problem.plan.threads)
    run = chunk_loop(lp, plan, None, False) if held else value_loop(lp, plan)
    return reduce_loss(o, lp.problem, verified_linear(o, lp, None, run))


@events.framed("linear_cross_entropy_value_and_grad", events.OP)
def linear_value_and_grad_with(
    o: LossOptions,
    hidden: Any,
    weight: Any,
    targets: Any,
    bias: Any = None,
    *,
    max_memory: Any = None,
    grad_output: Any = None,
    out: Any = None,
    accumulate: bool = False,
    wrt: Any = WRT,
    grad_dtype: Any = None,
    filter: Any = None,
    sgd: Any = None,
) -> tuple[Any, LinearGrads]:
    """Return the loss and the gradients of a linear head for checked options."""
    bound, allowed, step = check_max_memory(max_memory), check_filter(filter), check_sgd(sgd, weight)
    for name, given in (("accumulate=True", accumulate), ("sgd", step is not None)):
        if allowed is not None and given:
            raise OptionError(f"filter: expected no {name} beside it: its bound is that of gradients of one call")
    lp = make_linear(o, hidden, weight, targets, bias)
    grad_factors(o, lp.problem, grad_output)
    names = check_wrt(wrt, bias)
    if step is not None:
        names = tuple(name for name in names if name != "weight")
    grads = prepare_grads(lp, names, out, accumulate, grad_dtype, (hidden, weight, bias))
    filtering = allowed is not None and hasattr(lp.problem.plan.backend, "linear_slices")
    sizes = sizes_of(lp, names or ("weight",), grads, out, filtered=filtering, sgd=step is not None)
    plan = plan_memory(sizes, bound, lp.problem.plan.threads)
    report: list[FilterReport] = []
    if step is not None:
        run = sgd_loop(lp, grads, weight, step, plan=plan, accumulate=accumulate)
    elif allowed is not None and filtering:
        run = _filtered(lp, plan, grads, allowed, names, report)
    else:
        run = chunk_loop(lp, plan, grads, accumulate)
        if allowed is not None:  # products that leave nothing out
            report.append(FilterReport(allowed, 0.0, 0.0, 0.0, 1.0, False))
    checked = None if accumulate or filtering else grads
    loss = reduce_loss(o, lp.problem, verified_linear(o, lp, checked, run))
    grads.finish()
    result = LinearGrads(*grads[:3])
    if report:
        result.filtered = report[0]
    return loss, result


def _filtered(
    lp: LinearProblem,
    plan: MemoryPlan,
    grads: Grads,
    allowed: float,
    names: tuple[str, ...],
    report: list[FilterReport],
) -> Run:
    """Return the run that leaves out what cannot be seen, and does all again where too much was."""

    def run(task: CrossEntropyTask) -> None:
        backend = lp.problem.plan.backend
        filtering = Filter(allowed, lp.hidden, lp.weight, lp.live, names, backend, plan.threads, lp.kind)
        chunk_loop(lp, plan, grads, False, filtering)(task)
        found = filtering.report(grads.weight_sum, grads.hidden_rows, lp.live)
        if max(found.weight_error, found.hidden_error) > allowed:
            chunk_loop(lp, plan, grads, False)(task)
            found = FilterReport(allowed, 0.0, 0.0, 0.0, 1.0, True)
        report.append(found)

    return run


def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    targets: Any,
    bias: npt.ArrayLike | None = None,
    *,
    max_memory: int | None = None,
    **options: Any,
) -> Any:
    r"""Return the cross-entropy of the logits ``hidden @ weight.T + bias``, which are never held.

    Rows are worked on in chunks: a chunk's logits are computed, their loss taken, and the memory used again. Rows
    that are ignored, masked or of weight 0 are left out before any product.

    Parameters
    ----------
    hidden : array_like (..., D)
        float64, float32, float16 or bfloat16.
    weight : array_like (V, D)
        One row per class, of hidden's dtype.
    targets : integer array, float array, or tuple
        As for `fastnll.cross_entropy`, for logits of shape (..., V).
    bias : array_like (V,), optional
        Of hidden's dtype, or float32 beside 16-bit ones.
    max_memory : int, optional
        Most bytes of workspace; `fastnll.memory_plan` says what they go to. 30 MiB where not given.
    **options
        Those of `fastnll.cross_entropy`, all of them; the weights of the classes are called ``class_weight`` here.

    Returns
    -------
    float or ndarray
        As `fastnll.cross_entropy` does, with hidden's dtype in place of that of the logits.

    Raises
    ------
    ShapeError, DTypeError, LabelError
        If the arrays do not fit each other, or a live target is no class id.
    OptionError
        If an option has a value that means nothing, or `max_memory` is too little: the message says the least that
        would do.

    References
    ----------
    `fastnll.kernels.reference.cross_entropy` derives the loss. Chunks of rows: P.-L. Hsu et al., "Liger Kernel" (2024);
    no logits at all: E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2024).

    Examples
    --------
    >>> import numpy as np
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> round(linear_cross_entropy(hidden, weight, [0, -100]), 6)
    0.861995
    """
    return linear_value_with(LossOptions.make(own_names(options)), hidden, weight, targets, bias, max_memory=max_memory)


def linear_cross_entropy_value_and_grad(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    targets: Any,
    bias: npt.ArrayLike | None = None,
    *,
    max_memory: int | None = None,
    grad_output: Any = None,
    out: Any = None,
    accumulate: bool = False,
    wrt: Any = WRT,
    grad_dtype: npt.DTypeLike | None = None,
    filter: float | None = None,
    sgd: Any = None,
    **options: Any,
) -> tuple[Any, LinearGrads]:
    r"""Return the loss of a linear head and its gradients, without holding the logits.

    With G the gradient of the logits, those are :math:`G W` (hidden), :math:`G^T H` (weight) and the column sums of G
    (bias).

    Parameters
    ----------
    hidden, weight, targets, bias, **options
        As for `linear_cross_entropy`.
    max_memory : int, optional
        Most bytes of workspace, beside the gradients themselves; 120 MiB where not given.
    grad_output : float or array, optional
        Upstream gradient: a scalar, or one number per element of the returned loss.
    out : LinearGrads or tuple (hidden, weight, bias), optional
        C-contiguous arrays that receive the gradients; None for those to be made.
    accumulate : bool
        Add the gradients to what is in `out`, in place of overwriting it.
    wrt : str or sequence of str
        Which gradients: some of "hidden", "weight", "bias". The others are None, and cost nothing.
    grad_dtype : dtype, optional
        Of the gradients that are made: what is computed in (float32 for 16-bit inputs), the default, or the inputs'
        dtype.
    filter : float, optional
        Allowed relative error of the gradients of weight and hidden, in the Frobenius norm, such as 1e-3: elements of
        the logits' gradient too small to matter are left out of the products. What was left out is summed and the
        error it makes bounded; should the bound exceed what is allowed, all is computed again in full. Peaked
        distributions gain, flat ones lose nothing. ``grads.filtered`` is the `FilterReport`, which says how the bound
        is proved.
    sgd : mapping, optional
        Arguments of `fastnll.sgd_update` (``lr``, ``momentum_buffer``, ...): `weight` takes that step in place, part by
        part as the gradient is made, which is never held; ``grads.weight`` is None. Costs a fourth product, or, where
        `max_memory` holds the logits of all rows, none. The same step as that of the whole gradient, up to rounding.

    Returns
    -------
    loss : float or ndarray
        As for `linear_cross_entropy`.
    grads : LinearGrads
        Rows of the hidden gradient that are ignored are 0, or untouched with `accumulate`.

    Raises
    ------
    ShapeError, DTypeError, LabelError, OptionError
        As for `linear_cross_entropy`, and if `out`, `wrt`, `grad_dtype` or `grad_output` does not fit.

    References
    ----------
    As for `linear_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> hidden, weight = np.array([[2.0]]), np.array([[0.0], [0.0]])
    >>> loss, grads = linear_cross_entropy_value_and_grad(hidden, weight, [1], np.zeros(2))
    >>> grads.hidden.tolist(), grads.weight.tolist(), grads.bias.tolist()
    ([[0.0]], [[1.0], [-1.0]], [0.5, -0.5])
    """
    return linear_value_and_grad_with(
        LossOptions.make(own_names(options)),
        hidden,
        weight,
        targets,
        bias,
        max_memory=max_memory,
        grad_output=grad_output,
        out=out,
        accumulate=accumulate,
        wrt=wrt,
        grad_dtype=grad_dtype,
        filter=filter,
        sgd=sgd,
    )
