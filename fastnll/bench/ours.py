"""fastnll as a contender: the public functions, called as a user calls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastnll as fn
from fastnll.bench.contenders import NotOfferedError, Run
from fastnll.bench.data import Data
from fastnll.kernels import registry

__all__ = ["native", "native_one_thread", "numba", "reference"]


def _run(data: Data, backend: str, threads: int) -> Run:
    reason = registry.available_backends()[backend]
    if reason is not None:
        raise NotOfferedError(reason)
    case, x, t = data.case, data.x, data.targets
    keywords: dict[str, Any] = {} if case.axis == -1 or case.op == "sgd_update" else {"axis": case.axis}
    before: Callable[[], None] | None = None

    def settings() -> fn.using:
        return fn.using(backend=backend, threads=threads)

    if case.op == "sgd_update":
        param, buffer = x.copy(), data.extra.copy()

        def before() -> None:
            np.copyto(param, x)
            np.copyto(buffer, data.extra)

        step = partial(fn.sgd_update, param, data.extra, buffer, lr=0.001, momentum=0.9)
        return Run(step, lambda _: {"out": param}, case.mode, before, settings)
    if case.mode == "inplace":
        x = keywords["out"] = data.x.copy()

        def before() -> None:
            np.copyto(x, data.x)

    elif case.mode == "out":
        # Zeros written, not np.zeros: the pages of an array in use exist already.
        keywords["out"] = np.full_like(x, 0)
    function = getattr(fn, case.op)
    if case.op == "cross_entropy_value_and_grad":
        if case.grad_output != 1.0:
            keywords["grad_output"] = case.grad_output
        call = partial(function, x, t, **keywords)
        return Run(call, lambda raw: {"loss": raw[0], "out": raw[1]}, case.mode, before, settings)
    if case.op in ("cross_entropy", "nll_loss"):
        return Run(partial(function, x, t, **keywords), lambda raw: {"loss": raw}, case.mode, None, settings)
    arguments: tuple[Any, ...] = (x,)
    if case.op == "selected_log_probs":
        arguments = (x, t)
    elif case.op.endswith("_vjp"):
        arguments = (x, data.extra)
    return Run(partial(function, *arguments, **keywords), lambda raw: {"out": raw}, case.mode, before, settings)


def native(data: Data, threads: int) -> Run:
    """Return the run on the compiled kernels."""
    return _run(data, "native", threads)


def native_one_thread(data: Data, threads: int) -> Run:
    """Return the run on the compiled kernels and one thread, to compare with `threads` of them."""
    if threads == 1:
        raise NotOfferedError("the whole run is on one thread")
    return _run(data, "native", 1)


def native_isa(isa: str, data: Data, threads: int) -> Run:
    """Return the run on one instruction set's table of the compiled kernels."""
    if isa not in registry.available_isas():
        raise NotOfferedError(f"this machine cannot run the {isa} table")
    run = _run(data, "native", threads)
    run.context = lambda: fn.using(backend="native", isa=isa, threads=threads)
    return run


native_baseline = partial(native_isa, "baseline")
native_avx2 = partial(native_isa, "avx2")


def scalar(data: Data, threads: int) -> Run:
    """Return the textbook loop: one logit at a time, the C library's expf, not vectorised; one row a call of libm."""
    from fastnll.profiling import _probes

    if data.case.op != "cross_entropy" or data.x.dtype != np.float32:
        raise NotOfferedError("the scalar loop has the value of float32 rows alone")
    targets = data.targets.astype(np.int64)
    return Run(
        lambda: _probes.scalar_cross_entropy(data.x, targets, threads), lambda raw: {"loss": raw}, data.case.mode
    )


def numba(data: Data, threads: int) -> Run:
    """Return the run on the Numba kernels."""
    return _run(data, "numba", threads)


def reference(data: Data, threads: int) -> Run:
    """Return the run on the NumPy reference, the specification of the others."""
    return _run(data, "reference", threads)
