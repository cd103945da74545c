"""Accumulators and vocabulary shards: the same number however the work was cut."""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.accumulate import Accumulator, merge_shards, shard_state
from tests.loss.tables import batch

Array = np.ndarray[Any, Any]


def test_batch_size_order_and_merge_tree_leave_no_trace() -> None:
    rng = np.random.default_rng(0)
    x, t = batch(130, 17)
    x *= np.exp(rng.uniform(-8, 4, (130, 1)))
    t[::7] = -100
    groups = rng.integers(0, 4, 130)
    whole = Accumulator().add(x, t, groups=groups)
    losses = fn.cross_entropy_details(x, t).nll[t != -100]
    assert whole.result().total == math.fsum(losses)
    naive = {float(losses[rng.permutation(len(losses))].cumsum()[-1]) for _ in range(20)}
    assert len(naive) > 1, "a plain sum depends on the order, or this test shows nothing"
    for size in (1, 7, 64):
        parts = [Accumulator().add(x[i : i + size], t[i : i + size], groups=groups[i : i + size])
                 for i in range(0, 130, size)]  # fmt: skip
        rng.shuffle(parts)
        while len(parts) > 1:  # a random tree
            a = pickle.loads(pickle.dumps(parts.pop(int(rng.integers(len(parts))))))
            parts[int(rng.integers(len(parts)))].merge(a)
        assert parts[0].result() == whole.result()
        assert parts[0].by_group() == whole.by_group()


def test_the_numbers() -> None:
    x, t = batch(12)
    t[3] = -100
    groups = np.arange(12) % 3
    d = fn.cross_entropy_details(x, t)
    live = t != -100
    found = Accumulator().add(x.reshape(3, 4, 11), t.reshape(3, 4), groups=groups.reshape(3, 4))
    for mine, summary in (
        (live, found.result()),
        *((live & (groups == g), found.by_group()[g]) for g in range(3)),
    ):
        mean = d.nll[mine].mean()
        assert summary.n_tokens == mine.sum()
        assert summary.nll == pytest.approx(mean, rel=1e-14)
        assert summary.total == pytest.approx(d.nll[mine].sum(), rel=1e-14)
        assert summary.perplexity == pytest.approx(np.exp(mean), rel=1e-13)
        assert summary.bits == pytest.approx(mean / np.log(2), rel=1e-13)
        assert summary.accuracy == d.correct[mine].mean()
    assert Accumulator(temperature=2.0).add(x, t).result().nll == pytest.approx(fn.cross_entropy(x, t, temperature=2.0))
    with pytest.raises(fn.ShapeError, match="groups"):
        Accumulator().add(x, t, groups=np.zeros(5))


def test_nothing_and_infinities() -> None:
    nothing = Accumulator().result()
    assert nothing.n_tokens == 0
    assert math.isnan(nothing.nll)
    x = np.array([[0.0, -np.inf], [0.0, 0.0]])
    one = Accumulator().add(x, [1, 0])
    assert one.result().nll == math.inf
    assert one.result().perplexity == math.inf
    x[1] = np.nan
    assert math.isnan(one.merge(Accumulator().add(x, [0, 1])).result().nll)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("target_dtype", ["uint8", "int64", "uint64"])
def test_vocabulary_shards(dtype: Any, target_dtype: str) -> None:
    x, _ = batch(12, 37)
    x = x.astype(dtype)
    x[:, 30:] -= dtype(100)
    x[2, :20] = -np.inf
    t = np.random.default_rng(1).integers(20, 37, 12).astype(target_dtype)
    t[0] = 3
    want = fn.cross_entropy(x.astype(np.float64), t, reduction="none")
    for cuts in ([], [20], [1, 2, 30], list(range(1, 37))):
        bounds = [0, *cuts, 37]
        states = [shard_state(x[:, i:j], t, i) for i, j in itertools.pairwise(bounds)]
        got = merge_shards(states)
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)
        np.testing.assert_array_equal(merge_shards(states[::-1]), got)
    with pytest.raises(fn.OptionError, match="states"):
        merge_shards([])
    with pytest.raises(fn.ShapeError, match="same rows"):
        merge_shards([shard_state(x, t, 0), shard_state(x[:5], t[:5], 0)])
