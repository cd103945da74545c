"""The Numba kernels against the reference: every op, every option, every dtype, on difficult rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fastnll.kernels import jit, reference
from fastnll.kernels.spec import (
    CrossEntropyTask,
    GatherTask,
    SgdTask,
    SoftmaxTask,
    VjpTask,
    row_blocks,
)

Array = np.ndarray[Any, Any]

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
LAYOUTS = ("rows", "middle", "reversed", "strided")
# Rows side by side, the border, rows one by one, rows of several steps and blocks.
WIDTHS = (2, 10, 64, 65, 300, 2500)
OUTER, INNER = 2, 37  # 74 rows: one block and a bit, in runs that are no multiple of anything
N = OUTER * INNER
ORDINARY = np.r_[9:INNER, INNER + 4 : N]  # rows that `logits` does nothing to


def rows_dtype(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    return np.float64 if dtype == np.float64 else np.float32


def laid_out(x: Array, layout: str) -> Array:
    """Return the same numbers as a view of memory laid out in another way."""
    if layout == "middle":
        return np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    if layout == "reversed":
        return np.ascontiguousarray(x[:, ::-1, ::-1])[:, ::-1, ::-1]
    if layout == "strided":
        wide = np.zeros((*x.shape[:2], 2 * x.shape[2]), x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    return x.copy()


def logits(dtype: np.dtype[Any], v: int, layout: str = "rows", seed: int = 0) -> Array:
    """Return rows of every kind: ordinary, absent classes, confident, far from 0, without a distribution."""
    rng = np.random.default_rng(seed)
    x = 3.0 * rng.standard_normal((OUTER, INNER, v))
    x[0, 0] = -np.inf
    x[0, 1, v // 2] = np.nan
    x[0, 2, v // 3] = np.inf
    x[0, 3, 1:] = -np.inf
    x[0, 4, ::2] = -1e4
    x[0, 5, 0] = 60.0
    x[0, 6] *= 300.0
    x[0, 7] += 3e4
    x[0, 8, -1] += 200.0  # above what the first look at a row sees
    x[1, 0, 0], x[1, 0, v - 1] = np.inf, np.nan
    if dtype.itemsize >= 4:
        x[1, 1] *= 1e7
        x[1, 2] = -3e37
        x[1, 3, :: max(v // 2, 1)] = -1e30
    return laid_out(x.astype(dtype), layout)


def assert_close(got: Array, want: Array, what: str, compute: np.dtype[Any], scale: float = 1.0) -> None:
    """Compare with the reference, whose own float64 arithmetic counts where the kernel computes in it."""
    unit = float(np.finfo(compute).eps)
    tolerance = (300.0 if compute == np.float64 else 30.0) * unit * scale
    rounding = tiny = 0.0
    if got.dtype.kind == "i":
        np.testing.assert_array_equal(got, want, what)
        return
    if got.dtype.itemsize == 2:
        store = ml_dtypes.finfo(got.dtype)
        rounding, tiny = 0.51 * float(store.eps), float(store.smallest_subnormal)
    beyond = np.abs(want) > float(ml_dtypes.finfo(got.dtype).max)
    np.testing.assert_allclose(
        got.astype(np.float64),
        np.where(beyond, np.copysign(np.inf, want), want),
        rtol=tolerance + rounding,
        atol=tolerance + tiny,
        err_msg=what,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("v", [1, *WIDTHS])
@pytest.mark.parametrize("name", DTYPES)
def test_softmax_family(name: str, v: int, layout: str) -> None:
    dtype = DTYPES[name]
    compute = np.dtype(rows_dtype(dtype))
    x = logits(dtype, v, layout)
    lse, want_lse = np.empty(N, compute), np.empty(N)
    jit.logsumexp(SoftmaxTask(x, lse=lse))
    reference.logsumexp(SoftmaxTask(x, lse=want_lse))
    assert_close(lse, want_lse, "logsumexp", compute)
    rng = np.random.default_rng(1)
    for log in (False, True):
        y, want = laid_out(np.empty_like(x), layout), np.empty(x.shape)
        jit.softmax(SoftmaxTask(x, y, log=log))
        reference.softmax(SoftmaxTask(x, want, log=log))
        assert_close(y, want, f"softmax, log={log}", compute)
        in_place = laid_out(x, layout)
        jit.softmax(SoftmaxTask(in_place, in_place, log=log))
        np.testing.assert_array_equal(in_place.astype(float), y.astype(float), "in place")

        g = laid_out(rng.standard_normal(x.shape).astype(dtype), layout)
        out, want_out = np.empty_like(x), np.empty(x.shape)
        jit.softmax_vjp(VjpTask(y, g, out, log=log))
        reference.softmax_vjp(VjpTask(y, g, want_out, log=log))
        # A sum of V numbers of both signs: its error is relative to their sizes.
        assert_close(out, want_out, f"vjp, log={log}", compute, scale=float(np.sqrt(v)))
        for alias in (y.copy(order="K"), g.copy(order="K")):
            other = g if np.array_equal(alias, y, equal_nan=True) else y
            task = VjpTask(alias, g, alias, log=log) if other is g else VjpTask(y, alias, alias, log=log)
            jit.softmax_vjp(task)
            np.testing.assert_array_equal(alias.astype(float), out.astype(float), "vjp in place")


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", DTYPES)
def test_gather(name: str, normalised: bool) -> None:
    dtype = DTYPES[name]
    compute = np.dtype(rows_dtype(dtype))
    for v, layout in ((2, "rows"), (65, "middle"), (300, "strided"), (2500, "rows")):
        x = logits(dtype, v, layout)
        ids = np.random.default_rng(2).integers(0, v, (N, 3))
        ids[::5, 1] = -1
        got, want = np.empty((N, 3), compute), np.empty((N, 3))
        jit.gather(GatherTask(x, ids, got, normalised))
        reference.gather(GatherTask(x, ids, want, normalised))
        assert_close(got, want, f"V={v}", compute)


DETAILS = ("lse", "entropy", "argmax", "rank")


def option_sets(v: int) -> Iterator[dict[str, Any]]:
    """Yield what a task can hold, alone and together; `outputs` and `hard` are for the test."""
    rng = np.random.default_rng(3)
    weight = rng.random(v)
    weight[0] = 0.0
    rows = rng.random(N)
    rows[::7] = 0.0
    rows[20:30] = 0.0
    probs = rng.random((OUTER, INNER, v))
    probs /= probs.sum(axis=2, keepdims=True)
    probs[..., 1] = 0.0
    mask = rng.random((OUTER, INNER, v)) > 0.3
    sparse = {"hard": False, "ids": rng.integers(0, v, (N, 3)), "id_probs": rng.random((N, 3))}
    sparse["id_probs"][:, 1] = 0.0
    numbers = {
        "row_weight": rows,
        "target_weight": rng.random(N) - 0.2,
        "grad_weight": rng.standard_normal(N) * (rows != 0.0),
        "grad_scale": 0.3,
    }
    yield {}
    yield {**numbers, "outputs": ("lse",)}
    yield {"smoothing": 0.1, "row_weight": rows}
    yield {"smoothing": 0.1, "class_weight": weight, "target_weight": rng.random(N)}
    yield {"z_loss": 0.01}
    yield {"softcap": 5.0, "temperature": 1.3}
    yield {"temperature": 0.5, **numbers, "outputs": DETAILS}
    yield {"class_mask": mask, "smoothing": 0.2}
    yield {
        **numbers,
        "class_mask": mask[:1, :1],
        "softcap": 20.0,
        "temperature": 2.0,
        "z_loss": 0.1,
        "smoothing": 0.2,
        "class_weight": weight,
        "outputs": DETAILS,
    }
    yield {"hard": False, "probs": probs}
    yield {"hard": False, "probs": probs.astype(np.float32), "class_weight": weight, "smoothing": 0.1, **numbers}
    yield {"hard": False, "probs": laid_out(probs.astype(np.float16), "middle"), "softcap": 4.0}
    yield {"hard": False, "probs": probs.astype(ml_dtypes.bfloat16), "outputs": ("lse", "entropy", "argmax")}
    yield sparse
    yield {**sparse, "class_weight": weight, "smoothing": 0.1, "z_loss": 0.01, "class_mask": mask, **numbers}


def run_cross_entropy(
    backend: Any, x: Array, targets: Array, options: dict[str, Any], gradient: bool = True, **more: Any
) -> dict[str, Array]:
    options = dict(options)
    exact = backend is reference  # whose results are compared before they are rounded
    compute = np.float64 if exact else rows_dtype(x.dtype)
    names = options.pop("outputs", ())
    out: dict[str, Array] = {"loss": np.empty(N, compute), "block_sums": np.empty(row_blocks(N))}
    for name in names:
        out[name] = np.full(N, -7) if name in {"argmax", "rank"} else np.empty(N, compute)
    if gradient:
        out["grad"] = np.empty(x.shape) if exact else np.empty_like(x)
    if options.pop("hard", True):
        options["targets"] = targets
    backend.cross_entropy(CrossEntropyTask(x, **options, **out, **more))
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("v", WIDTHS)
@pytest.mark.parametrize("name", DTYPES)
def test_cross_entropy_options(name: str, v: int, layout: str) -> None:
    dtype = DTYPES[name]
    compute = np.dtype(rows_dtype(dtype))
    targets = np.random.default_rng(4).integers(0, v, (OUTER, INNER))
    with np.errstate(all="ignore"):
        x = logits(dtype, v, layout)
        for options in option_sets(v):
            got = run_cross_entropy(jit, x, targets, options, threads=2)
            want = run_cross_entropy(reference, x, targets, options)
            for output, value in want.items():
                if options.get("softcap") and output in {"argmax", "rank"}:
                    # Where the softcap saturates the reference has ties, which the kernel's order of logits has not.
                    got[output], value = got[output][ORDINARY], value[ORDINARY]
                scale = 30.0 if output == "block_sums" else 1.0
                assert_close(got[output], value, f"{output} of {sorted(options)}", compute, scale)


@pytest.mark.parametrize("v", [10, 300])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64])
def test_targets_are_read_in_place(dtype: type[np.integer[Any]], v: int) -> None:
    x = laid_out(np.random.default_rng(5).standard_normal((OUTER, INNER, v)), "rows")
    ids = np.random.default_rng(6).integers(0, min(v, 127), (OUTER, INNER))
    want = run_cross_entropy(jit, x, ids, {})
    wide = np.zeros((INNER, OUTER, 3), dtype)
    wide[..., 1] = ids.T
    got = run_cross_entropy(jit, x, wide[..., 1].T, {})
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], name)


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1}], ids=["plain", "general"])
@pytest.mark.parametrize("v", [10, 300])
def test_a_target_out_of_range_makes_its_row_nan(v: int, options: dict[str, Any]) -> None:
    x = np.random.default_rng(7).standard_normal((OUTER, INNER, v))
    targets = np.zeros((OUTER, INNER), np.int64)
    for r, bad in enumerate((-1, v, 2**62, -(2**62))):
        targets[0, r] = bad
    out = run_cross_entropy(jit, x, targets, options)
    assert np.isnan(out["loss"][:4]).all()
    assert np.isnan(out["grad"][0, :4]).all()
    assert np.isfinite(out["loss"][4:]).all()


@pytest.mark.parametrize("momentum", [None, "first", "next"])
@pytest.mark.parametrize("name", DTYPES)
def test_sgd(name: str, momentum: str | None) -> None:
    dtype = DTYPES[name]
    rng = np.random.default_rng(8)
    for nesterov in (False, True):
        arrays = [rng.standard_normal(5000).astype(dtype) for _ in range(3)]
        if momentum == "first":
            arrays[2][:] = np.nan  # what the buffer holds before the first step is not read
        results = []
        for backend in (jit, reference):
            p, g, b = (a.astype(np.float64) if backend is reference else a.copy() for a in arrays)
            buffer = b if momentum else None
            more = {"weight_decay": 0.01, "grad_scale": 0.5, "maximize": True, "nesterov": nesterov}
            task = SgdTask(p, g, buffer, 0.1, 0.9, 0.2, first_step=momentum == "first", threads=2, **more)
            backend.sgd_update(task)
            results.append((p, b))
        for got, want in zip(*results, strict=True):
            assert_close(got, want, "sgd", np.dtype(rows_dtype(dtype)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64])
def test_scan_targets(dtype: type[np.integer[Any]]) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(9)
    ids = rng.integers(0, 60, (3, 3000)).astype(dtype)
    for ignore in (None, -100, 5, 10**6, 2**70):
        for bad in ((), (0,), (8999,), (4000, 77)):
            t = ids.copy()
            t.reshape(-1)[list(bad)] = info.max if bad else 0
            for view in (t, np.ascontiguousarray(t.T).T, t[:, ::-1]):
                want = reference.scan_targets(view, 60, ignore)
                assert jit.scan_targets(view, 60, ignore, threads=3) == want
                assert want.n_bad == len(bad)
    assert jit.scan_targets(ids[:0], 60, None) == (0, 0, -1)
