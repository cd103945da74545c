"""The memory of a linear head: what a call will allocate, for the call itself and for who asks beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnll.dtypes import FLOATS
from fastnll.errors import OptionError, ShapeError
from fastnll.ops._linear_grads import WRT, Grads, check_wrt
from fastnll.ops._linear_plan import MemoryItem, MemoryPlan, Sizes, blocked_products, check_max_memory, plan_memory
from fastnll.ops._linear_problem import LinearProblem
from fastnll.ops._linear_sgd import GROUP, group_items
from fastnll.plan import make_plan

__all__ = ["memory_plan", "sizes_of"]


def sizes_of(
    lp: LinearProblem,
    wrt: tuple[str, ...] = (),
    grads: Grads | None = None,
    out: Any = None,
    *,
    held: bool = True,
    filtered: bool = False,
    sgd: bool = False,
) -> Sizes:
    """Return what the memory plan of a checked call depends on.

    Parameters
    ----------
    lp : LinearProblem
    wrt : tuple of str
        The gradients that are asked for.
    grads : Grads, optional
        Where they go.
    out : tuple, optional
        What the user gave for them.
    held : bool
        Whether the logits of a chunk are held.
    filtered, sgd : bool
        Whether the call filters, and whether it updates the weight.
    """
    v, d = lp.weight.shape
    storage, compute = lp.hidden.itemsize, lp.kind.itemsize
    extra = [MemoryItem(f"copy of {name}", size, "its rows do not lie side by side") for name, size in lp.copies]
    made: list[MemoryItem] = []
    if grads is not None:
        given = (None, None, None) if out is None else tuple(out)
        for name, a, mine in zip(WRT, grads[:3], given, strict=True):
            if a is not None and mine is None:
                made.append(MemoryItem(f"gradient of {name}", a.nbytes, "returned"))
        if grads.weight_sum is not None and not grads.weight_sum_is_users:
            extra.append(_sum_item(grads.weight_sum.nbytes))
    if sgd:
        extra += group_items(lp.live.size, v, d, storage, compute)
        v = min(v, GROUP) + 1
    backend = lp.problem.plan.backend
    products = _products(backend, lp.hidden.dtype, v, d, compute, held, filtered)
    numbers = (lp.hidden.shape[0], lp.live.size, v, d, compute)
    return Sizes(*numbers, _backend_name(backend), products, wrt, held, tuple(extra), tuple(made))


def _backend_name(backend: Any) -> str:
    name = str(backend.__name__).rpartition(".")[2]
    return {"jit": "numba"}.get(name, name)


def _products(
    backend: Any, dtype: Any, v: int, d: int, compute: int, held: bool, filtered: bool
) -> Callable[[int], tuple[int, int]]:
    """Return what the backend's products take for a chunk of a number of rows."""
    if _backend_name(backend) != "native":
        return blocked_products(d, v, compute)

    def sizes(rows: int) -> tuple[int, int]:
        if not held:
            state: tuple[int, int] = backend.linear_value_sizes(dtype, rows, d, v)
            return state
        found: tuple[int, int] = backend.linear_sizes(dtype, rows, d, v, filtered)
        return found

    return sizes


def memory_plan(
    hidden: Any,
    weight: Any,
    *,
    wrt: Any = ("hidden", "weight", "bias"),
    bias: bool = True,
    dtype: str = "float32",
    grad_dtype: str | None = None,
    filter: float | None = None,
    sgd: bool = False,
    max_memory: int | None = None,
    threads: int | None = None,
) -> MemoryPlan:
    """Return what `linear_cross_entropy` or, with gradients, its value_and_grad will allocate, and why.

    Parameters
    ----------
    hidden, weight : tuple of int, or arrays
        Shapes (..., D) and (V, D).
    wrt : str or sequence of str
        The gradients that will be asked for; ``()`` for the value alone.
    bias : bool
        Whether there is one.
    dtype : str
        Of hidden and weight, where those are shapes.
    grad_dtype : str, optional
        As for `linear_cross_entropy_value_and_grad`.
    filter : float, optional
        As there.
    sgd : bool
        Whether the weight will be updated.
    max_memory, threads : int, optional
        As there.

    Returns
    -------
    MemoryPlan
        For a batch whose rows all count; printed, it is a table.

    Raises
    ------
    ShapeError, OptionError
        If the shapes do not fit each other, or `max_memory` is too little.

    Examples
    --------
    >>> plan = memory_plan((4096, 256), (50257, 256), max_memory=64 << 20, threads=2)
    >>> plan.workspace <= 64 << 20, plan.rows % 64
    (True, 0)
    >>> plan.outputs == 4 * (4096 * 256 + 50257 * 256 + 50257)
    True
    """
    h, w = (tuple(a) if isinstance(a, tuple | list) else tuple(a.shape) for a in (hidden, weight))
    name = str(hidden.dtype) if hasattr(hidden, "dtype") else dtype
    if len(w) != 2 or not h or h[-1] != w[1] or not all(w):
        raise ShapeError(f"hidden, weight: expected shapes (..., D) and (V, D), got {h} and {w}")
    if name not in FLOATS or (grad_dtype is not None and grad_dtype not in (name, str(FLOATS[name].compute))):
        raise OptionError(f"dtype, grad_dtype: expected floats that go together, got {name!r} and {grad_dtype!r}")
    found = FLOATS[name]
    names = check_wrt(wrt, True if bias else None) if len(tuple(wrt)) else ()
    (v, d), n = w, math.prod(h[:-1])
    plan = make_plan(n * v, threads)
    backend = _backend_name(plan.backend)
    compute = 8 if backend == "reference" else found.compute.itemsize
    size = found.itemsize if grad_dtype == name else found.compute.itemsize
    if sgd:
        names = tuple(k for k in names if k != "weight")
    each = {"hidden": n * d, "weight": v * d, "bias": v}
    outputs = tuple(MemoryItem(f"gradient of {k}", size * each[k], "returned") for k in names)
    extra: tuple[MemoryItem, ...] = ()
    if "weight" in names and size != found.compute.itemsize:
        extra = (_sum_item(v * d * found.compute.itemsize),)
    if sgd:
        extra = group_items(n, v, d, found.itemsize, compute)
        v = min(v, GROUP) + 1
    held = bool(names) or sgd or backend != "native"
    products = _products(plan.backend, _dtype_of(name), v, d, compute, held, filter is not None)
    sizes = Sizes(n, n, v, d, compute, backend, products, names or ("weight",) * sgd, held, extra, outputs)
    return plan_memory(sizes, check_max_memory(max_memory), plan.threads)


def _sum_item(size: int) -> MemoryItem:
    return MemoryItem("sum of the weight's gradient", size, "chunks add up unrounded, and are rounded once")


def _dtype_of(name: Any) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    found: np.dtype[Any] = np.dtype(name)
    return found
