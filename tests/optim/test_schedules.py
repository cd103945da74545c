"""Learning rates over the steps."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.errors import OptionError
from fastnll.schedules import constant, cosine, linear_warmup


def test_constant() -> None:
    assert {constant(0.3)(step) for step in (0, 1, 10**9)} == {0.3}


@given(st.floats(0, 1e3), st.integers(0, 50))
def test_warmup_rises_in_equal_stairs(lr: float, steps: int) -> None:
    rates = [linear_warmup(lr, steps)(step) for step in range(steps + 3)]
    assert rates[max(0, steps - 1)] == rates[-1] == lr
    assert rates[0] == pytest.approx(lr / max(1, steps))
    stairs = [b - a for a, b in pairwise(rates[:steps])]
    assert stairs == pytest.approx([lr / max(1, steps)] * len(stairs))


@given(st.floats(1e-3, 1e3), st.integers(2, 60), st.data())
def test_cosine(lr: float, total: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, total - 1))
    final = data.draw(st.floats(0, lr))
    schedule = cosine(lr, total, warmup_steps=warmup, final=final)
    rates = [schedule(step) for step in range(total + 2)]
    assert rates[warmup] == pytest.approx(lr)
    assert rates[total] == rates[total + 1] == pytest.approx(final)
    assert all(a >= b - 1e-12 * lr for a, b in pairwise(rates[warmup:]))
    if (total - warmup) % 2 == 0:
        assert rates[(total + warmup) // 2] == pytest.approx((lr + final) / 2)


def test_cosine_is_a_cosine() -> None:
    assert cosine(2.0, 100)(25) == pytest.approx(1 + math.cos(math.pi / 4))


@pytest.mark.parametrize("schedule", [constant(1.0), linear_warmup(1.0, 5), cosine(1.0, 10, 2, 0.1)], ids=repr)
def test_schedules_are_values(schedule: Callable[[int], float]) -> None:
    assert pickle.loads(pickle.dumps(schedule)) == schedule == copy.copy(schedule)
    assert eval(repr(schedule)) == schedule


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(-1.0), "lr: expected a finite number of at least 0, got -1"),
        (lambda: constant(math.inf), "lr: expected a finite number"),
        (lambda: linear_warmup(1.0, -1), "warmup_steps: expected an integer of at least 0, got -1"),
        (lambda: linear_warmup(1.0, 2.5), "warmup_steps: expected an integer"),  # type: ignore[arg-type]
        (lambda: cosine(1.0, 0), "total_steps: expected an integer of at least 1"),
        (lambda: cosine(1.0, 10, 10), "warmup_steps: expected fewer than total_steps=10, got 10"),
        (lambda: cosine(1.0, 10, final=-0.1), "final: expected"),
    ],
)
def test_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
