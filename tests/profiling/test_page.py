"""What stands beside the code: the page on profiles, and the benchmark of what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastnll.profiling.advice import RULES
from fastnll.profiling.table import _COLUMNS, SORT_KEYS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "profiling.md"
BENCHMARK = ROOT / "benchmarks" / "profiler_overhead.py"


@pytest.mark.skipif(not PAGE.exists(), reason="the docs are not here")
def test_every_column_rule_and_key_is_explained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    first_cells = {
        cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line[1:].split("|")[:1]
    }
    explained = {name.strip() for cell in first_cells for name in cell.split(",")}
    assert {title for title, _ in _COLUMNS} - explained == set()
    assert {rule.__name__ for rule in RULES} - explained == set()
    assert [name for name in SORT_KEYS if f"`{name}`" not in text] == []


@pytest.mark.slow
@pytest.mark.skipif(not BENCHMARK.exists(), reason="the benchmarks are not here")
def test_the_benchmark_measures_what_it_says(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--rounds", "1", "--json", str(tmp_path / "cost.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode in (0, 1), done.stderr  # 1: a limit broken, which on a busy machine may be
    found = json.loads((tmp_path / "cost.json").read_text())
    assert len(found["calls_ns"]) == 4 and len(found["step_percent"]) == 2
    # Recording costs something; a benchmark that records nothing would say otherwise.
    assert found["calls_ns"]["on: event"] > found["calls_ns"]["off: branch"]
