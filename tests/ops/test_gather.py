"""selected_log_probs, nll_loss and the two vector-Jacobian products: shapes, layouts, wrong arguments."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.errors import DTypeError, FastnllError, LabelError, OptionError, ShapeError
from tests.cases import DTYPES, FULL, TARGET_DTYPES, WIDE, WIDTHS, Engine, make_case
from tests.ops.oracle import K, assert_same_bits, assert_within, wide

Array = np.ndarray[Any, Any]


def entries(case: Any, ids: Array) -> tuple[Array, Array]:
    """Return the truth at ids (N, K) and its units."""
    rows = np.arange(len(case.t))[:, None]
    return case.truth.log_probs[rows, ids], case.truth.units["log_probs"][rows, ids]


# ---- selected_log_probs --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_ids_a_row(engine: Engine, dtype: str) -> None:
    """Repeated ids, more ids than classes, every class."""
    for (n, v), k in itertools.product(((17, 3), (70, 33), (2, 2049)), (1, 2, 5, 16, 40)):
        case = make_case(n, v, dtype)
        ids = np.random.default_rng(k).integers(0, v, (n, k))
        got = fn.selected_log_probs(case.x, ids)
        assert got.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert_within(f"{k} ids of {v}", got, *entries(case, ids), case.x.dtype)
    case = make_case(17, 33, dtype)
    every = np.broadcast_to(np.arange(33), (17, 33))
    units = case.truth.units["log_probs"]
    assert_within("every class", fn.selected_log_probs(case.x, every), case.truth.log_probs, units, case.x.dtype)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", FULL)
def test_ids_follow_the_row_axes(engine: Engine, dtype: str, axis: int) -> None:
    """The ids' axes are the logits' without the class axis, and K behind them."""
    case = make_case(15, 17, dtype)
    x = np.moveaxis(case.x.reshape(3, 5, 17), -1, axis)
    ids = np.random.default_rng(0).integers(0, 17, (15, 4))
    want, units = entries(case, ids)
    for layout in (
        ids.reshape(3, 5, 4),
        np.asfortranarray(ids.reshape(3, 5, 4)),
        np.repeat(ids.reshape(3, 5, 4), 2, 2)[..., ::2],
    ):
        got = fn.selected_log_probs(x, layout, axis=axis)
        assert_within("several", got, want.reshape(3, 5, 4), units.reshape(3, 5, 4), x.dtype)
    got = fn.selected_log_probs(x, ids[:, 0].reshape(3, 5), axis=axis)
    assert_within("one", got, want[:, 0].reshape(3, 5), units[:, 0].reshape(3, 5), x.dtype)


@pytest.mark.parametrize("target_dtype", TARGET_DTYPES)
def test_ids_of_every_integer_dtype(engine: Engine, target_dtype: str) -> None:
    case = make_case(17, 100, "float32")
    ids = np.random.default_rng(0).integers(0, 100, (17, 4))
    want = fn.selected_log_probs(case.x, ids)
    assert_same_bits(target_dtype, fn.selected_log_probs(case.x, ids.astype(target_dtype)), want)


def test_one_row_and_no_ids(engine: Engine) -> None:
    case = make_case(3, 9, "float64")
    assert fn.selected_log_probs(case.x, np.zeros((3, 0), np.int64)).shape == (3, 0)
    got = fn.selected_log_probs(case.x[0], np.array([4, 0, 4]))
    assert_within(
        "ids of one row",
        got,
        case.truth.log_probs[0, [4, 0, 4]],
        case.truth.units["log_probs"][0, [4, 0, 4]],
        np.float64,
    )
    assert fn.selected_log_probs(case.x[0], np.int64(4)).shape == ()


@pytest.mark.parametrize("value", [-1, -100, 9, 2**40])
def test_ids_out_of_range(engine: Engine, value: int) -> None:
    """No id is ignored here; the position has the id's own axis."""
    x = make_case(6, 9, "float32").x.reshape(2, 3, 9)
    ids = np.zeros((2, 3, 4), np.int64)
    ids[1, 0, 2] = ids[1, 2, 3] = value
    with pytest.raises(LabelError, match=r"\(1, 0, 2\)") as caught:
        fn.selected_log_probs(x, ids)
    message = str(caught.value)
    assert str(value) in message
    assert "9" in message or "8" in message
    assert "ids" in message
    with pytest.raises(LabelError, match=r"\(1, 0\)"):
        fn.selected_log_probs(x, ids[..., 2])


def test_ids_of_a_wrong_shape_or_dtype(engine: Engine) -> None:
    x = make_case(6, 9, "float32").x.reshape(2, 3, 9)
    for shape in ((2,), (3, 2), (2, 3, 1, 1), (), (6,)):
        with pytest.raises(ShapeError, match="ids"):
            fn.selected_log_probs(x, np.zeros(shape, np.int64))
    for dtype in (np.float64, bool, object):
        with pytest.raises(DTypeError, match="ids"):
            fn.selected_log_probs(x, np.zeros((2, 3), dtype))


# ---- nll_loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nll_of_given_log_probabilities(engine: Engine, dtype: str, axis: int) -> None:
    """Minus the entries, exactly, whatever they sum to; the sum in float64."""
    rng = np.random.default_rng(0)
    log_probs = (-10 * rng.random((7, 10, 33))).astype(DTYPES[dtype])
    t = rng.integers(0, 33, (7, 10))
    want = -np.take_along_axis(wide(log_probs), t[..., None], -1)[..., 0]
    y = np.moveaxis(log_probs, -1, axis)
    rows = fn.nll_loss(y, t, axis=axis, reduction="none")
    assert rows.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert np.array_equal(rows.astype(want.dtype), want)
    assert fn.nll_loss(y, t, axis=axis, reduction="sum") == pytest.approx(float(want.sum()), rel=1e-14)
    assert fn.nll_loss(y, t, axis=axis) == pytest.approx(float(want.mean()), rel=1e-14)


@pytest.mark.parametrize("dtype", FULL)
def test_nll_of_probability_zero_and_nan(engine: Engine, dtype: str) -> None:
    y = np.array([[-np.inf, 0.0], [0.0, -np.inf], [np.nan, -1.0]], DTYPES[dtype])
    got = fn.nll_loss(y, np.array([0, 0, 1]), reduction="none")
    assert got.tolist() == [np.inf, 0.0, 1.0]
    assert fn.nll_loss(y, np.array([0, 0, 1])) == np.inf
    assert np.isnan(fn.nll_loss(y, np.array([0, 0, 0])))
    assert np.isnan(fn.nll_loss(y, np.array([-100, -100, -100])))


def test_the_reference_widens_what_it_takes_alone() -> None:
    """Not the array of log-probabilities, for one number of each row."""
    y, t = np.full((64, 4096), -np.log(4096), np.float32), np.arange(64)
    with fn.using(backend="reference"):
        fn.nll_loss(y, t)
        tracemalloc.start()
        try:
            fn.nll_loss(y, t)
            assert tracemalloc.get_traced_memory()[1] < y.nbytes / 8
        finally:
            tracemalloc.stop()


# ---- vector-Jacobian products -----------------------------------------------------------------------------


def log_softmax_vjp_truth(y: Array, g: Array) -> tuple[Array, Array]:
    """g - exp(y) sum g, and its units: exp 2 ulp, the sum K of its terms' magnitudes."""
    p, g = np.exp(wide(y)), wide(g)
    total, size = g.sum(axis=-1, keepdims=True), np.abs(g).sum(axis=-1, keepdims=True)
    want = g - p * total
    return want, p * (8 * np.abs(total) + K * size) + 2 * np.abs(want)


def softmax_vjp_truth(y: Array, g: Array) -> tuple[Array, Array]:
    """p (g - sum g p) and its units."""
    p, g = wide(y), wide(g)
    inner, size = (g * p).sum(axis=-1, keepdims=True), np.abs(g * p).sum(axis=-1, keepdims=True)
    return p * (g - inner), p * (K * size + 4 * np.abs(g) + 4 * np.abs(inner))


VJPS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "log_softmax_vjp": (fn.log_softmax_vjp, log_softmax_vjp_truth, lambda case: case.truth.log_probs),
    "softmax_vjp": (fn.softmax_vjp, softmax_vjp_truth, lambda case: case.truth.probs),
}
by_vjp = pytest.mark.parametrize(("vjp", "truth", "of"), [pytest.param(*v, id=k) for k, v in VJPS.items()])


def drawn(case: Any, of: Callable[..., Any], seed: int = 0) -> tuple[Array, Array]:
    g = np.random.default_rng(seed).standard_normal(case.x.shape).astype(case.x.dtype)
    return of(case).astype(case.x.dtype), g


@by_vjp
@pytest.mark.parametrize("dtype", DTYPES)
def test_vjp_widths(engine: Engine, dtype: str, vjp: Any, truth: Any, of: Any) -> None:
    shapes = [(n, v) for v in WIDTHS for n in (0, 1, 3, 17)] + [(2, v) for v in WIDE]
    for n, v in shapes:
        case = make_case(n, v, dtype)
        y, g = drawn(case, of)
        got = vjp(y, g)
        assert got.dtype == y.dtype
        assert got.flags.c_contiguous
        want, units = truth(y, g)
        assert_within(f"{v} classes", got, want, units, y.dtype)


@by_vjp
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vjp_axis_layouts_and_out(engine: Engine, dtype: str, axis: int, vjp: Any, truth: Any, of: Any) -> None:
    case = make_case(15, 17, dtype)
    y, g = drawn(case, of)
    want, units = truth(y, g)
    y, g = (np.moveaxis(a.reshape(3, 5, 17), -1, axis) for a in (y, g))

    def check(name: str, got: Array) -> None:
        flat = np.moveaxis(got, axis, -1).reshape(15, 17)
        assert_within(name, flat, want, units, y.dtype)

    for order_y in "CF":
        for order_g in "CF":
            check(f"{order_y} {order_g}", vjp(y.copy(order_y), g.copy(order_g), axis))
            a, b = y.copy(order_y), g.copy(order_g)
            assert vjp(a, b, axis, out=b) is b
            check("out is grad", b)
            assert_same_bits("y afterwards", a, y)
    out = np.full(tuple(2 * s for s in y.shape), 7, y.dtype)
    inner = out[::2, ::2, ::2]
    assert vjp(y, g, axis, out=inner) is inner
    check("strided out", inner)
    assert np.all(out[1::2] == 7)
    assert np.all(out[:, 1::2] == 7)
    assert np.all(out[..., 1::2] == 7)
    read_only = y.copy()
    read_only.flags.writeable = False
    check("read-only y", vjp(read_only, g, axis))
    out = y.copy()
    try:
        vjp(out, g, axis, out=out)
    except FastnllError:
        assert_same_bits("refused, yet written", out, y)
    else:
        check("out is y", out)


@by_vjp
def test_vjp_overlap_is_right_or_refused(engine: Engine, vjp: Any, truth: Any, of: Any) -> None:
    case = make_case(17, 33, "float64")
    y, g = drawn(case, of)
    want, units = truth(y, g)
    for shift in (-33, -1, 1, 33):
        for which in ("grad", "y"):
            memory = np.zeros(17 * 33 + 66)
            held = memory[33:-33].reshape(17, 33)
            out = memory[33 + shift : 33 + shift + 17 * 33].reshape(17, 33)
            held[...] = g if which == "grad" else y
            try:
                got = vjp(y, held, out=out) if which == "grad" else vjp(held, g, out=out)
            except FastnllError:
                continue
            assert_within(f"out {shift} elements into {which}", got, want, units, np.float64)


@by_vjp
def test_vjp_of_impossible_classes(engine: Engine, vjp: Any, truth: Any, of: Any) -> None:
    """A class of probability zero passes nothing on to the others."""
    case = make_case(5, 33, "float64", "masked-inf")
    y, g = drawn(case, of)
    got = vjp(y, g)
    want, units = truth(y, g)
    assert np.isfinite(got).all()
    assert_within("with -inf classes", got, want, units, np.float64)


@by_vjp
def test_vjp_refusals(engine: Engine, vjp: Any, truth: Any, of: Any) -> None:
    y, g = drawn(make_case(5, 33, "float32"), of)
    with pytest.raises(ShapeError, match="grad"):
        vjp(y, g[:4])
    with pytest.raises(ShapeError, match="grad"):
        vjp(y, g[:, :32])
    with pytest.raises(ShapeError, match="out"):
        vjp(y, g, out=np.zeros((5, 32), np.float32))
    with pytest.raises(DTypeError, match="out"):
        vjp(y, g, out=np.zeros((5, 33), np.int32))
    with pytest.raises(DTypeError):
        vjp(y, g.astype(np.complex64))
    with pytest.raises(ShapeError, match="axis"):
        vjp(y, g, 2)
    with pytest.raises(OptionError, match="threads"):
        vjp(y, g, threads=0)
