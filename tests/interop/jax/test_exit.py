"""The end of a process whose computations have not ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastnll.interop.jax import _ffi

START = """
import jax, jax.numpy as jnp
from fastnll.interop.jax import _ffi, log_softmax
f = jax.jit(lambda x: log_softmax(x) + 1)
x = jnp.ones((256, 20000)).block_until_ready()
"""
guarded = pytest.mark.skipif(_ffi._gate is None, reason="built without a compiler: nothing stands before the handlers")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", START + code], timeout=120, capture_output=True, text=True)


def test_results_that_are_kept() -> None:
    done = run("for _ in range(20): x = f(x)")
    assert done.returncode == 0, done.stderr


@guarded
def test_results_that_nobody_keeps() -> None:
    """Without the gate this hangs in most runs: XLA's threads wait for the lock of an interpreter that is gone."""
    for _ in range(3):
        done = run("for _ in range(20): f(x)")
        assert (done.returncode, done.stderr) == (0, "")


@guarded
def test_a_call_after_the_end_is_refused_by_the_gate() -> None:
    done = run("""
_ffi._finish()
try:
    f(x).block_until_ready()
except jax.errors.JaxRuntimeError as error:
    print(error)
""")
    assert "the interpreter has ended" in done.stdout, done.stderr
