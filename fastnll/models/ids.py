"""Rows of a table read by id, as an embedding or a table of logits is: the check of the ids, and the way back.

The vector-Jacobian product of reading ``table[ids]`` is ``into[ids[i]] += rows[i]`` for every i, where ids repeat.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.errors import LabelError

__all__ = ["add_rows", "check_ids"]

Array = npt.NDArray[Any]


def check_ids(name: str, ids: Array, n_ids: int) -> None:
    """Raise LabelError for the first of `ids` outside ``[0, n_ids)``."""
    if not ids.size or (int(ids.max()) < n_ids and (ids.dtype.kind == "u" or int(ids.min()) >= 0)):
        return
    flat = ids.reshape(-1)
    bad = np.flatnonzero((flat < 0) | (flat > n_ids - 1))
    where = tuple(int(i) for i in np.unravel_index(int(bad[0]), ids.shape))
    raise LabelError(
        f"{name}: expected ids in [0, {n_ids}), got {int(flat[bad[0]])} at position "
        f"{where[0] if len(where) == 1 else where}; {bad.size} of {ids.size} are outside"
    )


def add_rows(into: Array, ids: Array, rows: Array) -> None:
    """Add ``rows[i]`` to ``into[ids[i]]`` for every i, in order.

    Parameters
    ----------
    into : ndarray, shape (V, D)
        Changed in place.
    ids : ndarray of int, shape (N,)
        Each in ``[0, V)``.
    rows : ndarray, shape (N, D)

    Notes
    -----
    The sum is a product with the sparse matrix that has a one in row ``ids[i]`` of column i. SciPy's
    compressed-column product goes through the columns in order and adds one contiguous row each: one pass
    over `rows`, the same bits every time, nothing sorted. With 16384 rows of 32 floats it takes 0.12 ms, where
    ``numpy.add.at`` takes 3.5, a ``bincount`` per column 1.7, sort and ``add.reduceat`` 1.7, and a
    dense one-hot product 1.5. The product is a new (V, D) array, so where V exceeds N the ids are renumbered
    first: V = 50257, N = 1024, D = 256 takes 0.16 ms this way and 4 without.

    Examples
    --------
    >>> table = np.zeros((3, 2))
    >>> add_rows(table, np.array([2, 0, 2]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    >>> table
    array([[3., 4.],
           [0., 0.],
           [6., 8.]])
    """
    n = ids.size
    if into.shape[0] > n:
        present, ids = np.unique(ids, return_inverse=True)
        into[present] += _one_hot_product(ids, rows, present.size)
    else:
        into += _one_hot_product(ids, rows, into.shape[0])


def _one_hot_product(ids: Array, rows: Array, n_ids: int) -> Array:
    # Imported here: it is 90 of the 180 ms that importing the models would take.
    from scipy.sparse import csc_array

    n = ids.size
    ones = np.ones(n, rows.dtype)
    product: Array = csc_array((ones, ids, np.arange(n + 1)), shape=(n_ids, n)) @ rows
    return product
