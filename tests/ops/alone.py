"""Programs that need an interpreter of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.cases import Engine


def run_alone(program: str, engine: Engine, **env: str) -> str:
    """Run a program in a fresh interpreter under the engine and return what it prints."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("FASTNLL_", "OMP_"))}
    variables["FASTNLL_BACKEND"] = engine.backend
    if engine.isa:
        variables["FASTNLL_ISA"] = engine.isa
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={**variables, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
