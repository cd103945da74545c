"""The machine probes do what they are timed for: every instruction set, thread count and length."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from fastnll.profiling import probes as probes_module
from fastnll.profiling.probes import NumpyProbes, make_probes

ROOT = Path(__file__).parents[2]
_probes = pytest.importorskip("fastnll.profiling._probes", reason="the compiled probes were not built")
ISAS = list(enumerate(_probes.isas()))
LENGTHS = (0, 1, 15, 16, 17, 63, 64, 1000, 1024, 5000, 70_001)


def _values(n: int) -> np.ndarray:
    return (np.arange(n) % 251).astype(np.float32)


@pytest.mark.parametrize(("isa", "name"), ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_read_adds_every_element_of_every_sweep(isa: int, name: str, threads: int) -> None:
    for n in LENGTHS:
        x = _values(n)
        assert _probes.read(x, isa, 3, threads) == 3 * x.sum(dtype=np.float64), (name, n)


@pytest.mark.parametrize(("isa", "name"), ISAS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_copy_writes_its_elements_and_no_other(isa: int, name: str, stream: bool, offset: int) -> None:
    if stream and not _probes.has_stream(isa):
        pytest.skip(f"{name} has no non-temporal store in this build")
    for n in LENGTHS:
        src, whole = _values(n), np.full(n + 64, -1, np.float32)
        _probes.copy(whole[offset : offset + n], src, stream, isa, 2, 2)
        np.testing.assert_array_equal(whole[offset : offset + n], src)
        assert (whole[:offset] == -1).all()
        assert (whole[offset + n :] == -1).all()


@pytest.mark.parametrize(("isa", "name"), ISAS)
def test_update_multiplies_in_place(isa: int, name: str) -> None:
    for n in LENGTHS:
        x = _values(n)
        _probes.update(x, 2.0, isa, 3, 2)
        np.testing.assert_array_equal(x, 8 * _values(n))


@pytest.mark.parametrize(("isa", "name"), ISAS)
def test_exp_is_an_exp(isa: int, name: str) -> None:
    """A probe that computed less than an exp would set a limit that nothing can reach."""
    for value in np.linspace(-20, 3, 47):
        single, double = np.full(64, value, np.float32), np.full(32, value)
        # Without FMA the reduction of large arguments loses some digits: 20 ulp at -20.
        assert _probes.exp_f32(single, isa) / 64 == pytest.approx(np.exp(np.float64(single[0])), rel=30 * 2.0**-24)
        assert _probes.exp_f64(double, isa) / 32 == pytest.approx(np.exp(value), rel=64 * 2.0**-53)


def test_every_thread_computes_its_own_exps() -> None:
    x = np.zeros(64, np.float32)
    team = _probes.team(3)
    assert _probes.exp_f32(x, 0, 5, 3) == pytest.approx(64 * 5 * team, rel=1e-6)


def test_coefficients_are_those_of_the_fit() -> None:
    pytest.importorskip("mpmath", reason="the fit needs mpmath")
    remez = runpy.run_path(str(ROOT / "benchmarks" / "fit_exp.py"))["remez"]
    source = (ROOT / "fastnll" / "profiling" / "probes.c").read_text()
    for degree, dtype, stem in ((5, np.float32, "F32"), (10, np.float64, "F64")):
        fitted, _ = remez(degree, dtype)
        written = dict(re.findall(rf"#define EXP_{stem}_C(\d+) (0x\S+?)f?\n", source))
        assert [float.fromhex(written[str(k)]) for k in range(degree + 1)] == [float.fromhex(c) for c in fitted]


def test_bad_arguments_are_named() -> None:
    x = np.zeros(64, np.float32)
    with pytest.raises(ValueError, match=f"isa: expected an index below {len(ISAS)}, got {len(ISAS)}"):
        _probes.read(x, len(ISAS))
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        _probes.read(x, 0, 1, 0)
    with pytest.raises(ValueError, match="reps: expected at least 1, got 0"):
        _probes.update(x, 1.0, 0, 0)
    with pytest.raises(ValueError, match="dst: expected 64 elements as in src, got 63"):
        _probes.copy(x[:63], x)
    with pytest.raises(ValueError, match="expected a positive multiple of 64 elements, got 63"):
        _probes.exp_f32(x[:63])
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        make_probes(0)


@pytest.mark.parametrize("compiled", [True, False])
def test_both_faces_do_the_same(compiled: bool) -> None:
    face = make_probes(2, compiled=compiled)
    x, y = np.empty(10_000, np.float32), np.zeros(10_000, np.float32)
    face.fill(x)
    assert face.read(x, 2) == 2 * x.sum(dtype=np.float64)
    face.copy(y, x)
    face.update(y, 3)
    np.testing.assert_array_equal(x, y)
    for itemsize in (4, 8):
        assert face.exps(2, itemsize) == 2 * face.exps(1, itemsize)


def test_without_a_compiler_numpy_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "missing_reason", lambda: "the compiled probes are not there (gone)")
    assert isinstance(make_probes(1), NumpyProbes)
    with pytest.raises(ValueError, match="non-temporal"):
        make_probes(1).copy(np.zeros(4, np.float32), np.zeros(4, np.float32), stream=True)
