"""The plan of the memory is what happens: to the allocator and to the process."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import Engine
from tests.linear.problems import make_head, smallest_bound
from tests.ops.alone import run_alone


def peak_of(call: Any) -> int:
    """Return the bytes that a call held at most, of what NumPy allocates; its result is dropped."""
    call()
    fn.empty_cache()  # memory that is used again would not be seen
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrt", [("hidden", "weight", "bias"), ("hidden",), ()])
@pytest.mark.parametrize("bound", [None, "least", "twice"])
def test_the_plan_is_what_is_allocated(wrt: tuple[str, ...], bound: str | None) -> None:
    with fn.using(backend="native", threads=2):
        head = make_head(400, 64, 20000, "float32")
        plan_of: dict[str, Any] = {"hidden": head.hidden, "weight": head.weight, "wrt": wrt}
        least = smallest_bound(**plan_of)
        most = {None: None, "least": least, "twice": 2 * least}[bound]
        plan = fn.memory_plan(**plan_of, max_memory=most)
        targets = np.where(head.targets == -100, 0, head.targets)
        arguments = (head.hidden, head.weight, targets, head.bias)

        def call() -> None:
            if wrt:
                fn.linear_cross_entropy_value_and_grad(*arguments, wrt=wrt, max_memory=most)
            else:
                fn.linear_cross_entropy(*arguments, max_memory=most)

        peak = peak_of(call)
        assert peak <= plan.workspace + plan.outputs + (64 << 10)
        # What C allocates for itself is not NumPy's; all the rest should be there.
        unseen = plan.bytes_of("row scratch") + (plan.bytes_of("logits") if not wrt else 0) + plan.bytes_of("rows")
        assert peak >= plan.workspace + plan.outputs - unseen - (64 << 10)
        if most is not None:
            assert plan.workspace <= most
        else:
            assert plan.workspace <= 120 << 20 if wrt else plan.workspace <= 30 << 20


def test_a_bound_too_small_says_the_least(engine: Engine) -> None:
    head = make_head(70, 8, 500, "float32")
    arguments = (head.hidden, head.weight, np.abs(head.targets) % 500, head.bias)
    for wrt, call in (
        ((), lambda bound: fn.linear_cross_entropy(*arguments, max_memory=bound)),
        (
            ("hidden", "weight", "bias"),
            lambda bound: fn.linear_cross_entropy_value_and_grad(*arguments, max_memory=bound),
        ),
    ):
        least = smallest_bound(hidden=head.hidden, weight=head.weight, wrt=wrt)
        call(least)
        with pytest.raises(fn.OptionError, match=rf"max_memory: expected at least {least} bytes .* got {least - 1}"):
            call(least - 1)


def test_the_rows_of_a_chunk_do_not_depend_on_the_threads() -> None:
    for bound in (None, 40 << 20, 100 << 20):
        plans = [fn.memory_plan((4096, 256), (50257, 256), threads=t, max_memory=bound) for t in (1, 2, 7, 64)]
        assert len({plan.rows for plan in plans}) == 1
        if bound:
            assert all(plan.workspace <= bound for plan in plans)


def test_large_shapes_fit_the_default() -> None:
    for n, d, v in ((2048, 512, 32000), (4096, 256, 50257), (1024, 768, 128256)):
        assert fn.memory_plan((n, d), (v, d), threads=2).workspace <= 128e6
        assert fn.memory_plan((n, d), (v, d), threads=2, wrt=()).workspace <= 32e6
        assert fn.memory_plan((n, d), (v, d), threads=2, dtype="bfloat16").workspace <= 128e6


def test_the_plan_reads_like_a_table() -> None:
    text = str(fn.memory_plan((4096, 256), (50257, 256), threads=2))
    assert "chunks of" in text
    assert "logits of a chunk, overwritten by their gradient" in text
    assert "returned" in text
    plan = fn.memory_plan((10, 4), (6, 4), dtype="bfloat16", grad_dtype="bfloat16")
    assert plan.bytes_of("sum of the weight's gradient") == 6 * 4 * 4
    assert plan.outputs == 2 * (40 + 24 + 6)


PROGRAM = """
import re
from pathlib import Path
import numpy as np, fastnll as fn
n, d, v = 1024, 64, 60000
rng = np.random.default_rng(0)
h = rng.standard_normal((n, d), dtype=np.float32)
w = rng.standard_normal((v, d), dtype=np.float32)
t = rng.integers(0, v, n)
b = np.zeros(v, np.float32)
def peak():  # not ru_maxrss, which a child inherits from the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
out = [np.full_like(a, 1.0) for a in (h, w, b)]
few = (h[:4], w[:300], t[:4] % 300, b[:300])
fn.linear_cross_entropy_value_and_grad(*few)
fn.linear_cross_entropy(*few)
start = peak()
fn.linear_cross_entropy(h, w, t, b, max_memory=16 << 20)
value = peak() - start
fn.linear_cross_entropy_value_and_grad(h, w, t, b, out=tuple(out), max_memory=48 << 20)
grads = peak() - start
assert n * v * 4 > 200 << 20
print(value, grads)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: the peak of a process is not to be had")
def test_the_process_grows_by_no_more_than_the_bound() -> None:
    value, grads = map(int, run_alone(PROGRAM, Engine("native")).split())
    assert value <= (16 << 20) + (8 << 20)
    assert grads <= (48 << 20) + (8 << 20)
    assert grads > 20 << 20
