"""Reading rows by id and adding them back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.errors import LabelError
from fastnll.models.ids import add_rows, check_ids


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("id_dtype", [np.uint8, np.int32, np.int64, np.uint16])
@pytest.mark.parametrize(
    ("n_ids", "n", "width"), [(3, 50, 4), (200, 17, 1), (1, 9, 3), (5, 0, 2), (0, 0, 2), (40, 40, 7)]
)
def test_adding_rows_is_the_loop(n_ids: int, n: int, width: int, dtype: Any, id_dtype: Any) -> None:
    rng = np.random.default_rng(n_ids * 100 + n)
    ids = rng.integers(0, max(n_ids, 1), n).astype(id_dtype)
    rows = rng.normal(size=(n, width)).astype(dtype)
    into = rng.normal(size=(n_ids, width)).astype(dtype)
    want = into.astype(np.float64)
    for i, row in zip(ids.tolist(), rows, strict=True):
        want[i] += row
    add_rows(into, ids, rows)
    bound = 50 * np.finfo(dtype).eps
    np.testing.assert_allclose(into, want, rtol=bound, atol=bound)


def test_adding_rows_twice_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    ids, rows = rng.integers(0, 30, 5000), rng.normal(size=(5000, 8)).astype(np.float32)
    first, second = np.zeros((30, 8), np.float32), np.zeros((30, 8), np.float32)
    add_rows(first, ids, rows)
    add_rows(second, ids, rows)
    assert first.tobytes() == second.tobytes()


@given(st.lists(st.integers(0, 6), max_size=30))
def test_the_adjoint_of_reading(ids: list[int]) -> None:
    # <table[ids], rows> = <table, add_rows(0, ids, rows)> for any table and rows: the definition of the vjp.
    rng = np.random.default_rng(len(ids))
    table, rows = rng.normal(size=(7, 3)), rng.normal(size=(len(ids), 3))
    which, into = np.array(ids, np.int64), np.zeros((7, 3))
    add_rows(into, which, rows)
    assert np.vdot(table[which], rows) == pytest.approx(np.vdot(table, into), abs=1e-12)


def test_ids_out_of_range_are_named_and_counted() -> None:
    check_ids("inputs", np.array([0, 4], np.uint8), 5)
    check_ids("inputs", np.empty(0, np.int64), 5)
    with pytest.raises(LabelError, match=r"inputs: expected ids in \[0, 5\), got 7 at position \(1, 0\); 2 of 4 are"):
        check_ids("inputs", np.array([[0, 1], [7, 9]]), 5)
    with pytest.raises(LabelError, match="got -1 at position 1; 1 of 3"):
        check_ids("inputs", np.array([0, -1, 2]), 5)
    with pytest.raises(LabelError, match=f"got {2**64 - 1} at position 0"):
        check_ids("inputs", np.array([2**64 - 1], np.uint64), 5)
