"""`fastnll.interop.scipy_special` beside the installed SciPy: every dtype, shape, axis, weight and special value."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.special
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fastnll.interop import scipy_special

Array = np.ndarray[Any, Any]
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
OTHERS = ("bool", "complex64", "complex128", "longdouble", "object", "U3")
SPECIAL = (np.inf, -np.inf, np.nan, 0.0, -0.0)


def both(name: str, *args: Any, **kw: Any) -> tuple[Any, Any]:
    """Return what fastnll and SciPy return or raise; SciPy warns of infinities that it then handles."""
    results = []
    for module in (scipy_special, scipy.special):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                results.append(getattr(module, name)(*args, **kw))
            except Exception as error:  # whatever SciPy raises is the specification
                results.append(error)
    return results[0], results[1]


def assert_same_kind(ours: Any, theirs: Any) -> bool:
    """Compare errors, types, dtypes and shapes; return whether there are values to compare."""
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs)), f"SciPy raises {theirs!r}, fastnll gives {ours!r}"
        return False
    assert not isinstance(ours, Exception), f"SciPy gives {theirs!r}, fastnll raises {ours!r}"
    assert type(ours) is type(theirs)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    return True


def assert_close(ours: Any, truth: Any, size: Any, dtype: np.dtype[Any], n: int) -> None:
    """Compare with a float64 result, to a few eps of `size` and the n / 2 that a sum of n is off by at worst.

    Infinities and NaN must be the same.
    """
    got, want = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    with np.errstate(over="ignore"):
        want = np.where(np.isinf(want.astype(dtype)), want.astype(dtype), want)
    finite = np.isfinite(want)
    assert np.array_equal(np.where(finite, 0, got), np.where(finite, 0, want), equal_nan=True), (got, want)
    bound = (8 + n / 2) * float(np.finfo(dtype).eps) * np.broadcast_to(size, want.shape) + 2 * float(
        np.finfo(dtype).tiny
    )
    error = np.abs(np.where(finite, got - np.where(finite, want, 0), 0))
    assert np.all(error[finite] <= bound[finite]), (got, want, float((error / bound).max()))


@st.composite
def arrays(draw: st.DrawFn, dtypes: tuple[str, ...] = (*FLOATS, *INTEGERS)) -> Array:
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    if dtype.kind in "iu":
        x = draw(npst.arrays(dtype, shape, elements=st.integers(0 if dtype.kind == "u" else -60, 60)))
    else:
        plain = st.floats(-40, 40, width=16)
        x = draw(npst.arrays(np.float64, shape, elements=plain | st.sampled_from(SPECIAL))).astype(dtype)
    if x.ndim and draw(st.booleans()):
        x = x[::-1].T
    return x


def axes_of(ndim: int) -> st.SearchStrategy[Any]:
    """Draw an axis: None, numbers, tuples, and some that are none."""
    one = st.integers(-ndim - 1, ndim)
    return st.none() | one | st.lists(one, max_size=3).map(tuple) | st.sampled_from([[0], 1.0, np.int8(0), "0"])


@given(data=st.data(), x=arrays(), keepdims=st.booleans(), return_sign=st.booleans())
def test_logsumexp(data: st.DataObject, x: Array, keepdims: bool, return_sign: bool) -> None:
    axis = data.draw(axes_of(x.ndim))
    ours, theirs = both("logsumexp", x, axis=axis, keepdims=keepdims, return_sign=return_sign)
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        assert_same_kind(ours[1], theirs[1])
        assert np.array_equal(ours[1], theirs[1], equal_nan=True)
        ours, theirs = ours[0], theirs[0]
    if assert_same_kind(ours, theirs):
        _, truth = both("logsumexp", x.astype(np.float64), axis=axis, keepdims=keepdims)
        assert_close(ours, truth, np.maximum(np.abs(truth), 1), theirs.dtype, x.size)


@given(data=st.data(), x=arrays(), name=st.sampled_from(["softmax", "log_softmax"]))
def test_softmax_and_log_softmax(data: st.DataObject, x: Array, name: str) -> None:
    axis = data.draw(axes_of(x.ndim))
    ours, theirs = both(name, x, axis=axis)
    if assert_same_kind(ours, theirs):
        # SciPy lets unsigned and narrow integers wrap around: the truth is of the numbers themselves.
        _, truth = both(name, x.astype(np.float64), axis=axis)
        size = np.abs(truth) if name == "softmax" else np.maximum(np.abs(truth), 1)
        assert_close(ours, truth, np.where(np.isfinite(size), size, 0), theirs.dtype, x.size)


@st.composite
def weights(draw: st.DrawFn, x: Array) -> Any:
    """Draw weights that broadcast against x, or nearly."""
    shape = tuple(draw(st.sampled_from([1, n])) for n in x.shape)[draw(st.integers(0, x.ndim)) :]
    kind = draw(st.sampled_from(["float32", "float64", "float16", "int64", "int8", "bool"]))
    low = 0 if draw(st.booleans()) else -3
    b = draw(npst.arrays(np.int64, shape, elements=st.integers(low, 3))).astype(kind)
    if kind == "float64" and b.size and draw(st.booleans()):
        b.flat[0] = draw(st.sampled_from([np.nan, np.inf, 1e-300, 1e300]))
    return b if draw(st.booleans()) or b.ndim else draw(st.sampled_from([True, 2, 0.5, 0, -1.5]))


@given(data=st.data(), x=arrays((*FLOATS, "int64", "int8")), return_sign=st.booleans())
def test_logsumexp_with_weights(data: st.DataObject, x: Array, return_sign: bool) -> None:
    axis, b = data.draw(axes_of(x.ndim)), data.draw(weights(x))
    ours, theirs = both("logsumexp", x, axis=axis, b=b, return_sign=return_sign)
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        assert_same_kind(ours[1], theirs[1])
        ours, theirs = ours[0], theirs[0]
    if assert_same_kind(ours, theirs):
        wide = np.asarray(b, np.float64)
        _, truth = both("logsumexp", x.astype(np.float64), axis=axis, b=wide, return_sign=return_sign)
        truth, sign = truth if return_sign else (truth, None)
        if np.array_equal(ours, theirs, equal_nan=True):
            pass  # left to SciPy
        elif (wide >= 0).all():  # with both signs the sum may cancel, and nobody's digits are left
            top = float(np.abs(x[np.isfinite(x)]).max(initial=0)) + 700 * (theirs.dtype == np.float64)
            assert_close(ours, truth, max(top, 1.0), theirs.dtype, x.size)
        else:
            assert np.array_equal(ours, theirs, equal_nan=True)
        assert sign is None or sign.shape == ours.shape


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("axis", [None, 0, (0, 1), 5])
def test_what_is_no_real_number_is_scipys(name: str, kind: str, axis: Any) -> None:
    x = np.array([[1, 0, 1], [0, 1, 1]]).astype(kind)
    ours, theirs = both(name, x, axis=axis)
    if assert_same_kind(ours, theirs):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
@pytest.mark.parametrize(
    "x",
    [3.0, 3, np.float32(2), [1.0, 2.0], [[1, 2], [3, 4]], [[1], [1, 2]], [], None, "abc", 1j],
    ids=repr,
)
@pytest.mark.parametrize("axis", [None, 0, -1, ()])
def test_whatever_is_given(name: str, x: Any, axis: Any) -> None:
    ours, theirs = both(name, x, axis=axis)
    if assert_same_kind(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_masked_arrays_and_matrices_are_scipys(name: str, axis: int | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix([[1.0, 2.0], [0.0, 1.0]])
    for x in (np.ma.array([[1.0, 2.0], [0.0, 1.0]], mask=[[False, True], [True, False]]), matrix):
        ours, theirs = both(name, x, axis=axis)
        if assert_same_kind(ours, theirs):
            np.testing.assert_array_equal(ours, theirs)


SPECIAL_ROWS = [
    [np.inf, 1.0, 2.0],
    [np.inf, -np.inf, 2.0],
    [np.inf, np.inf, 0.0],
    [-np.inf, -np.inf, -np.inf],
    [-np.inf, 1.0, -np.inf],
    [np.nan, 1.0, np.inf],
    [np.nan, -np.inf, 0.0],
    [1e4, -1e4, 1e4],
    [0.0, -46.0, -50.0],
    [1.0, 2.0, 3.0],
]


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_rows(name: str, dtype: str) -> None:
    x = np.array(SPECIAL_ROWS).astype(dtype)
    ours, theirs = both(name, x, axis=1)
    # SciPy has 0 where the log-probability is -1.07e-20.
    np.testing.assert_allclose(ours, theirs, rtol=4 * np.finfo(dtype).eps, atol=2e-20)


@given(st.floats(-60, -1), st.floats(-1e-3, 1e-3))
@example(-46.0, 0.0)
def test_a_sum_of_nearly_one_keeps_its_digits(small: float, top: float) -> None:
    """logsumexp([0, -46]) is 1.05e-20: what a sum of exponentials rounds to 1."""
    x = np.array([top, small, small - 1])
    np.testing.assert_allclose(scipy_special.logsumexp(x), scipy.special.logsumexp(x), rtol=2e-14)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_bfloat16(name: str) -> None:
    x = np.array([[1.0, 2.5, -3.0], [0.0, np.inf, 1.0]], ml_dtypes.bfloat16)
    ours, theirs = both(name, x, axis=1)
    assert ours.dtype == theirs.dtype
    truth = getattr(scipy.special, name)(x[:1].astype(np.float64), axis=1)
    np.testing.assert_allclose(ours[:1].astype(np.float64), truth, rtol=2**-8)


@pytest.mark.parametrize("function", [scipy_special.logsumexp, scipy_special.softmax, scipy_special.log_softmax])
def test_a_large_reduction_over_two_axes_of_three(function: Callable[..., Any]) -> None:
    x = np.random.default_rng(0).standard_normal((7, 50, 60)).astype(np.float32).transpose(2, 0, 1)
    original = x.copy()
    theirs = getattr(scipy.special, function.__name__)(x.astype(np.float64), axis=(0, -1))
    np.testing.assert_allclose(function(x, axis=(0, -1)), theirs, rtol=2e-6)
    assert np.array_equal(x, original), "the input was written to"


def test_the_signatures_are_scipys() -> None:
    import inspect

    for name in scipy_special.__all__:
        ours, theirs = (inspect.signature(getattr(m, name)) for m in (scipy_special, scipy.special))
        assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
            (p.name, p.default, p.kind) for p in theirs.parameters.values()
        ]
