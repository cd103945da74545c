"""10^9 tokens in less than 1 GB of memory, with the bits and the work of the same run in memory.

    python -m pytest -m large tests/streaming -s

Needs the extra `bpe`, 4 GB of disk in the temporary folder, and some minutes; each measurement is a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.data import SequenceDataset, open_dataset, write_dataset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
N_TOKENS = 10**9
# Resident set of a whole process, pages of files included.
LIMIT_GB = 1.0

pytestmark = [pytest.mark.large, pytest.mark.slow]


def measure(path: Path, job: str, where: str) -> dict[str, Any]:
    command = [
        sys.executable,
        str(BENCHMARKS / "large_dataset.py"),
        str(path),
        "--job",
        job,
        "--where",
        where,
        "--once",
    ]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    rate = found["tokens"] / found["seconds"] / 1e6
    print(
        f"\n{path.name} {job} {where}: {found['tokens']:,} tokens in {found['seconds']:.1f} s ({rate:.2f} M tokens/s), "
        f"{found['cpu']:.1f} s of processors, resident at most {found['peak_gb']:.2f} GB"
    )
    return found


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10^9 tokens of uint16 in documents, drawn from the embedded corpora."""
    if importlib.util.find_spec("tokenizers") is None:
        pytest.skip("needs the extra bpe: tokenizers")
    path = tmp_path_factory.mktemp("large") / "documents.fnll"
    script = str(BENCHMARKS / "make_large_dataset.py")
    subprocess.run([sys.executable, script, str(path), "--tokens", str(N_TOKENS)], check=True)
    return path


@pytest.mark.parametrize("job", ["count", "walk", "train", "tables"])
def test_a_file_of_2_gb_is_worked_on_in_less_than_1_gb(documents: Path, job: str) -> None:
    dataset = open_dataset(documents)
    assert dataset.n_tokens == N_TOKENS
    assert dataset.tokens.dtype == np.uint16
    found, memory = measure(documents, job, "file"), measure(documents, job, "memory")
    assert found["peak_gb"] < LIMIT_GB
    assert memory["peak_gb"] > 2.0  # so that the limit says something
    assert found["value"] == memory["value"]
    if job == "count":
        assert found["tokens"] == N_TOKENS - len(dataset)


@pytest.mark.parametrize("length", [None, 10])
def test_one_sequence_and_a_hundred_million_of_them(documents: Path, tmp_path: Path, length: int | None) -> None:
    # 800 MB of offsets beside the 2 GB of tokens, or none.
    dataset = open_dataset(documents)
    offsets = None if length is None else np.arange(0, N_TOKENS + 1, length)
    known = {"vocab_size": dataset.vocab_size, "check": False, "mapping": dataset.mapping}
    path = write_dataset(tmp_path / "other.fnll", SequenceDataset(dataset.tokens, offsets, **known))
    try:
        for job in ("count", "train", "tables"):
            found = measure(path, job, "file")
            assert found["peak_gb"] < LIMIT_GB
            if job == "count":
                assert found["tokens"] == N_TOKENS - (1 if length is None else N_TOKENS // length)
    finally:
        path.unlink()
