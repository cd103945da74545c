"""A backend whose kernels report their calls; `registry.backend` hands it out while somebody profiles.

What is noted of a call is what its task says at the moment it ran: sizes, dtype, threads. Bytes and rates are worked
out when a report is made, from the op table.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from fastnll import config, events
from fastnll.kernels.spec import OPS

__all__ = ["LARGE", "Observed", "note_short", "observed"]

# Arrays of at least this many bytes are worth asking the system about page faults and CPU time: about 2 us a call.
LARGE = 1 << 20

_clock, _thread, _settings = time.perf_counter_ns, threading.get_ident, config.settings.get
_NAMES = {"fastnll.kernels.native": "native", "fastnll.kernels.jit": "numba", "fastnll.kernels.reference": "reference"}


def _no_faults(threads: int) -> int:
    return 0


def _fault_counter() -> Callable[[int], int]:
    try:
        import resource
    except ImportError:  # not on this system
        return _no_faults
    everybody = resource.RUSAGE_SELF
    # What a kernel on one thread does to memory must not be mixed with what other threads do meanwhile.
    mine = getattr(resource, "RUSAGE_THREAD", everybody)

    def faults(threads: int) -> int:
        return resource.getrusage(mine if threads == 1 else everybody).ru_minflt

    return faults


_faults = _fault_counter()


class Observed:
    """A backend that records every call of a kernel.

    Parameters
    ----------
    module : module
        The backend.

    Examples
    --------
    >>> from fastnll.kernels import reference
    >>> Observed(reference).name
    'reference'
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self.__name__ = module.__name__
        self.name = _NAMES.get(module.__name__, module.__name__)

    def __getattr__(self, name: str) -> Any:
        # What has no method here: other functions of the module, and the one kernel that a backend need not have.
        found = getattr(self._module, name)
        if name == "linear_losses":
            return functools.partial(self._losses, found)
        return found

    def logsumexp(self, task: Any) -> None:
        """Run and record `SoftmaxTask` without a full output."""
        self._run(self._module.logsumexp, "logsumexp", task, task.x, "value", 1, 0)

    def softmax(self, task: Any) -> None:
        """Run and record `SoftmaxTask`."""
        self._run(self._module.softmax, "softmax", task, task.x, *_written(task.x, task.out, 1, task.fresh))

    def softmax_vjp(self, task: Any) -> None:
        """Run and record `VjpTask`; that of log_softmax takes an exp for each element."""
        y, out = task.y, task.out
        mode = "inplace" if np.may_share_memory(y, out) or np.may_share_memory(task.grad, out) else "out"
        self._run(self._module.softmax_vjp, "softmax_vjp", task, y, mode, int(task.log), 0)

    def cross_entropy(self, task: Any) -> None:
        """Run and record `CrossEntropyTask`."""
        grad = task.grad
        how = ("value", 1, 0) if grad is None else _written(task.x, grad, 1, task.fresh)
        self._run(self._module.cross_entropy, "cross_entropy", task, task.x, *how)

    def gather(self, task: Any) -> None:
        """Run and record `GatherTask`."""
        mode, exps = ("normalised", 0) if task.normalised else ("value", 1)
        self._run(self._module.gather, "gather", task, task.x, mode, exps, 0)

    def sgd_update(self, task: Any) -> None:
        """Run and record `SgdTask`."""
        mode = "plain" if task.buffer is None else "momentum"
        self._run(self._module.sgd_update, "sgd_update", task, task.param, mode, 0, 0)

    def scan_targets(self, targets: Any, n_classes: int, ignore: int | None, threads: int = 1) -> Any:
        """Run and record the check of the targets."""
        recorder = events.active
        start = _clock()
        found = self._module.scan_targets(targets, n_classes, ignore, threads)
        if recorder is not None:
            end = _clock()
            detail = ("scan", targets.size, targets.dtype, threads, self.name)
            recorder.add((start, end, _thread(), events.KERNEL, "kernel.scan_targets", detail))
        return found

    def linear_logits(self, task: Any) -> None:
        """Run and record the product of a linear head."""
        self._product(self._module.linear_logits, "linear_logits", task, 1)

    def linear_grads(self, task: Any) -> None:
        """Run and record the products of its gradient: one for the hidden rows, one for the weight."""
        products = (task.grad_hidden is not None) + (task.grad_weight is not None)
        self._product(self._module.linear_grads, "linear_grads", task, products)

    def _losses(self, kernel: Callable[[Any], None], task: Any) -> None:
        recorder = events.active
        start = _clock()
        kernel(task)
        if recorder is not None:
            end, hidden = _clock(), task.hidden
            shape = (task.rows.size, task.weight.shape[0])
            noted = ("product", "linear_logits", shape, hidden.dtype, task.threads, self.name, hidden.shape[-1])
            recorder.add((start, end, _thread(), events.KERNEL, "kernel.linear_losses", noted))

    def _product(self, kernel: Callable[[Any], None], name: str, task: Any, products: int) -> None:
        recorder = events.active
        start = _clock()
        kernel(task)
        if recorder is not None:
            end = _clock()
            logits, depth = task.logits, task.hidden.shape[-1]
            noted = ("product", name, logits.shape, logits.dtype, task.threads, self.name, products * depth)
            recorder.add((start, end, _thread(), events.KERNEL, _KERNELS[name], noted))

    def _run(
        self, kernel: Callable[[Any], None], name: str, task: Any, x: Any, mode: str, exps: int, fresh: int
    ) -> None:
        recorder = events.active
        if recorder is None:
            kernel(task)
            return
        threads, before = task.threads, None
        if x.nbytes >= LARGE:
            before = (_faults(threads), time.process_time_ns(), time.thread_time_ns())
        start = _clock()
        kernel(task)
        end = _clock()
        usage = None
        if before is not None:
            usage = (_faults(threads) - before[0], *before[1:], time.process_time_ns(), time.thread_time_ns())
        isa = _settings().isa
        noted = ("task", name, mode, x.shape, x.dtype, x.strides, threads, self.name, isa, exps, fresh, usage)
        recorder.add((start, end, _thread(), events.KERNEL, _KERNELS[name], noted))


_KERNELS = {name: f"kernel.{name}" for name in OPS}


def _written(x: Any, out: Any, exps: int, fresh: bool) -> tuple[str, int, int]:
    """Return (mode, exps, bytes of fresh memory) of a kernel that writes an array of x's size."""
    if fresh:
        return "out", exps, out.nbytes
    return ("inplace" if np.may_share_memory(x, out) else "out"), exps, 0


@functools.cache
def observed(module: ModuleType) -> Any:
    """Return the backend that records the calls of this one.

    Examples
    --------
    >>> from fastnll.kernels import reference
    >>> observed(reference) is observed(reference)
    True
    """
    return Observed(module)


def note_short(recorder: events.Recorder, name: str, start: int, x: Any, with_grad: bool, out: Any) -> None:
    """Record a small batch that took the compiled backend's short way: one event for the call and its kernel.

    Parameters
    ----------
    recorder : Recorder
    name : str
        The public function.
    start : int
        When it began.
    x : ndarray (N, V)
        Logits.
    with_grad : bool
    out : ndarray or None
        What the caller gave for the gradient.
    """
    detail = ("short", x.shape, x.dtype, with_grad, out is x)
    recorder.add((start, _clock(), _thread(), events.SHORT, name, detail))


# From what was noted to a Call, when a report is made


def _task_call(noted: tuple[Any, ...]) -> events.Call:
    _, name, mode, shape, dtype, strides, threads, backend, isa, exps, fresh, usage = noted
    return events.Call(OPS[name], mode, shape, dtype, strides[-1], threads, backend, isa, exps, fresh, usage)


def _product_call(noted: tuple[Any, ...]) -> events.Call:
    _, name, shape, dtype, threads, backend, depth = noted
    # Every logit is a sum of `depth` products: a multiplication and an addition each.
    flops = 2 * shape[0] * shape[1] * depth
    shape = (1, *shape)
    return events.Call(OPS[name], "product", shape, dtype, dtype.itemsize, threads, backend, None, 0, 0, None, flops)


def _scan_call(noted: tuple[Any, ...]) -> events.Call:
    _, size, dtype, threads, backend = noted
    spec = OPS["scan_targets"]
    return events.Call(spec, "value", (size,), dtype, dtype.itemsize, threads, backend, None, 0, 0, None)


def _short_call(noted: tuple[Any, ...]) -> events.Call:
    _, (n, v), dtype, with_grad, in_place = noted
    mode = "value" if not with_grad else "inplace" if in_place else "out"
    fresh = n * v * dtype.itemsize if mode == "out" else 0
    spec = OPS["cross_entropy"]
    return events.Call(spec, mode, (1, n, v), dtype, dtype.itemsize, 1, "native", None, 1, fresh, None)


events.notes.update(task=_task_call, product=_product_call, scan=_scan_call, short=_short_call)
