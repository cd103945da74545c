"""fastnll inside ``njit`` beside fastnll outside: every function, over drawn values, shapes, strides and options."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import fastnll as fn

numba = pytest.importorskip("numba", reason="Numba is not installed")
from tests.interop.numba import functions as compiled  # noqa: E402 (needs Numba)

Array = np.ndarray[Any, Any]
SPECIAL = (np.inf, -np.inf, np.nan)
# Each type of argument compiles anew, for seconds: a test draws values, strides and options, of few types.
pytestmark = pytest.mark.slow
few = settings(max_examples=60)


def close(ours: Any, theirs: Any, scale: float = 1.0) -> None:
    """Compare results of any nesting, to some eps of the dtype."""
    if isinstance(theirs, tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            close(a, b, scale)
        return
    if theirs is None:
        assert ours is None
        return
    if isinstance(theirs, np.ndarray):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
    single = getattr(theirs, "dtype", np.float64) == np.float32
    eps = 2.0**-20 if single or scale > 1 else 2.0**-48
    np.testing.assert_allclose(ours, theirs, rtol=eps, atol=eps)


@st.composite
def batches(draw: st.DrawFn, special: bool = True) -> tuple[Array, Array, int]:
    """Draw logits, targets and the class axis: contiguous float64 of two axes, or strided float32 of three."""
    strided = draw(st.booleans())
    least, ndim, dtype = (2, 3, np.float32) if strided else (1, 2, np.float64)
    shape = draw(npst.array_shapes(min_dims=ndim, max_dims=ndim, min_side=least, max_side=7))
    axis = draw(st.integers(-ndim, ndim - 1))
    values = st.floats(-30, 30, width=16)
    elements = values | st.sampled_from(SPECIAL) if special else values
    x = draw(npst.arrays(dtype, shape, elements=elements))
    rest = shape[: axis % ndim] + shape[axis % ndim + 1 :]
    t = draw(npst.arrays(np.int64, rest, elements=st.integers(0, shape[axis] - 1) | st.just(-100)))
    # Rows of neighbours, which the formulas take where they lie, and others, which are copied.
    return (x if draw(st.booleans()) else np.asfortranarray(x))[::-1] if strided else x, t, axis


@few
@given(batch=batches())
def test_softmax_and_its_family(batch: tuple[Array, Array, int]) -> None:
    x, _, axis = batch
    close(compiled.logsumexp(x, axis), fn.logsumexp(x, axis))
    close(compiled.softmax(x, axis), fn.softmax(x, axis))
    close(compiled.log_softmax(x, axis), fn.log_softmax(x, axis))


@few
@given(batch=batches(special=False), seed=st.integers(0, 99))
def test_vector_jacobian_products(batch: tuple[Array, Array, int], seed: int) -> None:
    x, _, axis = batch
    g = np.random.default_rng(seed).standard_normal(x.shape).astype(x.dtype)
    for name in ("softmax", "log_softmax"):
        y = getattr(fn, name)(x, axis)
        close(getattr(compiled, f"{name}_vjp")(y, g, axis), getattr(fn, f"{name}_vjp")(y, g, axis))


@few
@given(batch=batches())
def test_cross_entropy(batch: tuple[Array, Array, int]) -> None:
    x, t, axis = batch
    # Sums over rows are taken in float64 on both sides: of float32 rows, to float32's accuracy.
    scale = 2.0 if x.dtype == np.float32 else 1.0
    close(compiled.plain_grad(x, t, axis), fn.cross_entropy_value_and_grad(x, t, axis=axis), scale)
    if x.ndim == 2:  # the way of rows and targets is one for all: compiled for two axes only
        value, total, losses = compiled.plain(x, t, axis)
        close(value, fn.cross_entropy(x, t, axis=axis), scale)
        close(total, fn.cross_entropy(x, t, axis=axis, reduction="sum"), scale)
        close(losses, fn.cross_entropy(x, t, axis=axis, reduction="none"))


@few
@given(data=st.data(), n=st.integers(1, 70), v=st.integers(2, 70))
def test_options(data: st.DataObject, n: int, v: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x = 3 * rng.standard_normal((n, v))
    x[rng.random((n, v)) < 0.05] = -np.inf
    t = rng.integers(0, v, n)
    x[np.arange(n), t] = rng.standard_normal(n)
    mask = rng.random(n) < 0.8
    x[~mask] = np.nan  # never read
    token_weight, weight, up = rng.uniform(-1, 2, n), rng.uniform(0, 2, v), rng.standard_normal(n)
    smoothing = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    z_loss, temperature = data.draw(st.sampled_from([0.0, 0.01])), data.draw(st.sampled_from([1.0, 0.5, 2.0]))
    cap, single = data.draw(st.sampled_from([5.0, 30.0])), x.astype(np.float32)
    ours = compiled.with_options(single, t, mask, token_weight, weight, smoothing, z_loss, cap, temperature, up)
    close(
        ours,
        fn.cross_entropy_value_and_grad(
            single,
            t,
            grad_output=up,
            reduction="none",
            ignore_index=1,
            mask=mask,
            token_weight=token_weight,
            weight=weight,
            label_smoothing=smoothing,
            z_loss=z_loss,
            softcap=cap,
            temperature=temperature,
        ),
        2.0,
    )
    close(
        compiled.mean_with_options(x, t, mask, np.abs(token_weight), weight, smoothing, 0.25),
        fn.cross_entropy_value_and_grad(
            x,
            t,
            grad_output=0.25,
            ignore_index=None,
            mask=mask,
            token_weight=np.abs(token_weight),
            weight=weight,
            label_smoothing=smoothing,
        ),
    )


@few
@given(batch=batches())
def test_details(batch: tuple[Array, Array, int]) -> None:
    x, t, axis = batch
    ours, theirs = compiled.details(x, t, axis), fn.cross_entropy_details(x, t, axis=axis)
    assert type(ours) is fn.CrossEntropyDetails
    # Counts and classes are the same; of rows with NaN or without a finite logit they mean nothing.
    sound = np.isfinite(theirs.nll)
    for name in ("argmax", "correct", "rank"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a[sound], b[sound], name)
    for name in ("nll", "lse", "entropy"):
        close(getattr(ours, name), getattr(theirs, name), 2.0 if x.dtype == np.float32 else 1.0)


@few
@given(seed=st.integers(0, 999), n=st.integers(1, 70), v=st.integers(2, 70), cap=st.sampled_from([5.0, 30.0]))
def test_details_with_options(seed: int, n: int, v: int, cap: float) -> None:
    rng = np.random.default_rng(seed)
    x, t, mask = 3 * rng.standard_normal((n, v)), rng.integers(0, v, n), rng.random(n) < 0.8
    token_weight = np.where(rng.random(n) < 0.2, 0.0, rng.uniform(-1, 2, n))
    t[~mask], x[~mask] = -5, np.nan  # never read
    ours = compiled.details_with_options(x, t, mask, token_weight, cap, 0.7)
    theirs = fn.cross_entropy_details(
        x, t, ignore_index=1, mask=mask, token_weight=token_weight, softcap=cap, temperature=0.7
    )
    close(tuple(ours), tuple(theirs))
    one = compiled.details(x[:1, :][mask[:1]], t[:1][mask[:1]], -1)
    assert one.rank.shape == (int(mask[0]),)


@few
@given(seed=st.integers(0, 999), n=st.integers(1, 20), v=st.integers(1, 20))
def test_ids(seed: int, n: int, v: int) -> None:
    rng = np.random.default_rng(seed)
    x, t, ids = rng.standard_normal((n, v)), rng.integers(0, v, n), rng.integers(0, v, (n, 3))
    g, w = rng.standard_normal((n, 3)), rng.uniform(0.1, 2, v)
    close(compiled.selected(x, ids), fn.selected_log_probs(x, ids))
    close(compiled.selected(x, t), fn.selected_log_probs(x, t))
    close(compiled.selected_vjp(x, ids, g), fn.selected_log_probs_vjp(x, ids, g))
    t[0] = -100
    log_probs = fn.log_softmax(x)
    expected = [fn.nll_loss(log_probs, t, **o) for o in ({"weight": w}, {"reduction": "none"}, {"reduction": "sum"})]
    close(compiled.nll(log_probs, t, w), tuple(expected))


@few
@given(seed=st.integers(0, 999), n=st.integers(1, 90), d=st.integers(1, 9), v=st.integers(1, 20))
def test_linear_head(seed: int, n: int, d: int, v: int) -> None:
    rng = np.random.default_rng(seed)
    h, w, b = rng.standard_normal((n, d)), rng.standard_normal((v, d)), rng.standard_normal(v)
    t, c = rng.integers(0, v, n), rng.uniform(0.5, 2, v)
    t[rng.random(n) < 0.3] = -100
    h[t == -100] = np.nan
    loss, grads = compiled.linear(h, w, t, b, c)
    want, want_grads = fn.linear_cross_entropy_value_and_grad(h, w, t, b, class_weight=c)
    np.testing.assert_allclose(loss, want, rtol=1e-13)
    assert type(grads) is fn.LinearGrads
    for ours, theirs in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(
        compiled.linear_none(h, w, t), fn.linear_cross_entropy(h, w, t, reduction="none"), rtol=1e-12
    )


@few
@given(data=st.data(), dtype=st.sampled_from(["float32", "float64"]))
def test_sgd(data: st.DataObject, dtype: str) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    p, g, b = (rng.standard_normal((3, 5)).astype(dtype) for _ in range(3))
    numbers = {"lr": 0.1, "momentum": data.draw(st.sampled_from([0.0, 0.9])), "dampening": 0.3, "weight_decay": 0.01}
    flags = {name: data.draw(st.booleans()) for name in ("nesterov", "maximize", "first_step")}
    expected, buffer = p.copy(), b.copy()
    compiled.sgd(
        p,
        g,
        b,
        numbers["lr"],
        numbers["momentum"],
        numbers["dampening"],
        flags["nesterov"],
        numbers["weight_decay"],
        flags["maximize"],
        1.5,
        flags["first_step"],
    )
    fn.sgd_update(expected, g, buffer, grad_scale=1.5, **numbers, **flags)
    close((p, b), (expected, buffer))
    compiled.plain_sgd(p, g, 0.5)
    fn.sgd_update(expected, g, lr=0.5)
    close(p, expected)


def test_arrays_of_one_axis_and_of_four() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 3, 4, 5))
    for axis in range(-4, 4):
        close(compiled.softmax(x, axis), fn.softmax(x, axis))
        close(compiled.logsumexp(x[::-1], axis), fn.logsumexp(x[::-1], axis))
    close(compiled.logsumexp(x[0, 0, 0], 0), fn.logsumexp(x[0, 0, 0]))
    close(compiled.logsumexp(np.array([3, 1, 2]), 0), fn.logsumexp([3, 1, 2]))
    # A row and its one target: test_inside_a_parallel_loop.


def test_out_and_in_place() -> None:
    x = np.random.default_rng(4).standard_normal((6, 9))
    out = np.empty_like(x)
    assert compiled.softmax_into(x, out) is out
    close(out, fn.softmax(x))
    t = np.arange(6)
    want = fn.cross_entropy_value_and_grad(x, t)
    loss, grad = compiled.in_place(x, t)
    assert grad is x
    close((loss, grad), want)


def test_long_rows_and_targets_of_every_dtype() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 5000))
    t = rng.integers(0, 100, 3)
    np.testing.assert_allclose(compiled.in_place(x.copy(), t)[0], fn.cross_entropy(x, t), rtol=1e-13)
    x = fn.log_softmax(x)
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"):
        np.testing.assert_allclose(compiled.nll_sum(x, t.astype(dtype)), -x[np.arange(3), t].sum(), rtol=1e-13)
    with pytest.raises(fn.LabelError, match="1 of 3"):
        compiled.nll_sum(x, np.array([1, 2**64 - 100, 3], np.uint64))


def test_inside_a_parallel_loop() -> None:
    rng = np.random.default_rng(5)
    x, t = rng.standard_normal((50, 20)), rng.integers(0, 20, 50)
    np.testing.assert_allclose(compiled.losses_in_parallel(x, t), fn.cross_entropy(x, t, reduction="none"), rtol=1e-13)


X, T = np.zeros((3, 4)), np.array([0, 1, 2])
WRONG: dict[str, tuple[Any, type[Exception]]] = {
    "a target out of range": (lambda: compiled.plain(X, T + 2, -1), fn.LabelError),
    "targets of another shape": (lambda: compiled.plain(X, T[:2], -1), fn.ShapeError),
    "an axis that is none": (lambda: compiled.softmax(X, 2), fn.ShapeError),
    "no classes": (lambda: compiled.softmax(X[:, :0], -1), fn.ShapeError),
    "out of another shape": (lambda: compiled.softmax_into(X, np.zeros((4, 3))), fn.ShapeError),
    "ids out of range": (lambda: compiled.selected(X, T + 2), fn.LabelError),
    "float targets": (lambda: compiled.plain(X, T * 1.0, -1), fn.DTypeError),
    "complex logits": (lambda: compiled.softmax(X * 1j, -1), fn.DTypeError),
    "weights that do not fit": (
        lambda: compiled.linear(X, X[:, :3].copy(), T, np.zeros(3), np.ones(3)),
        fn.ShapeError,
    ),
    "infinite token weights": (
        lambda: compiled.mean_with_options(X, T, T >= 0, np.full(3, np.inf), np.ones(4), 0.1, 1.0),
        fn.OptionError,
    ),
    "negative class weights": (
        lambda: compiled.mean_with_options(X, T, T >= 0, np.ones(3), -np.ones(4), 0.1, 1.0),
        fn.OptionError,
    ),
    "too much smoothing": (
        lambda: compiled.mean_with_options(X, T, T >= 0, np.ones(3), np.ones(4), 1.5, 1.0),
        fn.OptionError,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_those_of_the_function(case: str) -> None:
    call, error = WRONG[case]
    with pytest.raises(error):
        call()


def test_a_reduction_must_be_a_literal() -> None:
    @numba.njit
    def loss(x: Any, t: Any, reduction: Any) -> Any:
        return fn.cross_entropy(x, t, reduction=reduction)

    with pytest.raises(fn.OptionError, match="literal"):
        loss(X, T, "mean")


def test_the_entry_point_is_registered() -> None:
    found = [e.value for e in entry_points(group="numba_extensions") if e.value.startswith("fastnll")]
    assert found == ["fastnll.interop.numba:init"]


def test_cached_callers_work_in_the_next_process(tmp_path: Path) -> None:
    """No import beside fastnll's; the second process compiles nothing."""
    script = tmp_path / "caller.py"
    script.write_text(
        textwrap.dedent(
            """
            import numba, numpy as np, fastnll as fn

            @numba.njit(cache=True)
            def step(x, t):
                loss, grad = fn.cross_entropy_value_and_grad(x, t)
                return loss, grad

            x, t = np.random.default_rng(0).standard_normal((5, 9)), np.arange(5)
            loss, grad = step(x, t)
            want, want_grad = fn.cross_entropy_value_and_grad(x, t)
            np.testing.assert_allclose(loss, want, rtol=1e-14)
            np.testing.assert_allclose(grad, want_grad, rtol=1e-13, atol=1e-16)
            print(sum(step.stats.cache_hits.values()), sum(step.stats.cache_misses.values()))
            """
        )
    )
    runs = [
        subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(2)
    ]
    assert runs == [["0", "1"], ["1", "0"]]
