"""The backend's functions: a task becomes a record, a kernel, and ranges of rows for the threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.kernels.jit import ce_general, ce_rows, elementwise, kernels, lane_kernels, pool
from fastnll.kernels.jit.constants import BLOCK, FINISH_WORDS, LANE_WORDS, LANES, SMALL_V
from fastnll.kernels.jit.records import STAMP, Record, float_type, new_record
from fastnll.kernels.spec import ROW_BLOCK, CrossEntropyTask, GatherTask, SgdTask, SoftmaxTask, TargetScan, VjpTask

__all__ = ["cross_entropy", "gather", "logsumexp", "scan_targets", "sgd_update", "softmax", "softmax_vjp"]

Array = npt.NDArray[Any]
Kernel = Callable[[Array, int, int, Array], None]


def _launch(kernel: Kernel, record: Record, threads: int, unit: int = 1) -> None:
    """Run a kernel over all rows of a record; `unit`: rows that must stay together."""
    array = record.finish()
    n_rows = int(record.fields["rows"])

    def work(start: int, stop: int) -> None:
        kernel(array, start, stop, pool.scratch(record.words, record.compute))

    if threads == 1:
        if n_rows:
            work(0, n_rows)
    else:
        pool.run(work, pool.ranges(n_rows, int(record.fields["classes"]), threads, unit), threads)


def logsumexp(task: SoftmaxTask) -> None:
    """Write the logsumexp of each row."""
    _softmax(task, None)


def softmax(task: SoftmaxTask) -> None:
    """Write softmax or log_softmax of each row."""
    _softmax(task, task.out)


def _side_by_side(x: Array) -> bool:
    """Return whether rows go side by side (see `lanes`).

    A question of the classes alone: with the number of rows in it, results would depend on how a batch
    is split.
    """
    return x.shape[2] <= SMALL_V or abs(x.strides[2]) > x.dtype.itemsize


def _softmax(task: SoftmaxTask, out: Array | None) -> None:
    lanes = _side_by_side(task.x)
    record = new_record(task.x, out, in_place=not lanes, grouped=not lanes)
    record.fields["log"] = task.log
    record.vector("lse", task.lse, code=True)
    if lanes:
        record.words = LANE_WORDS
    else:
        record.fields["lanes_at"] = record.room(FINISH_WORDS)
    _launch(lane_kernels.softmax_lanes if lanes else kernels.softmax_rows, record, task.threads, LANES if lanes else 1)


def softmax_vjp(task: VjpTask) -> None:
    """Write the vector-Jacobian product of log_softmax or softmax."""
    record = new_record(task.y, task.out, task.grad)
    record.fields["log"] = task.log
    _launch(kernels.vjp_rows, record, task.threads)


def gather(task: GatherTask) -> None:
    """Write K elements of each row, as log-probabilities."""
    record = new_record(task.x)
    record.vector("ids", task.ids)
    record.vector("picked", task.out, code=True)
    record.fields["ids_count"] = task.ids.shape[1]
    _launch(kernels.gather_normalised if task.normalised else kernels.gather_rows, record, task.threads)


def cross_entropy(task: CrossEntropyTask) -> None:
    """Write losses, gradient and details of `CrossEntropyTask`."""
    general = _is_general(task)
    lanes = not general and _side_by_side(task.x)
    rows = not (general or lanes)
    record = new_record(task.x, task.grad, in_place=rows, grouped=rows)
    if lanes:
        kernel, record.words = lane_kernels.cross_entropy_lanes, LANE_WORDS
    elif general:
        kernel = ce_general.cross_entropy_general
        _soft_targets(task, record)
    else:
        kernel = ce_rows.cross_entropy_rows
        record.fields["lanes_at"] = record.room(FINISH_WORDS)
    fields = record.fields
    fields.update(
        grad_scale=task.grad_scale,
        smoothing=task.smoothing,
        z_loss=task.z_loss,
        temperature=task.temperature,
        softcap=task.softcap,
    )
    record.targets(task.targets)
    for name in ("row_weight", "target_weight", "grad_weight", "block_sums", "argmax", "rank"):
        record.vector(name, getattr(task, name))
    for name in ("loss", "lse", "entropy"):
        record.vector(name, getattr(task, name), code=True)
    n_rows = int(fields["rows"])
    few = task.threads > 1 and not lanes and n_rows < 2 * task.threads * ROW_BLOCK
    if not few:
        _launch(kernel, record, task.threads, ROW_BLOCK)
        return
    # Too few blocks for the threads: rows one by one, and the same sums afterwards in the same order.
    sums, row_loss = task.block_sums, np.empty(n_rows)
    record.vector("row_loss", row_loss)
    fields["block_sums"] = 0
    _launch(kernel, record, task.threads)
    if sums is not None:
        for b in range(sums.size):
            total = 0.0
            for value in row_loss[b * ROW_BLOCK : (b + 1) * ROW_BLOCK].tolist():
                total += value
            sums[b] = total


def _is_general(task: CrossEntropyTask) -> bool:
    """Return whether the task needs more than integer targets and row numbers."""
    return (
        task.targets is None
        or task.class_mask is not None
        or task.smoothing != 0.0
        or task.z_loss != 0.0
        or task.temperature != 1.0
        or task.softcap != 0.0
        or task.entropy is not None
        or task.argmax is not None
        or task.rank is not None
    )


def _soft_targets(task: CrossEntropyTask, record: Record) -> None:
    """Put what only the general formula knows: masks, class weights, soft targets and their row."""
    fields, v = record.fields, task.x.shape[2]
    if task.class_mask is not None:
        record.view("mask", np.broadcast_to(task.class_mask, task.x.shape))
    if task.probs is not None:
        record.view("probs", task.probs)
    elif task.targets is None and task.ids is not None:
        assert task.id_probs is not None
        record.vector("ids", task.ids)
        record.vector("id_probs", task.id_probs)
        fields["ids_count"] = task.ids.shape[1]
    if task.targets is None or task.smoothing != 0.0:
        if task.class_weight is not None:
            weights = np.ascontiguousarray(task.class_weight, dtype=record.compute)
            record.keep.append(weights)
            record.vector("class_weight", weights)
        fields["soft_at"] = record.room(v)


def sgd_update(task: SgdTask) -> None:
    """Take one step of `SgdTask`."""
    compute = float_type(task.param.dtype).compute
    momentum = task.buffer is not None
    buffer = task.param if task.buffer is None else task.buffer
    arrays = (task.param, task.grad, buffer)
    places = np.array([a.ctypes.data for a in arrays])
    codes = np.array([float_type(a.dtype).code for a in arrays])
    steps = np.array([a.dtype.itemsize for a in arrays])
    scale = -task.grad_scale if task.maximize else task.grad_scale
    numbers = np.array([task.lr, task.momentum, 1.0 - task.dampening, task.weight_decay, scale], compute)
    flags = np.array([momentum, task.first_step, task.nesterov], np.int64)

    def work(start: int, stop: int) -> None:
        elementwise.sgd(places, codes, steps, numbers, flags, start, stop, pool.scratch(3 * BLOCK, compute), STAMP)

    pool.run(work, pool.ranges(task.param.size, 1, task.threads, BLOCK), task.threads)


def scan_targets(targets: Array, n_classes: int, ignore: int | None, threads: int = 1) -> TargetScan:
    """Count ignored and bad targets, and find the first bad one (positions in C order)."""
    flat = np.ascontiguousarray(targets).reshape(-1)
    info = np.iinfo(flat.dtype)
    ignoring = ignore is not None and info.min <= ignore <= info.max
    number = flat.dtype.type(ignore if ignoring else 0)
    found: list[tuple[int, int, int]] = []

    def work(start: int, stop: int) -> None:
        found.append(elementwise.scan(flat.ctypes.data, flat.size, n_classes, number, ignoring, start, stop, STAMP))

    pool.run(work, pool.ranges(flat.size, 1, threads, BLOCK), threads)
    first = min((position for _, _, position in found if position >= 0), default=-1)
    return TargetScan(sum(ignored for ignored, _, _ in found), sum(bad for _, bad, _ in found), first)
