"""The same bits for any thread count, any split of the batch, any caller."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.kernels.spec import ROW_BLOCK
from tests.cases import DTYPES, Engine, make_case
from tests.ops.alone import run_alone
from tests.ops.oracle import assert_same_bits, assert_within

Array = np.ndarray[Any, Any]
THREADS = (1, 2, 3, 7)


def everything(x: Array, t: Array, **kw: Any) -> dict[str, Any]:
    """Return the result of every op on these rows."""
    loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none", **kw)
    total, grad_sum = fn.cross_entropy_value_and_grad(x, t, reduction="sum", **kw)
    mean, grad_mean = fn.cross_entropy_value_and_grad(x, t, **kw)
    log_probs, probs = fn.log_softmax(x, **kw), fn.softmax(x, **kw)
    return {
        "logsumexp": fn.logsumexp(x, **kw),
        "softmax": probs,
        "log_softmax": log_probs,
        "log_softmax_vjp": fn.log_softmax_vjp(log_probs, x, **kw),
        "softmax_vjp": fn.softmax_vjp(probs, x, **kw),
        "cross_entropy": fn.cross_entropy(x, t, **kw),
        "cross_entropy sum": fn.cross_entropy(x, t, reduction="sum", **kw),
        "loss": loss,
        "grad": grad,
        "sum": total,
        "grad of sum": grad_sum,
        "mean": mean,
        "grad of mean": grad_mean,
        "nll_loss": fn.nll_loss(log_probs, t, reduction="sum", **kw),
        "selected_log_probs": fn.selected_log_probs(x, t, **kw),
        "in place": fn.cross_entropy_value_and_grad(y := x.copy(), t, out=y, **kw)[1],
    }


def assert_all_same(got: dict[str, Any], want: dict[str, Any], why: str) -> None:
    for name in want:
        assert_same_bits(f"{name} {why}", got[name], want[name])


# More rows than a block, more blocks than threads, blocks that no thread count divides, and few long rows.
SHAPES = [(1000, 33), (ROW_BLOCK * 5 + 1, 257), (4000, 2), (70, 2049)]


@pytest.mark.parametrize(("n", "v"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_thread_count(engine: Engine, dtype: str, n: int, v: int) -> None:
    case = make_case(n, v, dtype)
    want = everything(case.x, case.t, threads=1)
    for threads in THREADS[1:]:
        assert_all_same(everything(case.x, case.t, threads=threads), want, f"with {threads} threads")
    assert_all_same(everything(case.x, case.t), want, "with the default number of threads")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_long_rows(engine: Engine, dtype: str, n: int) -> None:
    """A row cut into pieces for several threads gives what one thread gives, and the truth."""
    case = make_case(n, 128_256, dtype)
    want = everything(case.x, case.t, threads=1)
    for threads in THREADS[1:]:
        assert_all_same(everything(case.x, case.t, threads=threads), want, f"with {threads} threads")
    units = case.truth.units
    assert_within("loss", want["loss"], case.truth.loss, units["loss"], case.x.dtype)
    assert_within("gradient", want["grad"], case.truth.grad, units["grad"], case.x.dtype)


def test_thread_count_changed_in_the_middle(engine: Engine) -> None:
    case = make_case(1000, 33, "float32")
    want = everything(case.x, case.t)
    for threads in (1, 3, 2, 7, 1):
        with engine.using(threads=threads):
            assert_all_same(everything(case.x, case.t), want, f"using {threads} threads")


@pytest.mark.parametrize("axis", [0, 1])
def test_any_thread_count_on_another_axis(engine: Engine, axis: int) -> None:
    case = make_case(40 * 30, 33, "float32")
    x = np.ascontiguousarray(np.moveaxis(case.x.reshape(40, 30, 33), -1, axis))
    t = case.t.reshape(40, 30)
    want = fn.cross_entropy_value_and_grad(x, t, axis=axis, threads=1)
    for threads in THREADS[1:]:
        got = fn.cross_entropy_value_and_grad(x, t, axis=axis, threads=threads)
        assert_same_bits("loss", got[0], want[0])
        assert_same_bits("gradient", got[1], want[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "v"), [(500, 33), (500, 3), (130, 257)], ids=str)
def test_any_split_gives_every_row_the_same_bits(engine: Engine, dtype: str, n: int, v: int) -> None:
    case = make_case(n, v, dtype)
    x, t = case.x, case.t
    want = everything(x, t)
    for cuts in ([1], [64], [63, 65], [17, 18, 19, 100], list(range(0, n, 7))):
        edges = [0, *cuts, n]
        parts = [everything(x[a:b], t[a:b]) for a, b in itertools.pairwise(edges)]
        for name in ("logsumexp", "softmax", "log_softmax", "loss", "grad", "grad of sum", "selected_log_probs"):
            assert_same_bits(f"{name} split at {cuts}", np.concatenate([p[name] for p in parts]), want[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [2, 7, 33, 48, 300])
def test_neighbours_have_no_say(engine: Engine, dtype: str, v: int) -> None:
    """Rows at all levels side by side, nearly certain ones among them: each as it is alone."""
    rng = np.random.default_rng(v)
    n = 160
    level, scale = rng.choice([-200, -80, -40, -20, -10, 0, 10, 30, 60], (n, 1)), rng.choice([2, 40], (n, 1))
    x = (scale * rng.standard_normal((n, v)) + level).astype(DTYPES[dtype])
    t = rng.integers(0, v, n)
    for i in range(0, n, 7):
        x[i, t[i]] += np.asarray(rng.choice([15, 30, 60]), x.dtype)

    def results(x: Array, t: Array) -> dict[str, Any]:
        out = {"logsumexp": fn.logsumexp(x), "softmax": fn.softmax(x), "log_softmax": fn.log_softmax(x)}
        for weight in (1.0, 3e4, 1e-20):
            upstream = np.full(t.size, weight)
            loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none", grad_output=upstream)
            out |= {"loss": loss, f"gradient {weight}": grad}
        return out

    want = results(x, t)
    alone = [results(x[i : i + 1], t[i : i + 1]) for i in range(n)]
    for name in want:
        assert_same_bits(name, np.concatenate([a[name] for a in alone]), want[name])
    assert_same_bits("value", fn.cross_entropy(x, t, reduction="none"), want["loss"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_parts_on_the_block_grid(engine: Engine, dtype: str) -> None:
    """Blocks of rows have the same sums wherever the batch is split at multiples of them."""
    n = ROW_BLOCK * 12 + 5
    case = make_case(n, 33, dtype)
    t = case.t.copy()
    t[::9] = -100
    whole = fn.cross_entropy(case.x, t, reduction="sum")

    def part(a: int, b: int) -> float:
        return fn.cross_entropy(case.x[a:b], t[a:b], reduction="sum")

    blocks = [part(a, min(a + ROW_BLOCK, n)) for a in range(0, n, ROW_BLOCK)]
    for step in (1, 2, 3, 5, 12):
        sizes = [part(a, min(a + step * ROW_BLOCK, n)) for a in range(0, n, step * ROW_BLOCK)]
        assert sum(sizes) == pytest.approx(whole, rel=1e-15, abs=0)
        for i, got in enumerate(sizes):  # a part is the ordered sum of its blocks, whatever the batch
            mine = blocks[i * step : (i + 1) * step]
            assert got in (sum(mine), float(np.sum(mine)), math.fsum(mine))


# ---- callers -----------------------------------------------------------------------------------------


def test_concurrent_callers(engine: Engine) -> None:
    """Four Python threads at once, each asking for several, on shared read-only inputs."""
    jobs = [(make_case(n, v, dtype), n) for n, v in ((300, 33), (2, 2049)) for dtype in ("float32", "float64")]
    want = [everything(case.x, case.t) for case, _ in jobs]
    start = threading.Barrier(4)

    def work(worker: int) -> None:
        with engine.using(threads=1 + worker % 3):
            start.wait(timeout=30)
            for turn in range(6):
                i = (worker + turn) % len(jobs)
                assert_all_same(everything(jobs[i][0].x, jobs[i][0].t), want[i], f"in thread {worker}")

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, i) for i in range(4)]:
            future.result(timeout=120)


def test_between_blas_calls(engine: Engine) -> None:
    case = make_case(300, 257, "float32")
    want = everything(case.x, case.t)
    weight = np.random.default_rng(0).standard_normal((257, 300)).astype(np.float32)
    for _ in range(3):
        assert np.isfinite(case.x @ weight).all()
        assert_all_same(everything(case.x, case.t), want, "between matrix products")


FORK = """
    import os, select, signal, warnings
    import numpy as np
    import fastnll as fn

    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of any fork with threads
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2000, 257)).astype(np.float32), rng.integers(0, 257, 2000)

    def result():
        loss, grad = fn.cross_entropy_value_and_grad(x, t, threads=2)
        return np.float64(loss).tobytes() + grad.tobytes() + fn.softmax(x, threads=2).tobytes()

    want = result()
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        got = result()
        os.write(sink, b"same" if got == want else b"different")
        os._exit(0)
    ready, _, _ = select.select([source], [], [], 60)
    if not ready:
        os.kill(child, signal.SIGKILL)
        raise SystemExit("the forked child hangs")
    print(os.read(source, 100).decode())
    os.waitpid(child, 0)
    assert result() == want, "the parent after the fork"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child(engine: Engine) -> None:
    """After the parent's threads have started, a child must neither hang nor differ."""
    assert run_alone(FORK, engine).strip() == "same"


THREADS_IN_USE = """
    import os
    if {allowed} and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:{allowed}]))
    import fastnll as fn
    print(fn.info().to_dict()["threads"])
"""


def threads_in_use(engine: Engine, allowed: int = 0, **env: str) -> int:
    return int(run_alone(THREADS_IN_USE.format(allowed=allowed), engine, **env))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no thread affinity")
def test_affinity_limits_the_threads(engine: Engine) -> None:
    assert threads_in_use(engine, allowed=1) == 1
    assert threads_in_use(engine) <= len(os.sched_getaffinity(0))


def test_environment_sets_the_threads() -> None:
    engine = Engine("reference")
    assert threads_in_use(engine, FASTNLL_NUM_THREADS="3", OMP_NUM_THREADS="2") == 3
    assert threads_in_use(engine, OMP_NUM_THREADS="1") == 1
    with fn.using(threads=5):
        assert fn.info().to_dict()["threads"] == 5


@pytest.mark.parametrize("call", [fn.softmax, fn.logsumexp, fn.log_softmax], ids=lambda f: f.__name__)
def test_thread_counts_that_mean_nothing(engine: Engine, call: Callable[..., Any]) -> None:
    for threads in (0, -1, 1.5, "2", True, np.bool_(True), np.array(1.5), np.ones(2, int)):
        with pytest.raises(fn.OptionError, match="threads: expected an integer of at least 1, got "):
            call(np.zeros((2, 3)), threads=threads)
    assert np.shape(call(np.zeros((2, 3)), threads=np.int8(2)))[0] == 2
