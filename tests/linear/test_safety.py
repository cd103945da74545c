"""Python threads, forks, validate="off" and verify."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.kernels import registry
from tests.cases import DTYPES, Engine
from tests.linear.problems import make_head
from tests.ops.alone import run_alone

Array = np.ndarray[Any, Any]


def test_concurrent_callers(engine: Engine) -> None:
    heads = [make_head(70, 20, 3000, "float32", seed) for seed in range(4)]

    def run(head: Any) -> Any:
        with engine.using(threads=2):
            return fn.linear_cross_entropy_value_and_grad(*head[:2], head.targets, head.bias)

    want = [run(head) for head in heads]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for (loss, grads), (right, others) in zip(pool.map(run, heads), want, strict=True):
                assert loss == right
                for a, b in zip(grads, others, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_blas_has_its_threads_back_after_concurrent_calls() -> None:
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    def threads() -> list[int]:
        return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]

    before = threads()
    head = make_head(70, 20, 3000, "float32")

    def run(_: int) -> Any:
        with fn.using(backend="numba", threads=2):
            return fn.linear_cross_entropy(*head[:2], head.targets, head.bias)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(run, range(12)))) == 1
    assert threads() == before


FORK = """
import os, sys, warnings
import numpy as np, fastnll as fn
warnings.simplefilter("ignore", DeprecationWarning)
rng = np.random.default_rng(0)
h, w, t = rng.standard_normal((70, 20)), rng.standard_normal((3000, 20)), rng.integers(0, 3000, 70)
want = fn.linear_cross_entropy_value_and_grad(h, w, t, threads=2)
read, write = os.pipe()
child = os.fork()
if not child:
    got = fn.linear_cross_entropy_value_and_grad(h, w, t, threads=2)
    same = got[0] == want[0] and all(a is b or np.array_equal(a, b) for a, b in zip(got[1], want[1]))
    same = same and fn.linear_cross_entropy(h, w, t) > 0
    os.write(write, b"same" if same else b"other")
    os._exit(0)
os.waitpid(child, 0)
print(os.read(read, 9).decode())
"""


@pytest.mark.parametrize("backend", ["native", "numba"])
def test_after_a_fork(backend: str) -> None:
    assert run_alone(FORK, Engine(backend)).strip() == "same"


@pytest.mark.parametrize("dtype", DTYPES)
def test_garbage_targets_without_validation(engine: Engine, dtype: str) -> None:
    head = make_head(60, 9, 300, dtype)
    rng = np.random.default_rng(0)
    t = rng.integers(-(2**62), 2**62, 60)
    t[::2] = rng.integers(0, 300, 30)
    for ids in (t, t.astype(np.uint64), t.astype(np.int16)):
        good = (ids < 300) & (ids >= 0)
        value = fn.linear_cross_entropy(*head[:2], ids, head.bias, reduction="none", validate="off")
        loss, grads = fn.linear_cross_entropy_value_and_grad(
            *head[:2], ids, head.bias, reduction="none", validate="off"
        )
        assert grads.hidden is not None
        for a in (value, loss, grads.hidden.sum(axis=1)):
            absent = ids == -100
            assert np.isnan(a[~good & ~absent].astype(float)).all()
            assert np.isfinite(a[good].astype(float)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("o", [{}, {"z_loss": 0.1, "label_smoothing": 0.2}, {"softcap": 2.0}, {"reduction": "none"}])
def test_verify_lets_right_results_pass(engine: Engine, o: dict[str, Any], dtype: str) -> None:
    head = make_head(50, 33, 500, dtype)
    arguments = (head.hidden, head.weight, head.targets, head.bias)
    want, right = fn.linear_cross_entropy_value_and_grad(*arguments, **o)
    loss, grads = fn.linear_cross_entropy_value_and_grad(*arguments, verify=1.0, **o)
    np.testing.assert_array_equal(loss, want)
    for a, b in zip(grads, right, strict=True):
        np.testing.assert_array_equal(a, b)
    fn.linear_cross_entropy(*arguments, verify=0.3, **o)
    up = np.linspace(-1.0, 2.0, 50) if o.get("reduction") == "none" else -3.0
    fn.linear_cross_entropy_value_and_grad(*arguments, verify=1.0, grad_output=up, grad_dtype=DTYPES[dtype], **o)


@pytest.mark.parametrize("broken", ["linear_logits", "linear_grads"])
def test_verify_finds_wrong_products(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """One row of logits that is off by a thousandth, one element of a gradient by a hundredth."""
    head = make_head(50, 33, 500, "float32")
    arguments = (head.hidden, head.weight, np.abs(head.targets) % 500, head.bias)
    with fn.using(backend="native"):
        backend = registry.backend()
        original = getattr(backend, broken)

        def wrong(task: Any) -> None:
            original(task)
            if broken == "linear_logits":
                task.logits[7] *= np.float32(1.001)
            else:
                task.grad_hidden[7, 3] += 1e-2 * np.abs(task.grad_hidden[7]).max()

        monkeypatch.setattr(backend, broken, wrong)
        what = "loss of row 7" if broken == "linear_logits" else "hidden gradient of row 7"
        with pytest.raises(fn.VerificationError, match=f"verify: expected the {what} to agree"):
            fn.linear_cross_entropy_value_and_grad(*arguments, verify=1.0)
        fn.linear_cross_entropy_value_and_grad(*arguments)
