"""The source distribution builds from itself, without the network, into a wheel that works elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"


def build(what: str, source: Path, out: Path) -> Path:
    """Run one hook of the build backend; with what is installed, so nothing is fetched."""
    out.mkdir()
    # Tools of other projects are pointed at a proxy that is not there: a download would fail.
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, str(out)], cwd=source, env={**os.environ, **offline}, capture_output=True,
        text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out / done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests are not beside the sources")
def test_the_source_distribution_builds_a_wheel_that_works(tmp_path: Path) -> None:
    pytest.importorskip("Cython", reason="needs Cython to build")
    pytest.importorskip("extension_helpers", reason="needs extension-helpers to build")
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".git", "*.so", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "runs",
                                     "*.egg-info", "_kernels.c", "_probes.c", "_linear.c", "_gate.c", "rows.c",
                                     "beam.c", ".venv", "venv")  # fmt: skip
    shutil.copytree(ROOT, clone, ignore=ignored)
    sdist = build("build_sdist", clone, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "unpacked", filter="data")
    sources = {str(p.relative_to(clone)) for suffix in ("py", "pyx", "pxd", "pyi", "h", "c", "md")
               for p in clone.rglob(f"*.{suffix}") if "build" not in p.parts}  # fmt: skip
    written = {"fastnll/kernels/native/_kernels.c", "fastnll/profiling/_probes.c"}
    assert sources - names - written == set()
    assert not any(name.endswith(".so") or "__pycache__" in name for name in names)

    shutil.rmtree(clone)
    [source] = (tmp_path / "unpacked").iterdir()
    wheel = build("build_wheel", source, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "fastnll/py.typed" in inside
    assert "fastnll/kernels/native/_kernels.pyi" in inside
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in inside)
    shutil.rmtree(tmp_path / "unpacked")
    if not any("_kernels." in name and name.endswith(".so") for name in inside):
        pytest.skip("no C compiler: the wheel has Python files alone, and its import is that of the source")
    script = (
        "import numpy as np, fastnll as fn, sys; print(fn.__file__); fn.cross_entropy(np.eye(3), [0, 1, 2]); "
        "print(fn.info().to_dict()['backend'])"
    )
    # -S leaves this environment's site out, with its editable install; its packages are added by hand.
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *packages])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    file, backend = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "site")
    assert backend == "native"


def test_the_wheels_that_are_built_are_the_versions_that_are_promised() -> None:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("the tests are not beside the sources")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    builds = project["tool"]["cibuildwheel"]["build"].split()
    assert project["project"]["requires-python"] == ">=3.11"
    assert builds[0] == "cp311-*"
    assert "python -m pytest" in project["tool"]["cibuildwheel"]["test-command"]


def test_the_extensions_declare_that_they_need_no_lock() -> None:
    sources = [*ROOT.glob("fastnll/**/*.pyx")]
    if not sources:
        pytest.skip("the tests are not beside the sources")
    for source in sources:
        assert "freethreading_compatible=True" in source.read_text().split("\n")[0].replace(" ", ""), source
