"""`import fastnll` loads NumPy and fastnll; what is heavy or optional waits until it is used."""

from __future__ import annotations

import subprocess
import sys

# fmt: off
HEAVY = (
    "scipy", "numba", "llvmlite", "torch", "jax", "sklearn", "matplotlib", "tqdm", "threadpoolctl", "pyarrow", "pandas",
    "tokenizers", "safetensors", "mpi4py", "ml_dtypes", "importlib.metadata", "email", "unittest", "argparse",
    "subprocess",
    "fastnll.cli", "fastnll.bench", "fastnll.interop", "fastnll.kernels.jit",
)
# fmt: on


def loaded(code: str) -> list[str]:
    """Which heavy modules a fresh interpreter has after some code."""
    script = f"{code}; import sys; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    # -I: no user site and no variables, whose start-up files import what they like.
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_fastnll_loads_nothing_heavy() -> None:
    before = loaded("import numpy")
    assert [name for name in loaded("import fastnll") if name not in before] == []


def test_a_loss_needs_none_of_them_either() -> None:
    code = "import numpy as np, fastnll as fn; before = set(); "
    code += "fn.cross_entropy_value_and_grad(np.ones((4, 3), np.float32), [0, 1, 2, 0])"
    allowed = {"numba", "llvmlite", "fastnll.kernels.jit"}  # where no compiled backend was built
    found = set(loaded(code)) - set(loaded("import numpy"))
    assert found - (allowed if "numba" in found else set()) <= {"importlib.metadata", "email", "subprocess", "unittest"}
