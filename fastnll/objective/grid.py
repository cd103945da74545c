"""The grid of blocks that rows are evaluated on: cut by the sizes of the model alone.

It depends neither on threads nor processes, on free memory or on how many blocks one call evaluates, and neither do the
results, to the bit.
"""

from __future__ import annotations

from typing import Any

from fastnll.models.base import Model
from fastnll.models.heads import HeadModel

__all__ = ["default_block_rows", "group_size", "is_wide", "parts"]

# The grid of blocks. What a block works on should stay in the second-level cache (2**18 numbers, 1 MiB of float32), but
# fewer than 512 rows slow BLAS down, fewer than 1024 where V is large, and above 4096 nothing is left to gain. The
# logits of a block never exceed 2**24 numbers, 64 MiB of float32.
_CACHE, _ROWS, _LARGE_V, _FLOATS, _LEAST = 1 << 18, (512, 4096), 2048, 1 << 24, 16

# Rows of a block where the logits are never held: each block reads and writes the weights' gradient once, which below
# a thousand rows takes a tenth of the time of its products and more.
_WIDE_ROWS = 2048


def is_wide(model: Any) -> bool:
    """Return whether a model's loss is taken through its linear head: where there are many classes.

    Examples
    --------
    >>> from fastnll.models import Bigram, NGram
    >>> [is_wide(m) for m in (NGram(103), NGram(8192), Bigram(8192))]
    [False, True, False]
    """
    return isinstance(model, HeadModel) and model.vocab_size >= _LARGE_V


def default_block_rows(model: Model) -> int:
    """Return the rows of a block: a power of two that depends on the sizes of the model alone.

    Examples
    --------
    >>> from fastnll.models import Bigram, NGram, SoftmaxRegression
    >>> [default_block_rows(m) for m in (SoftmaxRegression(64, 10), NGram(103), NGram(50257), Bigram(10**7))]
    [2048, 512, 2048, 16]
    """
    if is_wide(model):
        return _WIDE_ROWS
    low, high = _ROWS
    rows = min(high, max(low if model.vocab_size < _LARGE_V else 2 * low, _CACHE // model.row_size))
    rows = max(_LEAST, min(rows, _FLOATS // model.vocab_size))
    return 1 << (rows.bit_length() - 1)


def group_size(n_blocks: int) -> int:
    """Return how many blocks add their gradients up before the sum joins the total, a function of the grid alone.

    Groups are what threads share out: at least 32 where there are that many blocks. Inside a group gradients are
    added in the dtype of the parameters, groups in float64, so that the rounding error of a float32 gradient over 10**9
    tokens stays that of a few additions.
    """
    return max(1, min(16, n_blocks // 32))


def parts(rows: int, n_classes: int) -> list[slice]:
    """Cut the rows of a block, that logits of each part take no more than 64 MiB of float32.

    Examples
    --------
    >>> parts(2048, 16384)
    [slice(0, 1024, None), slice(1024, 2048, None)]
    """
    step = max(_LEAST, _FLOATS // n_classes)
    return [slice(low, min(low + step, rows)) for low in range(0, rows, step)]
