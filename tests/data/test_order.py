"""The order of an epoch: a published generator, distinct keys, and every position about equally likely."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data.order import _stream, hash_keys, shuffled
from fastnll.errors import OptionError


def splitmix64(state: int, count: int) -> list[int]:
    """The sequential generator, in Python integers: advance by the golden ratio, mix twice, fold once."""
    mask, out = 2**64 - 1, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_keys_are_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(1234567, 3) == published
    assert _stream(1234567, np.arange(3)).tolist() == published


@given(st.integers(0, 2**64 - 1))
def test_keys_can_be_computed_in_any_part(state: int) -> None:
    assert _stream(state, np.arange(5, 9)).tolist() == splitmix64(state, 9)[5:]


# Written down once: an order that moves between machines or releases breaks every resumed run.
def test_the_order_is_the_one_of_the_first_release() -> None:
    assert shuffled(10, seed=0, epoch=0).tolist() == [5, 4, 9, 0, 8, 6, 3, 2, 7, 1]
    assert shuffled(10, seed=7, epoch=3).tolist() == [3, 7, 8, 2, 5, 6, 4, 0, 1, 9]


def test_seeds_epochs_and_large_seeds_all_differ() -> None:
    pairs = [(s, e) for s in (0, 1, 2, 2**64 - 1, 2**64, 2**64 + 1, 2**200) for e in (0, 1, 2, 2**64)]
    keys = {hash_keys(s, e, np.arange(3)).tobytes() for s, e in pairs}
    assert len(keys) == len(pairs)
    assert hash_keys(1, 2, np.arange(3)).tobytes() != hash_keys(2, 1, np.arange(3)).tobytes()


def test_an_order_is_a_permutation_and_no_position_is_favoured() -> None:
    count, rounds = 8, 4000
    table = np.zeros((count, count))
    for epoch in range(rounds):
        order = shuffled(count, seed=11, epoch=epoch)
        table[np.arange(count), order] += 1
    assert (table.sum(axis=0) == rounds).all()
    expected = rounds / count
    # Chi-squared with 49 degrees of freedom: 1 in 10**5 lies above 101.
    assert ((table - expected) ** 2 / expected).sum() * (count - 1) / count < 101


def test_seeds_are_integers_of_at_least_zero() -> None:
    for seed, epoch in ((-1, 0), (0, -1), (0.5, 0), (True, 0), ("1", 0)):
        with pytest.raises(OptionError, match=r"(seed|epoch): expected an integer of at least 0, got"):
            shuffled(3, seed=seed, epoch=epoch)  # type: ignore[arg-type]
