"""Memory that is used again: never while anybody holds it, and at once when nobody does."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll import arrays, buffers

F32 = np.dtype(np.float32)
LARGE = (4352, 256)  # beyond the short way, which has the pool that was there at its import


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> buffers.Pool:
    """Return a pool of its own for the test."""
    new = buffers.Pool(keep=2)
    monkeypatch.setattr(arrays, "pool", new)
    return new


def test_what_fits_is_taken_and_little_is_kept(pool: buffers.Pool) -> None:
    sizes = (1 << 18, 1 << 20, 1 << 19, 1 << 21)
    held = [pool.empty((n,), F32) for n in sizes]
    addresses = {a.size: a.ctypes.data for a in held}
    del held
    assert pool.free_bytes == 4 * ((1 << 20) + (1 << 21))  # the two largest
    assert pool.empty(((1 << 20) - 5,), F32).ctypes.data == addresses[1 << 20]
    assert pool.empty((1 << 20,), F32).ctypes.data == addresses[1 << 20]
    one = pool.empty((1 << 20,), F32)
    assert pool.empty((1 << 18,), F32).ctypes.data != addresses[1 << 21]  # a block of eight times the size stays
    assert pool.empty((1 << 19,), F32).ctypes.data == addresses[1 << 21]
    del one
    assert pool.empty((10,), F32).base is None  # small: NumPy's own
    pool.clear()
    assert pool.free_bytes == 0


def test_arrays_start_on_cache_lines_and_are_writeable(pool: buffers.Pool) -> None:
    for dtype in ("f4", "f8", "u1"):
        array = pool.empty((1100, 1024), np.dtype(dtype))
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array.fill(1)
        assert array.dtype == dtype
        assert array.shape == (1100, 1024)


HOLDERS: dict[str, Any] = {
    "a view": lambda a: a[5:7],
    "a view of a view": lambda a: a.T[3:][::2],
    "another dtype": lambda a: a.view(np.uint8)[:, :3],
    "one row of an iterator": lambda a: next(iter(a)),
    "a memoryview": memoryview,
    "from its buffer": lambda a: np.frombuffer(a, np.float32)[9:],
    "dlpack": np.from_dlpack,
    "diagonal": np.diagonal,
    "flat": lambda a: a.flat,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_block_is_not_used_while_anything_looks_at_it(pool: buffers.Pool, holder: str) -> None:
    x, t = np.zeros(LARGE, np.float32), np.zeros(LARGE[0], np.int64)
    _, grad = fn.cross_entropy_value_and_grad(x, t)
    held = HOLDERS[holder](grad)
    address = grad.ctypes.data
    del grad
    gc.collect()
    assert pool.free_bytes == 0
    _, other = fn.cross_entropy_value_and_grad(x, t)
    assert other.ctypes.data != address
    del held
    gc.collect()
    assert pool.free_bytes == 4 * LARGE[0] * LARGE[1]
    assert fn.softmax(x).ctypes.data == address


def test_a_loop_uses_two_blocks(pool: buffers.Pool) -> None:
    x, t = np.zeros(LARGE, np.float32), np.zeros(LARGE[0], np.int64)
    addresses = []
    for _ in range(6):
        _, grad = fn.cross_entropy_value_and_grad(x, t)
        addresses.append(grad.ctypes.data)
    assert len(set(addresses)) == 2


def test_too_large_a_block_is_not_kept() -> None:
    small = buffers.Pool(keep=3, most_bytes=5 << 20)
    held = [small.empty((1 << 20,), np.dtype(np.uint8)) for _ in range(2)] + [small.empty((1 << 20,), F32)]
    del held
    assert small.free_bytes == 5 << 20
    big = small.empty((6 << 20,), np.dtype(np.uint8))
    del big
    assert small.free_bytes == 5 << 20
    none = buffers.Pool(most_bytes=0)
    array = none.empty(LARGE, F32)
    del array
    assert none.free_bytes == 0


def test_results_travel_as_any_array_does(pool: buffers.Pool) -> None:
    result = fn.softmax(np.random.default_rng(0).standard_normal(LARGE))
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again, result)
    assert not np.may_share_memory(again, result)
    copied = result.copy()
    assert not np.may_share_memory(copied, result)


@pytest.mark.parametrize(("value", "kept"), [("0", 0), ("4194304", 4 << 20), ("", None)])
def test_the_environment_says_how_much_is_kept(value: str, kept: int | None) -> None:
    script = (
        "import fastnll as fn, numpy as np; from fastnll.buffers import pool; fn.softmax(np.zeros((1024, 1024), 'f4'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + "; print(pool.free_bytes, pool.most_bytes)"],
        env={**os.environ, "FASTNLL_KEEP_BYTES": value},
        capture_output=True,
        text=True,
        check=True,
    )
    free, most = map(int, done.stdout.split())
    assert free == (4 << 20 if kept is None else kept)
    assert 1 << 27 <= most <= 2 << 30 if kept is None else most == kept


def test_a_wrong_environment_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fastnll"],
        env={**os.environ, "FASTNLL_KEEP_BYTES": "1GB"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "FASTNLL_KEEP_BYTES: expected a number of bytes, 0 to keep none, got '1GB'" in done.stderr


def test_threads_never_share_a_block(pool: buffers.Pool) -> None:
    errors = []

    def work(mark: int) -> None:
        for _ in range(200):
            array = pool.empty(LARGE, F32)
            array[::64] = mark
            if not (array[::64] == mark).all():
                errors.append(mark)
            del array

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(pool._free) <= 2
