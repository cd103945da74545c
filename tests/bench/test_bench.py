"""The benchmark run: who takes part, in which order, and what is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.bench import accuracy, contenders, limits, measure, report
from fastnll.bench.cases import CASES, Case, select_cases
from fastnll.bench.contenders import CONTENDERS, Contender, NotOfferedError, Run, select_contenders
from fastnll.bench.data import make_data
from fastnll.bench.measure import QUICK, CaseResult, Effort, Timing
from fastnll.cli.main import main
from fastnll.errors import OptionError

CASE = Case("large", "cross_entropy_value_and_grad", (40, 50), (40, 50), mode="inplace")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three more contenders: one raises, one is wrong, one has nothing for the case."""

    def setup(self: Contender, data: Any, threads: int) -> Run:
        if self.name == "raises":
            raise MemoryError("no memory\nfor two lines")
        if self.name == "offers nothing":
            raise NotOfferedError("no such op")
        zeros = np.zeros_like(data.x)
        return Run(lambda: zeros, lambda raw: {"loss": 1.0, "out": raw}, "fresh")

    for name in ("raises", "wrong", "offers nothing"):
        entry = type("Fake", (Contender,), {"setup": setup})(name, name, (), "")
        monkeypatch.setitem(CONTENDERS, name, entry)


def test_the_wrong_and_the_failing_are_left_out_with_the_reason(broken: None) -> None:
    admitted, left_out = measure.admit(make_data(CASE), ["numpy", "raises", "wrong", "offers nothing"], 1)
    assert list(admitted) == ["numpy"]
    assert left_out["raises"] == "MemoryError: no memory"
    assert left_out["wrong"].startswith("loss is wrong: off by up to ")
    assert "offers nothing" not in left_out


@pytest.mark.parametrize("case", [case.quick() for case in CASES if case.group in ("call", "other", "f64")],
                         ids=lambda case: case.name)  # fmt: skip
def test_numpy_scipy_and_the_reference_agree(case: Case) -> None:
    admitted, left_out = measure.admit(make_data(case), ["reference", "numpy", "scipy"], 1)
    assert left_out == {}
    assert {"reference", "numpy"} <= admitted.keys()


def test_jax_on_another_thread_count_is_left_out_and_said() -> None:
    pytest.importorskip("jax")
    admitted, left_out = measure.admit(make_data(CASE), ["jax"], 1000)
    assert admitted == {}
    assert "XLA takes all" in left_out["jax"]


def test_in_place_runs_start_from_the_same_logits_every_time() -> None:
    data = make_data(CASE)
    run = CONTENDERS["reference"].setup(data, 1)
    with run.context():
        results = []
        for _ in range(2):
            assert run.before is not None
            run.before()
            results.append(run.outputs(run.call())["out"].copy())
    np.testing.assert_array_equal(*results)
    assert not np.shares_memory(run.outputs(run.call())["out"], data.x)


def test_contenders_alternate_and_slow_ones_run_fewer_rounds() -> None:
    order: list[str] = []
    first_seconds = {"a": 0.6, "b": 1.0}
    runs = {name: (Run(lambda n=name: order.append(n), dict, "value"), s) for name, s in first_seconds.items()}
    effort = Effort(rounds=3, least=2, seconds=1.8, block=0.0, settle=0.0)
    timings = measure.interleave(runs, effort)
    assert order == ["a", "b", "a", "b", "a"]
    assert [len(t.seconds) for t in timings.values()] == [3, 2]


def test_a_quick_call_is_warmed_before_it_is_timed() -> None:
    calls: list[str] = []
    run = Run(lambda: calls.append("call"), dict, "inplace", lambda: calls.append("before"))
    measure.interleave({"x": (run, 0.01)}, Effort(rounds=1, least=1, block=0.02, settle=0.0))
    assert calls == ["before", "call", "before", "call", "call"]


def test_shares_and_ratios_are_taken_within_rounds() -> None:
    slow_moment = [1.0, 5.0, 1.0]
    timings = {"native": Timing([2 * s for s in slow_moment]), "torch": Timing([8 * s for s in slow_moment])}
    bounds = {
        "copy": Timing([1.5 * s for s in slow_moment]),
        "copy_nt": Timing(slow_moment),
        "exp": Timing([0.5 * s for s in slow_moment]),
    }
    result = CaseResult(CASE, timings, dict.fromkeys(timings, "out"), {n: {} for n in timings}, bounds, {})
    assert result.binding() == "copy_nt"
    assert result.share("native") == 0.5
    entry = report.case_dict(result)
    assert entry["contenders"]["torch"]["times_slower"] == 4.0
    line = report.case_line(entry, ["torch", "jax"])
    assert "50 %" in line
    assert "4.00x*" in line  # it allocates, the case works in place
    assert line.endswith("-")


def test_the_limits_move_the_bytes_of_the_model() -> None:
    expected = {"value": {"read", "exp"}, "inplace": {"update", "exp"}, "fresh": {"copy", "copy_nt", "exp"}}
    for mode, names in expected.items():
        op = "cross_entropy" if mode == "value" else "cross_entropy_value_and_grad"
        runs = limits.limit_runs(Case("large", op, (64, 1024), (64, 1024), mode=mode), 1)
        assert runs.keys() <= names
        assert len(runs) >= 2
        for run, factor in runs.values():
            run.call()
            assert 0.5 < factor < 2
    assert limits.limit_runs(Case("call", "cross_entropy", (8, 10), (8, 10)), 1) == {}


def test_a_case_that_does_not_fit_in_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "available_memory", lambda: 1000)
    result = measure.measure_case(CASE, ["numpy"], 1, QUICK)
    assert "of memory" in result.left_out["numpy"]
    assert report.case_line(report.case_dict(result), []).endswith("see below")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(OptionError, match=r"peers: expected some of native, .*, got tensorflow"):
        select_contenders(["tensorflow"])
    with pytest.raises(OptionError, match=r"cases: expected ops, shapes.* got .'nonsense'.; groups are large"):
        select_cases(words=["nonsense"])


def test_compiled_peers_wait_for_the_full_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: object())
    chosen, reasons = select_contenders(quick=True)
    assert {"torch.compile", "jax"} == reasons.keys()
    assert "jax" in select_contenders(["jax"], quick=True)[0]
    assert "reference" in chosen
    assert "reference" not in select_contenders()[0]


def test_headline_cases_are_in_the_table() -> None:
    names = [case.name for case in select_cases(headline=True)]
    assert len(names) == 14
    assert len({case.group for case in select_cases(headline=True)}) >= 8


def test_accuracy_has_every_line_and_survives_a_broken_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(x: Any, targets: Any) -> Any:
        raise RuntimeError("it broke")

    monkeypatch.setitem(accuracy.LIBRARIES, "broken", ((), fails))
    rows = list(accuracy.measure_accuracy(quick=True, libraries=("scipy", "broken")))
    lines = [(inputs, quantity) for inputs in accuracy.INPUTS for quantity in accuracy.QUANTITIES]
    assert [(row.inputs, row.quantity) for row in rows] == lines
    assert all(0 < row.errors["scipy"].rms <= row.errors["scipy"].worst for row in rows)
    run = report.run_dict([], rows, {}, None)
    assert "left out: broken: RuntimeError: it broke" in report.accuracy_table(run["accuracy"])


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba compiles every op and dtype once; its results are checked by the tests of the backends."""
    monkeypatch.setitem(CONTENDERS, "numba", replace(CONTENDERS["numba"], needs=("a_module_that_is_not_there",)))


def test_command_measures_writes_and_shows_again(
    no_numba: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    file, picture, table = tmp_path / "run.json", tmp_path / "run.png", tmp_path / "run.md"
    words = ["bench", "--quick", "--threads", "1", "--peers", "numpy"]
    assert main([*words, "--ops", "2048x32000", "8x10", "--dtype", "float32", "--json", str(file)]) == 0
    first = capsys.readouterr().out
    assert "cross_entropy_value_and_grad 8x10 float32 out" in first
    assert "error in float32 ulp" in first
    run = json.loads(file.read_text())
    assert run["machine"]["threads"] == 1
    entry = run["cases"][0]
    assert entry["bytes_read"] > 0
    assert all(len(c["rounds"]) >= 2 for c in entry["contenders"].values())
    assert list(tmp_path.iterdir()) == [file]
    assert main(["bench", "--from", str(file), "--plot", str(picture), "--markdown", str(table)]) == 0
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if line.startswith("cross_entropy ")] == [
        line for line in first.splitlines() if line.startswith("cross_entropy ")
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "| case | time | GB/s |" in table.read_text()


def test_command_fails_when_our_own_result_is_wrong(
    broken: None, no_numba: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENDERS, "native", CONTENDERS["wrong"])
    words = ["bench", "--quick", "--threads", "1", "--peers", "numpy", "--ops", "8x10", "--no-accuracy"]
    assert main(words) == 1


@pytest.mark.parametrize(
    ("text", "message"), [("", "expected JSON"), ("[]", "expected JSON"), ('{"format": 7}', "format 1, got 7")]
)
def test_a_foreign_file_is_named(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    assert main(["bench", "--from", str(file)]) == 1
    assert message in capsys.readouterr().err
    assert main(["bench", "--from", str(tmp_path / "absent.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
