"""The embedded datasets, read once for all tests of the theory."""

from __future__ import annotations

import pytest

from fastnll.data import SequenceDataset, opcodes, python_docs


@pytest.fixture(scope="session")
def embedded() -> dict[str, SequenceDataset]:
    """Real data that need no download: the language reference, and the opcodes of the standard library."""
    found = {"python_docs": python_docs(), "opcodes": opcodes()}
    for dataset in found.values():
        assert dataset.n_tokens > 100_000
        assert dataset.vocab_size > 50
    return found
