"""The limits of a case as contenders: they run in the same rounds as the kernels.

A limit that was measured last week, or before a neighbour woke up, says little about a time taken now. The probes move
the bytes of the case's model through arrays of the same size, and compute as many exps.
"""

from __future__ import annotations

import numpy as np

from fastnll.bench.cases import Case
from fastnll.bench.contenders import Run
from fastnll.profiling import make_probes

__all__ = ["limit_runs"]

_PAGE = 4096


def _floats(nbytes: int) -> int:
    return max(1024, nbytes // _PAGE * _PAGE // 4)


def limit_runs(case: Case, threads: int) -> dict[str, tuple[Run, float]]:
    """Return the limits of a case: name -> the run, and the factor from its time to the case's.

    Parameters
    ----------
    case : Case
    threads : int

    Returns
    -------
    dict
        One or two of "read", "update", "copy", "copy_nt" (the kind of traffic of the case,
        with and without non-temporal stores where it matters) and "exp". Empty for the cost of a call.

    Examples
    --------
    >>> sorted(limit_runs(Case("large", "cross_entropy", (64, 256), (64, 256)), 1))
    ['exp', 'read']
    """
    if case.group == "call":
        return {}
    if case.features:
        from fastnll.bench.linear import gemm_limit

        n, v = case.shape
        return {"gemm": (gemm_limit((n, case.features, v), case.dtype, case.mode != "value", threads), 1.0)}
    probes, traffic = make_probes(threads), case.traffic()
    runs: dict[str, tuple[Run, float]] = {}

    def add(name: str, call: object, factor: float = 1.0) -> None:
        assert callable(call)
        runs[name] = (Run(call, lambda _: {}, case.mode), factor)

    written = np.empty(_floats(traffic.written) if traffic.written else 0, np.float32)
    source = np.empty(_floats(traffic.read), np.float32)
    for array in (written, source):
        if array.size:
            probes.fill(array)
    # An update reads what it writes; whatever else is read (targets, a second array) is read on top.
    rest = source[written.size :] if source.size - written.size >= 1024 else source[:0]

    def read_rest() -> None:
        if rest.size:
            probes.read(rest)

    if traffic.kind == "read":
        add("read", lambda: probes.read(source), traffic.read / source.nbytes)
    elif traffic.kind == "update":

        def update() -> None:
            probes.update(written)
            read_rest()

        add("update", update)
    else:
        for stream in (False, True) if probes.has_stream else (False,):

            def copy(stream: bool = stream) -> None:
                probes.copy(written, source[: written.size], stream=stream)
                read_rest()

            add(traffic.kind + ("_nt" if stream else ""), copy)
    if traffic.exps:
        itemsize = 8 if case.dtype == "float64" else 4
        one = probes.exps(1, itemsize)
        reps = max(1, traffic.exps // one)
        add("exp", lambda: probes.exps(reps, itemsize), traffic.exps / (one * reps))
    return runs
