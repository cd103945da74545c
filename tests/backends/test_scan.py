"""The scan of targets in whole vectors: counts and the first bad id are those of a plain loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnll import using
from fastnll.kernels import registry
from fastnll.kernels.spec import TargetScan

native = pytest.importorskip("fastnll.kernels.native", reason="the compiled kernels are not there")

Array = np.ndarray[Any, Any]
INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64)


def by_hand(ids: Array, v: int, ignore: int | None) -> TargetScan:
    info = np.iinfo(ids.dtype)
    wide = ids.astype(np.int64 if info.min < 0 else np.uint64)
    skipped = wide == ignore if ignore is not None and info.min <= ignore <= info.max else np.zeros(ids.shape, bool)
    bad = np.flatnonzero(((wide < 0) | (wide >= v)) & ~skipped)
    return TargetScan(int(skipped.sum()), bad.size, int(bad[0]) if bad.size else -1)


@pytest.mark.parametrize("isa", registry.available_isas())
@pytest.mark.parametrize("dtype", INTEGERS)
def test_whole_vectors(isa: str, dtype: type[np.integer[Any]]) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    odd = [info.min, info.max, -1 if info.min < 0 else info.max - 1, 100, 101]
    # Around the ends of every type: a number of classes that it can, or cannot, say.
    for v in (100, 127, 128, 129, 255, 256, 257, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40):
        for n in (4096, 4097, 9000):
            ids = rng.integers(0, min(v, info.max + 1, 100), n + 1).astype(dtype)
            for changes in ([], [0], [n - 1], [4095], rng.integers(0, n, 40)):
                some = ids.copy()
                for place in changes:
                    some[place] = odd[int(rng.integers(len(odd)))]
                for ignore in (None, 5, int(info.max), int(info.min), -100):
                    for view in (some[:-1], some[1:], some[::-1]):  # on a vector's border, off it, and backwards
                        with using(isa=isa):
                            got = native.scan_targets(view, v, ignore)
                        assert got == by_hand(view, v, ignore), (v, n, ignore)
