"""What carries the Numba kernels: threads, fork, the cache."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fastnll.kernels import jit
from fastnll.kernels.jit import ce_rows, constants, pool, records
from fastnll.kernels.spec import ROW_BLOCK, CrossEntropyTask, SoftmaxTask, row_blocks

Array = np.ndarray[Any, Any]


def run(x: Array, targets: Array, threads: int = 1, **options: Any) -> tuple[Array, Array, Array]:
    n = x.shape[0] * x.shape[1]
    loss, sums, grad = np.empty(n, np.float32), np.empty(row_blocks(n)), np.empty_like(x)
    task = CrossEntropyTask(x, targets, loss=loss, block_sums=sums, grad=grad, threads=threads, **options)
    jit.cross_entropy(task)
    return loss, sums, grad


def batch(n: int, v: int, middle: bool = False) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, n, v)).astype(np.float32)
    if middle:
        x = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    return x, rng.integers(0, v, (1, n))


SHAPES = ((3, 5000), (70, 2000), (1000, 300), (1000, 10))


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1, "softcap": 3.0}], ids=["plain", "general"])
@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize(("n", "v"), SHAPES)
def test_the_number_of_threads_changes_no_bit(n: int, v: int, middle: bool, options: dict[str, Any]) -> None:
    x, t = batch(n, v, middle)
    one = run(x, t, **options)
    assert np.ptp(one[0]) > 0.1
    for threads in (2, 3, 7):
        for got, want in zip(run(x, t, threads, **options), one, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize(("n", "v"), SHAPES)
def test_a_split_on_the_block_grid_changes_no_bit(n: int, v: int, middle: bool) -> None:
    x, t = batch(n, v, middle)
    loss, sums, grad = run(x, t)
    cut = max(1, n // ROW_BLOCK // 2) * ROW_BLOCK
    parts = [run(x[:, rows], t[:, rows]) for rows in (slice(0, cut), slice(cut, None))]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), loss)
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), sums)
    np.testing.assert_array_equal(np.concatenate([p[2] for p in parts], axis=1), grad)


def test_callers_in_many_threads() -> None:
    x, t = batch(500, 300)
    want = run(x, t)

    def caller(_: int) -> bool:
        return all(np.array_equal(a, b) for _ in range(5) for a, b in zip(run(x, t, 3), want, strict=True))

    with ThreadPoolExecutor(6) as callers:
        assert all(callers.map(caller, range(6)))


def test_ranges_cover_the_rows_in_whole_blocks() -> None:
    for n in (0, 1, 63, 64, 65, 1000, 100_000):
        for size in (1, 100, 10**6):
            for threads in (1, 2, 16):
                parts = pool.ranges(n, size, threads, ROW_BLOCK)
                assert [start for start, _ in parts[:1]] == ([0] if n else [])
                assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
                assert all(start % ROW_BLOCK == 0 for start, _ in parts)
                assert not parts or parts[-1][1] == n


def test_the_pool_runs_every_range_once_and_passes_errors_on() -> None:
    seen: list[int] = []
    names: set[str] = set()

    def work(start: int, stop: int) -> None:
        time.sleep(0.002)
        names.add(threading.current_thread().name)
        seen.append(start)
        if start == 13:
            raise ZeroDivisionError("thirteen")

    parts = [(i, i + 1) for i in range(20) if i != 13]
    pool.run(work, parts, 3)
    assert sorted(seen) == [start for start, _ in parts]
    assert 1 < len(names) <= 3
    with pytest.raises(ZeroDivisionError, match="thirteen"):
        pool.run(work, [(i, i + 1) for i in range(20)], 3)
    with pytest.raises(ZeroDivisionError, match="thirteen"):
        pool.run(work, [(13, 14)], 3)


def test_scratch_belongs_to_its_thread_and_is_used_again() -> None:
    first = pool.scratch(1000, np.float32)
    assert pool.scratch(900, np.float32).ctypes.data == first.ctypes.data
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.append(pool.scratch(1000, np.float32).ctypes.data))
    thread.start()
    thread.join()
    assert other[0] != first.ctypes.data
    assert pool.scratch(10, np.float64).dtype == np.float64
    huge = pool.scratch(3 << 20, np.float64)  # not kept
    assert huge.size >= 3 << 20
    assert pool.scratch(900, np.float32).ctypes.data == first.ctypes.data


def script(text: str, folder: Path, **variables: str) -> str:
    """Run a script in a process of its own, with a cache of its own."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SCAN = """
import numpy as np
from fastnll.kernels import jit
from fastnll.kernels.jit import elementwise
found = jit.scan_targets(np.arange(300_000) % 7, 5, None, {threads})
stats = elementwise.scan.stats
print(found.n_bad, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_compiled_kernels_are_found_by_the_next_process(tmp_path: Path) -> None:
    bad = str(int((np.arange(300_000) % 7 >= 5).sum()))
    assert script(SCAN.format(threads=1), tmp_path) == f"{bad} 0 1"
    assert list(tmp_path.rglob("*.nbi"))
    assert script(SCAN.format(threads=1), tmp_path) == f"{bad} 1 0"


def test_without_a_place_for_the_cache_kernels_are_compiled(tmp_path: Path) -> None:
    # A file where the cache folder should be, and no other place allowed.
    (tmp_path / "file").write_text("")
    classes = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    out = script(SCAN.format(threads=1), tmp_path / "file" / "below", **classes)
    assert out.split()[0] == str(int((np.arange(300_000) % 7 >= 5).sum()))
    assert list(tmp_path.rglob("*.nbi")) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own(tmp_path: Path) -> None:
    text = """
import os
import numpy as np
from fastnll.kernels.jit import pool
def work(start, stop):
    total.append(stop - start)
total = []
parts = [(i, i + 1) for i in range(200)]
pool.run(work, parts, 3)
child = os.fork()
if child == 0:
    total.clear()
    pool.run(work, parts, 3)
    os._exit(0 if sum(total) == 200 else 1)
_, status = os.waitpid(child, 0)
pool.run(work, parts, 3)
print(os.waitstatus_to_exitcode(status), sum(total))
"""
    assert script(text, tmp_path) == "0 400"


def test_a_change_of_any_source_changes_every_signature() -> None:
    stamp = records.STAMP.dtype.names[0]
    assert stamp.startswith("source_")
    assert stamp in records.ROWS.names
    x, t = batch(70, 300)
    run(x, t)
    for signature in ce_rows.cross_entropy_rows.signatures:
        assert stamp in str(signature[0])


def test_one_compilation_serves_all_layouts_and_options() -> None:
    before = len(ce_rows.cross_entropy_rows.signatures)
    x, t = batch(70, 300)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        for view in (x, x[:, ::-1], x[:, ::2]):
            n = view.shape[1]
            for weight in (None, np.ones(n)):
                task = CrossEntropyTask(view.astype(dtype), t[:, :n].astype(np.uint16), row_weight=weight)
                task.loss = np.empty(n, np.float32)
                jit.cross_entropy(task)
    assert len(ce_rows.cross_entropy_rows.signatures) <= max(before, 1) + 1


def test_lanes_are_a_row_block() -> None:
    # Block sums are written a tile at a time.
    assert constants.LANES == ROW_BLOCK


def test_a_row_that_its_first_look_misjudges() -> None:
    """The reference comes from some elements; a larger one elsewhere overflows the sum, and it is done again."""
    for height in (30.0, 60.0, 87.0, 89.0, 200.0, 1e5):
        x = np.random.default_rng(4).standard_normal((1, 1, 5000)).astype(np.float32)
        x[0, 0, 777] = height
        lse = np.empty(1, np.float32)
        jit.logsumexp(SoftmaxTask(x, lse=lse))
        assert lse[0] == pytest.approx(float(np.logaddexp.reduce(x[0, 0].astype(np.float64))), rel=1e-6)
