"""Peak memory and training speed, as the report shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.bench import end_to_end, memory
from fastnll.bench.cases import Case
from fastnll.bench.contenders import CONTENDERS, Contender, Run
from fastnll.bench.end_to_end import JOBS, measure_end_to_end
from fastnll.bench.memory import MEMORY_CASES, measure_memory, peak_of

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets a peak")
MB = 2**20


@needs_proc
@pytest.mark.parametrize("megabytes", [0, 64])
def test_what_a_call_allocates_is_seen(monkeypatch: pytest.MonkeyPatch, megabytes: int) -> None:
    def setup(self: Contender, data: Any, threads: int) -> Run:
        def call() -> float:
            return float(np.ones(megabytes * MB // 8 + 1).sum())  # freed before the call ends

        return Run(call, lambda raw: {"loss": raw}, "value")

    monkeypatch.setitem(CONTENDERS, "greedy", type("Fake", (Contender,), {"setup": setup})("greedy", "", (), ""))
    answer = peak_of(Case("large", "cross_entropy", (64, 128), (4, 128)), "greedy", 1)
    # A few pages of freed memory may serve the call.
    assert megabytes - 2 < answer["peak_bytes"] / MB < megabytes + 8
    assert answer["logits_bytes"] == 64 * 128 * 4


@needs_proc
@pytest.mark.slow
def test_each_contender_in_a_process_of_its_own() -> None:
    [name] = [name for name in MEMORY_CASES if "inplace" in name]
    rows = list(measure_memory(["numpy", "sklearn", "no such"], 1, cases=[name], quick=True))
    assert rows[0]["contender"] == "numpy"
    # So small a case may be served from memory that the process already has: the size is the test above's.
    assert rows[0]["peak_bytes"] >= 0
    assert rows[0]["logits_bytes"] > 0
    assert "no such" in rows[-1]["left_out"]


def test_memory_cases_are_in_the_table() -> None:
    assert set(MEMORY_CASES) <= {case.name for case in memory.CASES}


@pytest.mark.slow
def test_training_agrees_with_pytorch() -> None:
    pytest.importorskip("torch")
    ours, theirs = measure_end_to_end(["torch", "numpy"], 1, jobs=JOBS[:1], rounds=1, quick=True)
    assert (ours["contender"], theirs["contender"]) == ("native", "torch")
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    assert min(ours["tokens_per_second"], theirs["tokens_per_second"]) > 0


def test_other_losses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def drifting(job: object, model: object, dataset: object) -> end_to_end.Step:
        return lambda ids: 4.0

    monkeypatch.setitem(end_to_end._CONTENDERS, "drifting", drifting)
    _, row = measure_end_to_end(["drifting"], 1, jobs=JOBS[:1], rounds=1, quick=True)
    assert row["left_out"].startswith("losses differ by up to")
