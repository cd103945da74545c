"""Counting keys part by part, in a table of all keys or by merging sorted runs: the same counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnll.models import counts


@pytest.mark.parametrize("n_keys", [7, 300, 1 << 17, 1 << 40])
@pytest.mark.parametrize("sizes", [[], [0], [1], [5000], [3000, 1, 0, 40, 2000, 2000, 2000, 10]])
@pytest.mark.parametrize("dense", [0, 1 << 20])
def test_counts_of_parts(n_keys: int, sizes: list[int], dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_DENSE_COUNTS", dense)
    rng = np.random.default_rng(len(sizes))
    # Few keys are frequent and most are rare, as pairs of tokens are.
    parts = [np.minimum(rng.zipf(1.3, n) - 1, n_keys - 1).astype(np.int64) for n in sizes]
    everything: Any = np.concatenate([*parts, np.empty(0, np.int64)])
    keys, times = counts.count_keys(iter(parts), n_keys, everything.size)
    want, want_times = np.unique(everything, return_counts=True)
    assert keys.dtype == times.dtype == np.int64
    assert keys.tolist() == want.tolist()
    assert times.tolist() == want_times.tolist()
    if sizes and max(sizes) > 1000 and n_keys > 7:
        assert times.max() > 100
        assert times.min() == 1
