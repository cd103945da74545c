"""Small batches under default options take a short way into the compiled kernels: the same bits, the same errors."""

from __future__ import annotations

import numpy as np
import pytest

import fastnll as fn
from fastnll.dtypes import INTEGERS
from fastnll.kernels import registry

pytestmark = pytest.mark.skipif(
    registry.short_cut("small_cross_entropy") is None, reason="only the compiled backend has a short way"
)


def batch(n: int, v: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n * 1000 + v)
    return rng.standard_normal((n, v)).astype(dtype), rng.integers(0, v, n)


def general(x: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """An option that changes nothing, but is one."""
    return fn.cross_entropy_value_and_grad(x, t, reduction="mean")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 2),
        (8, 10),
        (64, 100),
        (65, 10),
        (200, 7),
        (4096, 10),
        (4097, 10),
        (300, 1000),
        (3, 2048),
        (3, 2731),
        (1, 128256),
        (64, 2000),
    ],
)
def test_it_gives_the_bits_of_the_general_way(shape: tuple[int, int], dtype: type) -> None:
    x, t = batch(*shape, dtype)
    loss, grad = general(x, t)
    assert fn.cross_entropy(x, t) == loss
    short, short_grad = fn.cross_entropy_value_and_grad(x, t)
    assert short == loss
    np.testing.assert_array_equal(short_grad, grad)
    inplace = x.copy()
    again, same = fn.cross_entropy_value_and_grad(inplace, t, out=inplace)
    assert same is inplace
    assert again == loss
    np.testing.assert_array_equal(inplace, grad)
    apart = np.empty_like(x)
    again, same = fn.cross_entropy_value_and_grad(x, t, out=apart)
    assert same is apart
    assert again == loss
    np.testing.assert_array_equal(apart, grad)


@pytest.mark.parametrize("shape", [(4, 30), (2, 70000)])
def test_out_that_is_not_its_kind_or_overlaps(shape: tuple[int, int]) -> None:
    n, v = shape
    x, t = batch(n, v)
    loss, grad = general(x, t)
    strided = np.empty((n, 2 * v), np.float32)[:, ::2]
    assert fn.cross_entropy_value_and_grad(x, t, out=strided)[0] == loss
    np.testing.assert_array_equal(strided, grad)
    memory = np.empty(n * v + v, np.float32)
    logits, shifted = memory[: n * v].reshape(n, v), memory[v:].reshape(n, v)
    logits[...] = x
    assert fn.cross_entropy_value_and_grad(logits, t, out=shifted)[0] == loss
    np.testing.assert_array_equal(shifted, grad)
    with pytest.raises(fn.ShapeError, match="out"):
        fn.cross_entropy_value_and_grad(x, t, out=np.empty((v, n), np.float32))
    with pytest.raises(fn.DTypeError, match="out"):
        fn.cross_entropy_value_and_grad(x, t, out=np.empty((n, v)))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    x, t = batch(2, 200_000)
    loss, grad = general(x, t)
    with fn.using(threads=threads):
        again, same = fn.cross_entropy_value_and_grad(x, t)
    assert again == loss
    np.testing.assert_array_equal(same, grad)


@pytest.mark.parametrize("name", INTEGERS)
def test_targets_of_every_integer_dtype_and_stride(name: str) -> None:
    x, t = batch(8, 10)
    loss, _ = general(x, t)
    wide = np.repeat(t.astype(name), 3)
    for targets in (wide[::3], wide[::3].copy(), t[::-1].astype(name)[::-1]):
        assert fn.cross_entropy(x, targets) == loss
        buffer = x.copy()
        assert fn.cross_entropy_value_and_grad(buffer, targets, out=buffer)[0] == loss


def test_what_it_does_not_take_gets_the_general_answers() -> None:
    x, t = batch(8, 10)
    locked = x.copy()
    locked.flags.writeable = False
    with pytest.raises(fn.DTypeError, match="out: expected a writeable array"):
        fn.cross_entropy_value_and_grad(locked, t, out=locked)
    with pytest.raises(fn.LabelError, match="got 10 at position 3"):
        fn.cross_entropy(x, np.array([0, 1, 2, 10, 4, 5, 6, 7]))
    with pytest.raises(fn.ShapeError, match="targets"):
        fn.cross_entropy(x, t[:7])
    ignored = t.copy()
    ignored[2] = -100
    x[2] = np.nan
    assert fn.cross_entropy(x, ignored) == general(x, ignored)[0]
    assert np.isnan(fn.cross_entropy(x, t))


def test_targets_inside_the_logits_are_read_before_they_are_overwritten() -> None:
    x, _ = batch(64, 100)
    inside = x.reshape(-1)[6000:6064].view(np.int32)
    inside[:] = np.arange(64)
    copy = x.copy()
    loss, grad = general(copy, inside.copy())
    assert fn.cross_entropy_value_and_grad(x, inside, out=x)[0] == loss
    np.testing.assert_array_equal(x, grad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7,), (2,), (8, 10), (3, 4, 5), (70, 100), (1, 128256), (2, 3, 2731), (300, 1000)])
def test_softmax_gives_the_bits_of_the_general_way(shape: tuple[int, ...], dtype: type) -> None:
    x = np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)
    x.reshape(-1)[::7] = -np.inf
    x.reshape(-1)[-1] = 50.0
    last = x.ndim - 1
    for op in (fn.softmax, fn.log_softmax):
        want = op(x, axis=last)
        short = op(x)
        assert short is not x
        assert short.dtype == want.dtype
        np.testing.assert_array_equal(short, want)
        out = np.empty_like(x)
        assert op(x, out=out) is out
        np.testing.assert_array_equal(out, want)
        inplace = x.copy()
        assert op(inplace, out=inplace) is inplace
        np.testing.assert_array_equal(inplace, want)
    lse, want = fn.logsumexp(x), fn.logsumexp(x, axis=last)
    assert type(lse) is type(want)
    assert lse.dtype == want.dtype
    np.testing.assert_array_equal(lse, want)


class _Subclass(np.ndarray):
    pass


def test_softmax_that_is_not_plain_gets_the_general_answers() -> None:
    x, _ = batch(8, 10)
    want, lse = fn.log_softmax(x, axis=1), fn.logsumexp(x, axis=1)
    for same in (np.repeat(x, 2, axis=1)[:, ::2], np.asfortranarray(x), x.tolist(), x.astype(">f4"), x.view(_Subclass)):
        np.testing.assert_allclose(fn.log_softmax(same), want, rtol=1e-5)
        np.testing.assert_allclose(fn.logsumexp(same), lse, rtol=1e-5)
    memory = np.empty(90, np.float32)
    inside, shifted = memory[:80].reshape(8, 10), memory[10:].reshape(8, 10)
    inside[...] = x
    np.testing.assert_array_equal(fn.log_softmax(inside, out=shifted), want)
    locked = x.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(fn.log_softmax(locked), want)
    for out, error in (
        (locked, fn.DTypeError),
        (np.empty((8, 10)), fn.DTypeError),
        (np.empty((10, 8), np.float32), fn.ShapeError),
    ):
        with pytest.raises(error, match="out"):
            fn.log_softmax(locked, out=out)
    assert fn.softmax(np.float32([[3.0]])).tolist() == [[1.0]]
    assert fn.softmax(np.empty((0, 4), np.float32)).shape == (0, 4)
    assert fn.logsumexp(np.empty((0, 4), np.float32)).shape == (0,)
    with pytest.raises(fn.ShapeError):
        fn.softmax(np.empty((4, 0), np.float32))
    with pytest.raises(fn.ShapeError):
        fn.softmax(np.float32(3.0))
    with fn.using(backend="reference"):
        np.testing.assert_allclose(fn.log_softmax(x), want, rtol=1e-5)
