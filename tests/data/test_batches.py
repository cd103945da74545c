"""Batches: every sequence once, the budget kept, the same on every machine."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import FeatureDataset, SequenceDataset, batches
from fastnll.errors import OptionError

lengths_lists = st.lists(st.integers(0, 12), max_size=40)


def ragged(lengths: list[int]) -> SequenceDataset:
    return SequenceDataset(np.zeros(sum(lengths), np.uint8), np.cumsum([0, *lengths]), vocab_size=2)


@given(lengths_lists, st.integers(1, 30), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_every_sequence_comes_once_and_the_budget_holds(
    lengths: list[int], budget: int, seed: int, epoch: int, shuffle: bool
) -> None:
    ds = ragged(lengths)
    dealt = list(batches(ds, budget, seed=seed, epoch=epoch, shuffle=shuffle))
    assert sorted(i for batch in dealt for i in batch.tolist()) == list(range(len(lengths)))
    for batch in dealt:
        assert batch.dtype == np.int64
        assert batch.size >= 1
        assert (np.diff(batch) > 0).all()
        tokens = [lengths[i] for i in batch]
        assert sum(tokens) <= budget or sum(t > 0 for t in tokens) == 1
        assert sum(tokens) > 0 or sum(lengths) == 0
    # Greedy: the first sequence of a batch did not fit into the one before.
    if not shuffle:
        for one, two in pairwise(dealt):
            assert sum(lengths[i] for i in one) + lengths[two[0]] > budget or lengths[two[0]] == 0


@given(lengths_lists, st.integers(1, 30))
def test_drop_last_drops_one_unfinished_batch_or_nothing(lengths: list[int], budget: int) -> None:
    ds = ragged(lengths)
    kept = list(batches(ds, budget))
    if not kept:
        assert list(batches(ds, budget, drop_last=True)) == []
        return
    room = budget - sum(lengths[i] for i in kept[-1])
    unfinished = room >= min((n for n in lengths if n), default=budget + 1)
    if unfinished and len(kept) == 1:
        with pytest.raises(OptionError, match="drop_last: expected at least one full batch"):
            batches(ds, budget, drop_last=True)
        return
    expected = kept[:-1] if unfinished else kept
    got = list(batches(ds, budget, drop_last=True))
    assert [b.tolist() for b in got] == [b.tolist() for b in expected]


def test_equal_lengths_are_dealt_as_anywhere_else() -> None:
    ds = ragged([4] * 10)
    assert [b.size for b in batches(ds, 12)] == [3, 3, 3, 1]
    assert [b.size for b in batches(ds, 12, drop_last=True)] == [3, 3, 3]
    assert [b.size for b in batches(ds, 8, drop_last=True)] == [2] * 5


def test_a_long_sequence_goes_alone_and_empty_ones_go_along() -> None:
    dealt = [b.tolist() for b in batches(ragged([0, 2, 0, 9, 0, 1, 1, 0]), 3, shuffle=False)]
    assert dealt == [[0, 1, 2], [3, 4], [5, 6, 7]]


def test_orders_differ_between_seeds_and_epochs_and_not_between_calls() -> None:
    ds = ragged([1] * 50)

    def order(seed: int, epoch: int) -> list[int]:
        return [int(b[0]) for b in batches(ds, 1, seed=seed, epoch=epoch)]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9
    assert order(0, 0) != list(range(50))
    assert [int(b[0]) for b in batches(ds, 1, shuffle=False)] == list(range(50))


def test_the_batches_are_those_of_the_first_release() -> None:
    lengths = [(7 * i * i + 3) % 40 for i in range(500)]
    text = repr([b.tolist() for b in batches(ragged(lengths), 128, seed=5, epoch=2)])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "3bad06a3408b7251cda2ed6ed1e2738f423f2e3c76e6e5e07f2d976321ea5279"
    )


def test_feature_rows_are_sequences_of_one() -> None:
    ds = FeatureDataset(np.zeros((7, 2)), np.zeros(7, int))
    assert [b.size for b in batches(ds, 3)] == [3, 3, 1]


@pytest.mark.parametrize("budget", [0, -5, 2.5, None])
def test_the_budget_is_a_positive_integer_and_is_checked_at_the_call(budget: object) -> None:
    with pytest.raises(OptionError, match="batch_tokens: expected an integer of at least 1"):
        batches(ragged([1]), budget)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="seed"):
        batches(ragged([1]), 3, seed=-1, shuffle=False)
