"""cross_entropy_details inside ``njit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastnll import ops
from fastnll.interop.numba._cross_entropy import numbers_of
from fastnll.interop.numba._rows import (
    axis_of,
    compiles_to,
    float_array,
    named,
    new_record,
    row_loop,
    row_shape,
    rows_of,
)
from fastnll.interop.numba._targets import check_options, ids_of, row_weights, same_rows
from fastnll.kernels.jit.ce_general import general_row
from fastnll.kernels.jit.compiler import helper

__all__: list[str] = []

_loop = row_loop(general_row, in_place=False)
_Details = ops.CrossEntropyDetails


def _run(
    x: Any, targets: Any, at: int, ignore_index: Any, mask: Any, token_weight: Any, numbers: Any
) -> ops.CrossEntropyDetails:
    """Return the details of a batch."""
    rows, shape = rows_of(x, at), row_shape(x, at)
    found, lse, entropy = np.empty(shape, x.dtype), np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    argmax, rank, correct = np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, np.bool_)
    same_rows(targets, found)
    ids = ids_of(targets)
    live = row_weights(ids, rows.shape[2], ignore_index, mask, token_weight)
    for i in range(live.size):
        live[i] = 1.0 if live[i] != 0.0 else 0.0
    record = new_record(rows)
    task, code = record[0], 0 if x.itemsize == 8 else 1
    task.temperature, task.softcap = numbers[2], numbers[3]
    task.targets, task.targets_code = ids.ctypes.data, 7
    task.targets_inner, task.targets_outer = 8, 8 * rows.shape[1]
    task.row_weight = live.ctypes.data
    task.loss, task.loss_code, task.lse, task.lse_code = found.ctypes.data, code, lse.ctypes.data, code
    task.entropy, task.entropy_code = entropy.ctypes.data, code
    task.argmax, task.rank = argmax.ctypes.data, rank.ctypes.data
    _loop(record, rows, None, None)
    # Arrays of no axes cannot be walked by Numba; and ids and live are used here, so that they were not freed before.
    best, right = as_strided(argmax, (ids.size,), (8,)), as_strided(correct, (ids.size,), (1,))
    for i in range(ids.size):
        right[i] = live[i] != 0.0 and best[i] == ids[i]
    return _Details(found, lse, argmax, correct, rank, entropy)


_details = helper(named(_run, "details_of_batch"))


@compiles_to(ops.cross_entropy_details)
def _cross_entropy_details(
    logits: Any,
    targets: Any,
    ignore_index: Any = -100,
    mask: Any = None,
    token_weight: Any = None,
    softcap: Any = None,
    temperature: Any = 1.0,
    axis: Any = -1,
) -> Callable[..., Any]:
    check_options(targets, logits.ndim, ignore_index, mask, token_weight, None)

    def details(
        logits: Any,
        targets: Any,
        ignore_index: Any = -100,
        mask: Any = None,
        token_weight: Any = None,
        softcap: Any = None,
        temperature: Any = 1.0,
        axis: Any = -1,
    ) -> Any:
        x = float_array(logits)
        numbers = numbers_of(0.0, 0.0, temperature, softcap, 1.0)
        return _details(x, targets, axis_of(axis, x.ndim), ignore_index, mask, token_weight, numbers)

    return named(details, "cross_entropy_details")
