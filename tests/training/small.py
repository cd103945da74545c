"""A small problem that the tests of training share."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnll.data import SequenceDataset
from fastnll.models import Bigram
from fastnll.objective import Objective
from fastnll.optim import SGD

Array = np.ndarray[Any, Any]


def ragged(n_sequences: int = 40, vocab_size: int = 7, seed: int = 0) -> SequenceDataset:
    """Sequences of a Markov chain with an uneven table: lengths from 0 to 60, one of 900."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(vocab_size, 0.3), size=vocab_size)
    lengths = [*rng.integers(0, 60, n_sequences - 1).tolist(), 900]
    sequences = []
    for length in lengths:
        tokens = [int(rng.integers(vocab_size))]
        for _ in range(length - 1):
            tokens.append(int(rng.choice(vocab_size, p=table[tokens[-1]])))
        sequences.append(tokens[:length])
    dataset = SequenceDataset.from_sequences(sequences, vocab_size=vocab_size)
    assert dataset.lengths.min() == 0
    return dataset


def problem(dtype: str = "float32", **options: Any) -> tuple[Objective, SGD]:
    """A bigram objective on `ragged` data, and an optimiser over fresh parameters."""
    dataset = ragged()
    model = Bigram(dataset.vocab_size)
    return Objective(model, dataset), SGD(model.init(0, dtype), **{"lr": 2.0, "momentum": 0.9, **options})


def same_bits(one: dict[str, Array], other: dict[str, Array]) -> bool:
    """Whether two sets of parameters are equal to the bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)
