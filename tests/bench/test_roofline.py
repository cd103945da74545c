"""The measured limits: what is in them, how they are kept, what they say about a kernel."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastnll import profiling
from fastnll.cli.main import main
from fastnll.profiling import Bound, Machine, Rate, Roofline, cache, measuring, sgemm

MACHINE = Machine("a cpu", 2, 32 * 2**20, "Linux x86_64")


def _limits(**sweep: Any) -> Roofline:
    rates = {"read": 40e9, "copy": 30e9, "copy_nt": 50e9, "update": 55e9, "fresh": 5e9, "exp_f32": 8e9, "exp_f64": 2e9}
    return Roofline(MACHINE, 2, "by hand", 2**30, {name: Rate(rate, 1.1 * rate) for name, rate in rates.items()}, sweep)


@pytest.fixture(scope="module")
def quick() -> Roofline:
    return profiling.measure(1, quick=True)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: Roofline) -> Path:
    """A cache folder of its own, and a measurement that takes no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "measure", lambda threads: quick)
    return tmp_path / "fastnll"


def test_every_limit_is_measured(quick: Roofline) -> None:
    needed = {"read", "copy", "update", "fresh", "exp_f32", "exp_f64", "sgemm"}
    assert needed <= quick.rates.keys() <= profiling.CEILINGS.keys()
    assert all(0 < rate.median <= rate.best for rate in quick.rates.values())
    sizes = [size for size, _ in quick.sweep["read"]]
    assert sizes == sorted(sizes)
    assert sizes[-1] == quick.array_bytes
    for name in quick.rates:
        assert profiling.CEILINGS[name][0] in quick.table()


def test_the_table_says_that_numpy_measured() -> None:
    limits = profiling.measure(1, quick=True, compiled=False)
    assert "copy_nt" not in limits.rates
    assert "probes    NumPy: the compiled probes are not there" in limits.table()


def test_arrays_are_four_caches_or_the_table_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "available_memory", lambda: 2**36)
    assert measuring._array_bytes(MACHINE) == (128 * 2**20, [])
    size, notes = measuring._array_bytes(replace(MACHINE, llc_bytes=480 * 2**20))
    assert size == 2**30
    assert "1.88 GB; 1 GB is the cap" in notes[0]
    monkeypatch.setattr(measuring, "available_memory", lambda: 6 * 2**26)
    assert "64 MB is a sixth of the free memory" in measuring._array_bytes(MACHINE)[1][0]


def test_json_and_back(quick: Roofline) -> None:
    assert Roofline.from_dict(json.loads(json.dumps(quick.to_dict()))) == quick


def test_the_slower_of_memory_and_exp_binds() -> None:
    limits = _limits()
    assert limits.bound("read", read=40 * 10**9) == Bound(1.0, "read")
    assert limits.bound("read", read=40 * 10**9, exps=16 * 10**9) == Bound(2.0, "exp")
    assert limits.bound("read", read=1, exps=2 * 10**9, itemsize=8) == Bound(1.0, "exp")
    assert limits.bound("copy", read=25 * 10**9, written=25 * 10**9).seconds == pytest.approx(1.0)  # the better copy
    assert limits.bound("fresh", read=40 * 10**9, written=5 * 10**9) == Bound(2.0, "fresh memory")


def test_a_small_working_set_gets_the_rate_of_its_size() -> None:
    limits = _limits(read=[(2**20, 200e9), (2**30, 40e9)])
    assert limits.memory_rate("read", 2**10) == pytest.approx(200e9)
    assert limits.memory_rate("read", 2**25) == pytest.approx(120e9)
    assert limits.memory_rate("read", 2**40) == pytest.approx(40e9)
    assert limits.memory_rate("read") == 40e9


def test_kept_once_and_measured_again_on_request(kept: Path, monkeypatch: pytest.MonkeyPatch, quick: Roofline) -> None:
    assert profiling.load(1) is None
    assert profiling.load_or_measure(1) == quick
    assert [path.name for path in kept.iterdir()] == [profiling.cache_path(1).name]
    other = replace(quick, notes=["measured again"])
    monkeypatch.setattr(cache, "measure", lambda threads: other)
    assert profiling.load_or_measure(1) == quick
    assert profiling.load_or_measure(1, refresh=True) == other == profiling.load(1)
    assert profiling.load(2) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 0, "roofline": {}}', "null"])
def test_a_torn_or_foreign_file_is_measured_again(kept: Path, quick: Roofline, text: str) -> None:
    profiling.store(quick, 1)
    profiling.cache_path(1).write_text(text)
    assert profiling.load(1) is None
    assert profiling.load_or_measure(1) == quick == profiling.load(1)


def test_limits_of_another_machine_are_not_ours(kept: Path, quick: Roofline) -> None:
    profiling.store(quick, 1)
    values = json.loads(profiling.cache_path(1).read_text())
    values["roofline"]["machine"]["cpu"] = "another"
    profiling.cache_path(1).write_text(json.dumps(values))
    assert profiling.load(1) is None


def test_a_folder_that_cannot_be_written_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert any(note.startswith("not kept: ") for note in profiling.load_or_measure(1).notes)


def test_the_matrix_product_does_not_see_misleading_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "1")
    seen: dict[str, str] = {}

    def run(command: list[str], *, env: dict[str, str], **options: Any) -> Any:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, '{"library": "none", "gflops": [1.0]}', "")

    monkeypatch.setattr(subprocess, "run", run)
    assert sgemm.measure_sgemm(3, n=8, rounds=1)["gflops"] == [1.0]
    assert seen["OPENBLAS_NUM_THREADS"] == "3"
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & seen.keys()


def test_a_failing_matrix_product_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "measure_sgemm", lambda threads, n, rounds: {"error": "sgemm failed: no BLAS"})
    limits = profiling.measure(1, quick=True)
    assert "sgemm" not in limits.rates
    assert "sgemm failed: no BLAS" in limits.table()


def test_command_prints_draws_and_keeps(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "roofline.png"
    assert main(["roofline", "--threads", "1", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "read only (sum)" in printed
    assert str(profiling.cache_path(1)) in printed
    assert main(["roofline", "--threads", "1", "--json"]) == 0
    assert Roofline.from_dict(json.loads(capsys.readouterr().out)).threads == 1
    assert main(["roofline", "--threads", "1", "--plot", str(tmp_path / "x.nonsense")]) == 2
    assert "--plot" in capsys.readouterr().err
