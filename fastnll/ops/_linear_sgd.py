"""SGD on the weight of a linear head while its gradient is made: group after group of classes, none of it kept.

The weight may change only after all rows have seen it, so the rows' loop runs inside that over groups of classes, and
a row's whole softmax has to be known before: a first sweep computes each group's logsumexp (one product more than the
three of the gradients). In the second sweep the classes outside a group take part as a single one, whose logit is the
logsumexp of theirs: softmax, loss and gradient inside the group are those of the whole vocabulary, by the loss' own
kernels. Where the logits of all rows fit into the workspace, they are computed once and kept, and any option goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.errors import DTypeError, OptionError
from fastnll.kernels.spec import CrossEntropyTask, LinearTask, SoftmaxTask
from fastnll.ops._linear_grads import Grads
from fastnll.ops._linear_plan import MemoryItem, MemoryPlan
from fastnll.ops._linear_problem import LinearProblem, chunk_tasks
from fastnll.ops._linear_run import store_losses
from fastnll.ops.update import sgd_update

__all__ = ["GROUP", "check_sgd", "group_items", "sgd_loop"]

Array = npt.NDArray[Any]

# Classes of a group: its weights, their gradient and a chunk's logits are a few megabytes each.
GROUP = 4096
_NAMES = ("lr", "momentum_buffer", "momentum", "dampening", "nesterov", "weight_decay", "maximize", "first_step")


def check_sgd(value: Any, weight: Any) -> dict[str, Any] | None:
    """Return the arguments of `fastnll.sgd_update`, or None.

    Raises
    ------
    OptionError
        For something else than a mapping with a learning rate and names that `fastnll.sgd_update` knows.
    DTypeError
        If the weight cannot be updated in place.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or "lr" not in value or any(name not in _NAMES for name in value):
        raise OptionError(f"sgd: expected a mapping with 'lr' and maybe {', '.join(_NAMES[1:])}, got {value!r}")
    if not isinstance(weight, np.ndarray) or not (weight.flags.c_contiguous and weight.flags.writeable):
        raise DTypeError("weight: expected a writeable C-contiguous numpy array beside sgd, for it is updated in place")
    buffer = value.get("momentum_buffer")
    if buffer is not None and (
        not isinstance(buffer, np.ndarray)
        or (buffer.shape, buffer.dtype) != (weight.shape, weight.dtype)
        or not (buffer.flags.c_contiguous and buffer.flags.writeable)
    ):
        raise DTypeError(
            f"sgd['momentum_buffer']: expected a writeable C-contiguous array of the weight's shape "
            f"{weight.shape} and dtype {weight.dtype}"
        )
    return dict(value)


def group_items(live: int, v: int, d: int, storage: int, compute: int) -> tuple[MemoryItem, ...]:
    """Return what the two sweeps need beside the chunk's own buffers.

    Examples
    --------
    >>> [item.bytes for item in group_items(10, 5000, 2, 4, 4)]
    [65536, 320]
    """
    why = "gradient of the weights of a group of classes, and the same as it is stored"
    groups = -(-v // GROUP)
    return (
        MemoryItem("group", min(GROUP, v) * d * (compute + storage), why),
        MemoryItem("logsumexps", 2 * live * groups * 8, "of each row in each group of classes"),
    )


def _slices(task: CrossEntropyTask, lp: LinearProblem) -> bool:
    """Whether the loss may be taken group by group: class ids, nothing that sees the other classes one by one."""
    mask = task.class_mask
    if task.targets is None:
        return False
    ids = task.targets.reshape(-1)[lp.live]
    return (
        not ((ids < 0) | (ids >= lp.weight.shape[0])).any()
        and task.smoothing == task.softcap == 0.0
        and (mask is None or mask.shape[:2] == (1, 1))
    )


def sgd_loop(
    lp: LinearProblem,
    grads: Grads,
    weight: Array,
    step: dict[str, Any],
    *,
    plan: MemoryPlan,
    accumulate: bool,
) -> Callable[[CrossEntropyTask], None]:
    """Return what runs the loss' task, writes the gradients of hidden and bias, and updates the weight.

    Parameters
    ----------
    lp : LinearProblem
    grads : Grads
        Without a weight.
    weight : (V, D) array
        The user's, with the classes that do not take part.
    step : dict
        Arguments of `fastnll.sgd_update`.
    plan : MemoryPlan
        For groups of classes; where its bound has room for the logits of all rows, they are held.
    accumulate : bool
        Add to the gradients of hidden and bias.
    """
    threads = plan.threads
    every = lp.live.size * lp.weight.shape[0] * lp.kind.itemsize
    whole = plan.workspace - plan.bytes_of("logits") + every <= plan.bound
    buffer, keywords = step.get("momentum_buffer"), {k: a for k, a in step.items() if k != "momentum_buffer"}

    def update(first: int, stop: int, gradient: Array) -> None:
        part = None if buffer is None else buffer[first:stop]
        g = gradient.astype(weight.dtype, copy=False)
        sgd_update(weight[first:stop], g, part, threads=threads, **keywords)

    def run(task: CrossEntropyTask) -> None:
        losses = np.zeros(lp.hidden.shape[0])
        if not whole and not _slices(task, lp):
            raise OptionError(
                "sgd: expected class ids, without label_smoothing, softcap or a class_mask for each row, or else a "
                f"max_memory that holds the logits of all {lp.live.size} rows: at least "
                f"{plan.workspace - plan.bytes_of('logits') + every}, got {plan.bound}"
            )
        _Sweeps(lp, grads, task, losses, plan, accumulate).run(whole, update)
        n = lp.weight.shape[0]
        for first in range(n, lp.columns, GROUP):  # padding has a gradient of 0: weight decay and momentum go on
            stop = min(first + GROUP, lp.columns)
            update(first, stop, np.zeros((stop - first, weight.shape[1]), weight.dtype))
        store_losses(task, losses)

    return run


class _Sweeps:
    """One call's walk over groups of classes and chunks of rows."""

    def __init__(
        self, lp: LinearProblem, grads: Grads, task: CrossEntropyTask, losses: Array, plan: MemoryPlan, accumulate: bool
    ) -> None:
        self.lp, self.grads, self.task, self.losses = lp, grads, task, losses
        self.accumulate, self.threads, self.rows = accumulate, plan.threads, plan.rows
        self.workspace = np.empty(plan.bytes_of("hidden") + plan.bytes_of("tiles") + 64, np.uint8)
        v = lp.weight.shape[0]
        self.groups = [(v0, min(v0 + GROUP, v)) for v0 in range(0, v, GROUP)]

    def chunks(self) -> Iterator[tuple[int, Array]]:
        """Yield where each chunk begins, and its rows."""
        for start in range(0, self.lp.live.size, self.rows):
            yield start, self.lp.live[start : start + self.rows]

    def products(self, group: tuple[int, int], rows: Array, logits: Array) -> LinearTask:
        """Return the task of some rows and one group."""
        lp, (v0, v1) = self.lp, group
        bias = None if lp.bias is None else lp.bias[v0:v1]
        return LinearTask(
            lp.hidden, lp.weight[v0:v1], rows, logits, bias, workspace=self.workspace, threads=self.threads
        )

    def run(self, whole: bool, update: Callable[[int, int, Array], None]) -> None:
        """Take the losses, write the gradients, update the weight."""
        lp, backend = self.lp, self.lp.problem.plan.backend
        v, d = lp.weight.shape
        self.task.grad = self.task.x
        if whole:
            logits, loss = np.empty((lp.live.size, v), lp.kind), np.empty(lp.live.size)
            for at, rows in self.chunks():
                x, own = logits[at : at + rows.size], loss[at : at + rows.size]
                for group in self.groups:
                    backend.linear_logits(self.products(group, rows, x[:, group[0] : group[1]]))
                for part in chunk_tasks(self.task, rows, x, own, self.threads):
                    backend.cross_entropy(part)
            self.losses[lp.live] = loss
        else:
            others = self._others()
            block = np.empty((min(self.rows, lp.live.size), min(GROUP, v) + 1), lp.kind)
        gradient = np.empty((min(GROUP, v), d), lp.kind)
        for number, group in enumerate(self.groups):
            v0, v1 = group
            if not lp.live.size:
                gradient[...] = 0.0
            for at, rows in self.chunks():
                if whole:
                    g = logits[at : at + rows.size, v0:v1]
                else:
                    g = self._slice(group, rows, block[: rows.size, : v1 - v0 + 1], others[at : at + rows.size, number])
                self._add(group, rows, g, gradient[: v1 - v0], first_rows=at == 0, first_group=number == 0)
            update(v0, v1, gradient[: v1 - v0])

    def _add(
        self, group: tuple[int, int], rows: Array, g: Array, gradient: Array, *, first_rows: bool, first_group: bool
    ) -> None:
        """Run the gradients' products of some rows and one group."""
        products = self.products(group, rows, g)
        products.grad_hidden = self.grads.hidden_rows
        products.add_hidden = self.accumulate or not first_group
        products.grad_weight, products.add_weight = gradient, not first_rows
        if self.grads.bias_sum is not None:
            products.grad_bias = self.grads.bias_sum[group[0] : group[1]]
        self.lp.problem.plan.backend.linear_grads(products)

    def _others(self) -> Array:
        """Return, for each live row and group, the logsumexp of the classes of all other groups."""
        lp, backend = self.lp, self.lp.problem.plan.backend
        block = np.empty((min(self.rows, lp.live.size), min(GROUP, lp.weight.shape[0])), lp.kind)
        own = np.empty((lp.live.size, len(self.groups)))
        for number, (v0, v1) in enumerate(self.groups):
            for at, rows in self.chunks():
                x = block[: rows.size, : v1 - v0]
                backend.linear_logits(self.products((v0, v1), rows, x))
                self._transform(x, v0, v1)
                lse = np.empty(rows.size)
                backend.logsumexp(SoftmaxTask(x[None], lse=lse, threads=self.threads))
                own[at : at + rows.size, number] = lse
        others = np.full_like(own, -np.inf)
        with np.errstate(all="ignore"):
            for number in range(own.shape[1]):  # what comes before a group, and what comes after it
                if number:
                    others[:, number] = np.logaddexp.reduce(own[:, :number], axis=1)
                if number + 1 < own.shape[1]:
                    after = np.logaddexp.reduce(own[:, number + 1 :], axis=1)
                    others[:, number] = np.logaddexp(others[:, number], after)
        return others

    def _transform(self, x: Array, v0: int, v1: int) -> None:
        """Apply what the options make of logits to a block of them."""
        if self.task.temperature != 1.0:
            x /= x.dtype.type(self.task.temperature)
        if self.task.class_mask is not None:
            x[:, ~self.task.class_mask[0, 0, v0:v1]] = -np.inf

    def _slice(self, group: tuple[int, int], rows: Array, x: Array, others: Array) -> Array:
        """Return the gradient of the logits of one group: its classes, and one for all others."""
        (v0, v1), lp, task = group, self.lp, self.task
        assert task.targets is not None
        n = v1 - v0
        lp.problem.plan.backend.linear_logits(self.products(group, rows, x[:, :n]))
        x[:, n] = others * task.temperature
        ids = task.targets.reshape(-1)[rows].astype(np.int64)
        inside = (ids >= v0) & (ids < v1)
        mask = None
        if task.class_mask is not None:
            mask = np.ones((1, 1, n + 1), bool)
            mask[..., :n] = task.class_mask[..., v0:v1]
        loss = np.empty(rows.size)

        def some(a: Array | None) -> Array | None:
            return None if a is None else a[rows]

        lp.problem.plan.backend.cross_entropy(
            CrossEntropyTask(
                x[None],
                targets=np.where(inside, ids - v0, n)[None],
                class_mask=mask,
                row_weight=some(task.row_weight),
                target_weight=some(task.target_weight),
                grad_weight=some(task.grad_weight),
                grad_scale=task.grad_scale,
                z_loss=task.z_loss,
                temperature=task.temperature,
                loss=loss,
                grad=x[None],
                threads=self.threads,
            )
        )
        self.losses[rows[inside]] = loss[inside]
        return x[:, :n]
