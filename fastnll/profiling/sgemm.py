"""One large single-precision matrix product, timed: run as a script, in a process of its own.

Its own process because the BLAS reads its settings once, when it is loaded. Prints one JSON object:
the library, the number of threads asked for and GFLOP/s of each round. Imports nothing of fastnll, so that it
can be run by path.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["measure_sgemm"]

# Settings under which OpenBLAS works for another processor or cache than the machine has.
_MISLEADING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def measure_sgemm(threads: int, n: int = 2048, rounds: int = 5) -> dict[str, Any]:
    """Time an n by n by n matrix product in float32 in a fresh process.

    Parameters
    ----------
    threads : int
        Threads the BLAS may use.
    n : int
        Side of the three matrices.
    rounds : int
        Products timed after two that are not.

    Returns
    -------
    dict
        "library" (str), "gflops" (list of float, one a round; 2 n^3 operations each), or "error" (str).

    Examples
    --------
    >>> sorted(measure_sgemm(1, n=64, rounds=2))
    ['gflops', 'library']
    """
    import subprocess  # here, as argparse below: a hundredth of a second of every start of fastnll

    environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    environment.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    # -P: this folder must not come before the standard library on the child's path.
    command = [sys.executable, "-P", os.path.abspath(__file__), "--size", str(n), "--rounds", str(rounds)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"sgemm could not be run: {error}"}
    if done.returncode:
        return {"error": f"sgemm failed: {done.stderr.strip().splitlines()[-1:]}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    args = parser.parse_args()
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((args.size, args.size), dtype=np.float32) for _ in range(2))
    multiply: Callable[[], Any]
    try:
        from scipy.linalg.blas import sgemm

        a, b = np.asfortranarray(a), np.asfortranarray(b)
        library = "scipy.linalg.blas.sgemm"

        def multiply() -> Any:
            return sgemm(1.0, a, b)

    except ImportError:
        library = "numpy.matmul"

        def multiply() -> Any:
            return a @ b

    seconds = []
    for _ in range(args.rounds + 2):
        start = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"library": library, "gflops": [2e-9 * args.size**3 / s for s in seconds[2:]]}))


if __name__ == "__main__":
    _main()
