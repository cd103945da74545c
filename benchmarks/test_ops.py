"""Every op, on every backend and every installed peer, grouped by case; the result is checked before it is timed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fastnll.bench.cases import Case
from fastnll.bench.contenders import CONTENDERS, OURS, NotOfferedError
from fastnll.bench.oracle import Oracle


def test_op(case: Case, contender: str, oracle: Oracle, threads: int, benchmark: Any) -> None:
    entry = CONTENDERS[contender]
    missing = entry.missing()
    if missing is not None:
        pytest.skip(missing)
    try:
        run = entry.setup(oracle.data, threads)
    except NotOfferedError as error:
        pytest.skip(f"{contender}: {error}")
    with run.context():
        if run.before:
            run.before()
        errors, reason = oracle.check(run.outputs(run.call()))
        if reason is not None:
            assert contender not in OURS, reason
            pytest.skip(f"{contender} is left out: {reason}")
        traffic = case.traffic()
        nbytes = traffic.read + traffic.written
        benchmark.group = case.name
        benchmark.extra_info.update(
            op=case.op,
            shape=list(case.shape),
            dtype=case.dtype,
            mode=run.mode,
            bytes=nbytes,
            threads=threads,
            isa=_isa() if contender in OURS else None,
            error_ulp={name: error.worst for name, error in errors.items()},
        )
        if run.before or case.group != "call":
            benchmark.pedantic(run.call, setup=run.before, rounds=10, iterations=1, warmup_rounds=1)
        else:
            benchmark(run.call)
        if benchmark.stats is not None:
            benchmark.extra_info["gb_per_s"] = nbytes / benchmark.stats.stats.median * 1e-9


def _isa() -> str | None:
    from fastnll.kernels import registry

    return registry.isa_name()


def test_a_case_is_worth_measuring(case: Case, oracle: Oracle) -> None:
    """The targets hold little of the probability: a gradient of nearly zero would flatter everyone."""
    x = oracle.data.x
    assert x.min() < x.max()
    if case.op in ("cross_entropy", "cross_entropy_value_and_grad"):
        assert float(oracle.mean_loss()) > 0.5 * math.log(case.classes)
