"""The types: strict everywhere, and the stubs say what the extensions have."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastnll

ROOT = Path(__file__).parents[1]
PACKAGE = Path(fastnll.__file__).parent
COMPILED = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.pyi"))
    if path.parent != PACKAGE
]

pytestmark = pytest.mark.slow


def run(tmp_path: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mypy", reason="needs mypy")
    environment = {**os.environ, "MYPY_CACHE_DIR": os.environ.get("MYPY_CACHE_DIR", str(tmp_path / "cache"))}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the tests are not beside the sources")
def test_strict(tmp_path: Path) -> None:
    done = run(tmp_path, "mypy")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", COMPILED)
def test_stubs(tmp_path: Path, module: str) -> None:
    try:
        compiled = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:  # of a bridge: its package needs the other library
        pytest.skip(f"{module}: {error}")
    if not compiled:
        pytest.skip(f"{module} was not compiled here")
    # The stubs are asked about, not the package: that is the other test.
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nignore_errors = True\n")
    done = run(tmp_path, "mypy.stubtest", "--mypy-config-file", str(config), module)
    assert done.returncode == 0, done.stdout


def test_users_are_told_that_there_are_types() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_every_extension_has_a_stub() -> None:
    """Those of the package itself: what examples build is theirs."""
    extensions = {path.parent / path.name.split(".")[0] for path in PACKAGE.rglob("*.so")}
    assert {path for path in extensions if not path.with_suffix(".pyi").exists()} == set()
