"""Random datasets, shared by the tests of this folder."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fastnll.data import SequenceDataset

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")

# The real datasets are made once for all tests: compiling the library takes a second or two.
real = cache(lambda make: make())

# Small ids, so that pairs repeat; empty sequences and sequences of one token come up often.
sequence_lists = st.lists(st.lists(st.integers(0, 6), max_size=9), max_size=12)


@st.composite
def datasets(draw: Any, lists: Any = sequence_lists) -> tuple[SequenceDataset, list[list[int]]]:
    """A dataset in any dtype, embedded in a larger array at any first offset; and its sequences as lists."""
    sequences = draw(lists)
    before, after = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    flat = [7] * before + [token for sequence in sequences for token in sequence] + [7] * after
    offsets = before + np.cumsum([0] + [len(sequence) for sequence in sequences])
    dtype = draw(st.sampled_from(DTYPES))
    return SequenceDataset(np.array(flat, dtype), offsets, vocab_size=7), sequences
