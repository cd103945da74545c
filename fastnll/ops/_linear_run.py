"""The loop over chunks of rows: logits, the loss and its gradient in place, the gradients' products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.kernels.spec import ROW_BLOCK, CrossEntropyTask, LinearLossTask, LinearTask, row_blocks
from fastnll.ops._linear_filter import Filter
from fastnll.ops._linear_grads import Grads
from fastnll.ops._linear_plan import MemoryPlan
from fastnll.ops._linear_problem import LinearProblem, chunk_tasks

__all__ = ["chunk_loop", "is_plain", "logits_of", "store_losses", "value_loop"]

Array = npt.NDArray[Any]
Run = Callable[[CrossEntropyTask], None]


def logits_of(lp: LinearProblem, rows: Array, logits: Array, workspace: Array | None, threads: int) -> LinearTask:
    """Compute the logits of some rows and return the task that did."""
    task = LinearTask(lp.hidden, lp.weight, rows, logits, lp.bias, workspace=workspace, threads=threads)
    lp.problem.plan.backend.linear_logits(task)
    return task


def chunk_loop(
    lp: LinearProblem, plan: MemoryPlan, grads: Grads | None, accumulate: bool, filtering: Filter | None = None
) -> Run:
    """Return what runs the loss' task for `fastnll.ops._problem.reduce_loss`, and writes the gradients on its way."""
    backend = lp.problem.plan.backend

    def run(task: CrossEntropyTask) -> None:
        losses = np.zeros(lp.hidden.shape[0])
        logits = np.empty((plan.rows, lp.weight.shape[0]), lp.kind)
        workspace = np.empty(plan.bytes_of("hidden") + plan.bytes_of("tiles") + 64, np.uint8)
        chunk_loss = np.empty(plan.rows)
        adds = grads is not None and accumulate and grads.weight_sum_is_users
        if grads is not None:
            task.grad = task.x  # chunks overwrite their logits
            if grads.bias_sum is not None:
                grads.bias_sum[...] = 0.0
            if lp.live.size == 0 and grads.weight_sum is not None and not adds:
                grads.weight_sum[...] = 0.0
        for start in range(0, lp.live.size, plan.rows):
            rows = lp.live[start : start + plan.rows]
            c = rows.size
            products = logits_of(lp, rows, logits[:c], workspace, plan.threads)
            for part in chunk_tasks(task, rows, logits[:c], chunk_loss[:c], plan.threads):
                backend.cross_entropy(part)
            losses[rows] = chunk_loss[:c]
            if grads is not None:
                products.grad_hidden, products.add_hidden = grads.hidden_rows, accumulate
                products.grad_weight, products.add_weight = grads.weight_sum, start > 0 or adds
                products.grad_bias = grads.bias_sum
                if filtering is not None:
                    filtering.prepare(products, task, rows)
                backend.linear_grads(products)
                if filtering is not None:
                    filtering.add(products)
        store_losses(task, losses)

    return run


def is_plain(lp: LinearProblem) -> bool:
    """Whether the backend can take the losses without logits: class ids, and no option that transforms a logit."""
    task = lp.problem.task
    return (
        hasattr(lp.problem.plan.backend, "linear_losses")
        and task.targets is not None
        and task.class_mask is None
        and task.smoothing == task.z_loss == task.softcap == 0.0
        and task.temperature == 1.0
    )


def value_loop(lp: LinearProblem, plan: MemoryPlan) -> Run:
    """Return what runs the loss' task from states that take a few numbers a row, in place of logits."""
    backend = lp.problem.plan.backend

    def run(task: CrossEntropyTask) -> None:
        assert task.targets is not None
        losses = np.zeros(lp.hidden.shape[0])
        targets = task.targets.reshape(-1)
        workspace = np.empty(plan.bytes_of("hidden") + plan.bytes_of("tiles") + 64, np.uint8)
        loss, target_logits = np.empty((2, plan.rows))
        careful = np.zeros(plan.rows, bool)
        left: list[Array] = []
        for start in range(0, lp.live.size, plan.rows):
            rows = lp.live[start : start + plan.rows]
            c = rows.size
            ids = targets[rows]
            if ids.dtype == np.uint64:  # what int64 cannot hold is no class either
                ids = np.minimum(ids, np.uint64(np.iinfo(np.int64).max))
            work = (loss[:c], target_logits[:c], careful[:c], workspace)
            part = LinearLossTask(
                lp.hidden, lp.weight, rows, ids.astype(np.int64), _factors(task, rows), *work, lp.bias, plan.threads
            )
            backend.linear_losses(part)
            losses[rows] = loss[:c]
            left.append(rows[careful[:c]])
        _finish_careful(lp, plan, task, np.concatenate(left) if left else lp.live[:0], losses)
        store_losses(task, losses)

    return run


def _factors(task: CrossEntropyTask, rows: Array) -> Array | None:
    """Return the product of each row's weight and its target's."""
    both = [a[rows] for a in (task.row_weight, task.target_weight) if a is not None]
    if not both:
        return None
    return both[0] if len(both) == 1 else both[0] * both[1]


def _finish_careful(lp: LinearProblem, plan: MemoryPlan, task: CrossEntropyTask, rows: Array, losses: Array) -> None:
    """Take the losses of rows with infinities, NaN or huge logits from their logits, a few at a time."""
    if not rows.size:
        return
    few = plan.careful_rows
    logits, loss = np.empty((few, lp.weight.shape[0]), lp.kind), np.empty(few)
    for start in range(0, rows.size, few):
        some = rows[start : start + few]
        logits_of(lp, some, logits[: some.size], None, plan.threads)
        for part in chunk_tasks(task, some, logits[: some.size], loss[: some.size], plan.threads):
            lp.problem.plan.backend.cross_entropy(part)
        losses[some] = loss[: some.size]


def store_losses(task: CrossEntropyTask, losses: Array) -> None:
    """Write the losses of all rows, and the sums of their blocks, where the task asks for them."""
    with np.errstate(all="ignore"):
        if task.loss is not None:
            task.loss[...] = losses
        if task.block_sums is not None:
            blocks = np.zeros((row_blocks(losses.size), ROW_BLOCK))
            blocks.reshape(-1)[: losses.size] = losses
            task.block_sums[...] = blocks.sum(axis=1)
