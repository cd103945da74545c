"""Running totals and orders of very many items: what is computed on demand is what an array would hold."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import SequenceDataset, order, running
from fastnll.data.batches import sized_batches
from fastnll.models import Spans

# The function of the same name hides the module.
BATCHES = sys.modules["fastnll.data.batches"]
SIZES = st.lists(st.integers(0, 3), max_size=90)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done above a million items is done above ten."""
    monkeypatch.setattr(running, "_WHOLE", 10)
    monkeypatch.setattr(running, "_STEP", 4)
    monkeypatch.setattr(running, "_PART", 16)
    monkeypatch.setattr(order, "_SORTED", 8)
    monkeypatch.setattr(order, "_PART", 32)


@given(SIZES, st.data())
@pytest.mark.usefixtures("few")
def test_running_totals(sizes: list[int], data: Any) -> None:
    array = np.array(sizes, np.int64)
    totals = running.RunningTotal(array.size, lambda low, high: array[low:high])
    whole = np.concatenate([[0], np.cumsum(array)])
    assert totals.total == whole[-1]
    low = data.draw(st.integers(0, array.size))
    high = data.draw(st.integers(low, array.size))
    assert totals.ends(low, high).tolist() == whole[low : high + 1].tolist()
    wanted = data.draw(st.integers(-1, int(whole[-1]) + 1))
    for side in ("left", "right"):
        assert totals.find(wanted, side) == np.searchsorted(whole, wanted, side=side)  # type: ignore[call-overload]
    if whole[-1]:
        units = np.array(data.draw(st.lists(st.integers(0, int(whole[-1]) - 1), max_size=40)), np.int64)
        items, before = totals.locate(units)
        assert items.tolist() == (np.searchsorted(whole, units, side="right") - 1).tolist()
        assert before.tolist() == whole[items].tolist()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("count", [9, 16, 17, 1000, 4097, 100_003])
def test_a_large_order_is_a_permutation_of_which_any_part_can_be_asked_for(count: int) -> None:
    whole = order.Order(count, seed=3, epoch=1).part(0, count)
    assert np.array_equal(np.sort(whole), np.arange(count))
    assert np.array_equal(
        order.Order(count, seed=3, epoch=1).part(count // 3, count // 2), whole[count // 3 : count // 2]
    )
    others = [order.Order(count, seed=seed, epoch=epoch).part(0, count) for seed, epoch in ((3, 2), (4, 1))]
    if count >= 1000:
        # Shuffled: neither near their places nor in runs, and another epoch's order is another one.
        assert abs(np.corrcoef(whole, np.arange(count))[0, 1]) < 0.1
        assert (np.abs(np.diff(whole)) == 1).mean() < 0.01
        assert all(abs(np.corrcoef(whole, other)[0, 1]) < 0.1 for other in others)
        # Places in the first tenth hold numbers from everywhere: chi-square of ten cells, nine degrees of freedom.
        cells = np.bincount(whole[: count // 10] * 10 // count, minlength=10)
        assert ((cells - cells.mean()) ** 2 / cells.mean()).sum() < 40


def splitmix(state: int, number: int) -> int:
    """Output `number` of SplitMix64 started at `state`, from its publication."""
    mask = (1 << 64) - 1
    z = (state + (number + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("count", [100, 700])  # 7 bits, 3 of them low; 10 bits, 5 of them low
def test_a_large_order_by_hand(count: int) -> None:
    keys = order.hash_keys(5, 2, np.arange(count, count + 6)).tolist()
    bits = (count - 1).bit_length()
    low_bits = bits // 2

    def network(x: int) -> int:
        high, low = x >> low_bits, x % (1 << low_bits)
        for number, key in enumerate(keys):
            if number % 2:
                low ^= splitmix(key, high) % (1 << low_bits)
            else:
                high ^= splitmix(key, low) % (1 << (bits - low_bits))
        return (high << low_bits) | low

    want = []
    for place in range(count):
        number = network(place)
        while number >= count:
            number = network(number)
        want.append(number)
    assert order.Order(count, seed=5, epoch=2).part(0, count).tolist() == want


@given(SIZES, st.integers(1, 9), st.integers(1, 30))
def test_batches_do_not_know_how_many_sequences_are_dealt_at_a_time(sizes: list[int], budget: int, part: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    dataset = SequenceDataset(np.zeros(offsets[-1], np.uint8), offsets, vocab_size=2)
    want = [(ids.tolist(), n) for ids, n in sized_batches(dataset, budget, seed=7)]
    assert sum(n for _, n in want) == offsets[-1]
    assert sorted(i for ids, _ in want for i in ids) == list(range(len(sizes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BATCHES, "_PART", part)
        assert [(ids.tolist(), n) for ids, n in sized_batches(dataset, budget, seed=7)] == want


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("kind", ["whole", "pieces", "pieces of one"])
def test_rows_of_many_sequences(skip: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, 200) if kind != "pieces of one" else np.array([1500])
    dataset: Any = SequenceDataset.from_sequences([rng.integers(0, 5, n) for n in lengths], 5)
    want = [(start + i, i) for start, n in zip(dataset.offsets, lengths, strict=False) for i in range(skip, n)]
    positions = [position for position, _ in want]
    if kind != "whole":
        dataset = dataset.pieces(4, context=1)
    spans = Spans.of(dataset, skip)
    assert spans.n_rows == len(want)
    assert spans.rows(0, len(want))[0].tolist() == positions
    for low in range(0, len(want), 13):
        found, depth = spans.rows(low, low + 1)
        assert found.tolist() == positions[low : low + 1]
        assert kind != "whole" or depth.tolist() == [want[low][1]]
        a, b = spans.overlapping(low, min(low + 13, len(want)))
        ends = spans.ends(a, b)
        assert ends[0] <= low < min(low + 13, len(want)) <= ends[-1]
        assert ends.tolist() == spans.row_ends[a : b + 1].tolist()
