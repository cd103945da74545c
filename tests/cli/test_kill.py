"""kill -9 at random moments, twenty times: every time the run goes on, and in the end it is the undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastnll.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
TIMES = ("tokens_per_s", "wall_s")
KILLS = 20


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_twenty_times(tmp_path: Path, text: Path) -> None:
    argv = "--model ngram --context 3 --dim 8 --hidden 16 --steps 900 --batch-tokens 256 --checkpoint-every 15"
    argv += " --held-out 0.2 --eval-every 30 --patience 30 --threads 1 --tokenizer bytes --keep 3"
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.killing", str(KILLS), "1", str(text), *argv.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    seen = json.loads(done.stdout)["seen"]
    assert len(seen) == KILLS
    # It was killed at many places: before anything was saved, and between checkpoints of many different steps.
    assert len({tuple(steps) for steps in seen}) >= 5
    # One more than are kept, for a moment: the oldest goes after the newest has come.
    assert all(len(steps) <= 4 for steps in seen)
    whole, cut = (load_checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert whole.progress.step == cut.progress.step > 0
    for one, other in ((whole.params, cut.params), (whole.result, cut.result)):
        assert {name: array.tobytes() for name, array in one.items()} == {
            name: array.tobytes() for name, array in other.items()
        }
    assert whole.optimizer is not None and cut.optimizer is not None
    for name, entry in whole.optimizer["state"].items():
        assert entry["momentum_buffer"].tobytes() == cut.optimizer["state"][name]["momentum_buffer"].tobytes()
    assert records(tmp_path / "whole") == records(tmp_path / "cut")
    # Nothing half-written is left.
    for name in ("whole", "cut"):
        assert list((tmp_path / name).rglob(".*")) == []
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "cut", text.name}
