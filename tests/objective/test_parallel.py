"""Blocks on several threads: in order, with the caller's settings, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import fastnll as fn
from fastnll.config import current, resolve_threads
from fastnll.objective.parallel import ordered_map
from tests.objective.cases import CASES


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_blas_threads() -> Iterator[None]:
    """Start every test from a number that is not the one the code under test sets."""
    with threadpool_limits(limits=2, user_api="blas"):
        assert blas_threads() == {2}
        yield


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads: int) -> None:
    def slow_at_first(n: int) -> int:
        time.sleep(0.002 * (n % 3 == 0))
        return n * n

    assert list(ordered_map(slow_at_first, range(40), threads)) == [n * n for n in range(40)]
    assert list(ordered_map(slow_at_first, [], threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_work_runs_alone_with_the_settings_of_the_caller(threads: int) -> None:
    def look(_: int) -> Any:
        return current().backend, resolve_threads(), blas_threads()

    with fn.using(backend="reference", threads=4):
        seen = list(ordered_map(look, range(6), threads))
        assert resolve_threads() == 4
    assert seen == [("reference", 1, {1})] * 6
    assert blas_threads() == {2}


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_reaches_the_caller_and_everything_is_put_back(threads: int) -> None:
    running = threading.active_count()

    def fail_at_five(n: int) -> int:
        if n == 5:
            raise ArithmeticError(f"item {n}")
        return n

    done = []
    with pytest.raises(ArithmeticError, match="item 5"):
        done += list(ordered_map(fail_at_five, range(1000), threads))
    assert done == []
    assert blas_threads() == {2}
    assert threading.active_count() == running


def test_items_are_taken_as_results_are_consumed() -> None:
    taken = []

    def items() -> Any:
        for n in range(100):
            taken.append(n)
            yield n

    results = ordered_map(lambda n: n, items(), 2)
    assert next(results) == 0
    assert len(taken) <= 4
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 4


def test_callers_at_the_same_time_get_the_same_bits() -> None:
    case = CASES["ngram"]
    objective, params = case.objective(block_rows=8), case.params()
    want, grads = objective.value_and_grad(params)
    got: list[Any] = []
    workers = [
        threading.Thread(target=lambda: got.extend(objective.value_and_grad(params) for _ in range(5)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == 20
    for value, found in got:
        assert value == want
        assert all(np.array_equal(found[name], grad) for name, grad in grads.items())
    assert blas_threads() == {2}


def test_the_last_of_several_callers_puts_the_number_back() -> None:
    first, second = (ordered_map(lambda n: n, range(9), 1) for _ in range(2))
    assert next(first) == 0
    assert next(second) == 0
    assert list(first) == list(range(1, 9))
    assert blas_threads() == {1}
    assert list(second) == list(range(1, 9))
    assert blas_threads() == {2}
