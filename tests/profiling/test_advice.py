"""Each piece of advice: provoked, and silent where its cause is not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.events import Event
from fastnll.kernels import registry
from fastnll.profiling import advice, faults
from fastnll.profiling.advice import RULES, advise
from fastnll.profiling.faults import FaultCost
from tests.profiling.made import FACTS, MS, WORKER, analysis, kernel, op, scan, short, user, wait

FRESH = 262_144_000


def repeated(count: int, make: Callable[[int], Sequence[Event]], every: int = 10 * MS) -> list[Event]:
    return [event for i in range(count) for event in make(i * every)]


def gradients(fresh: int = FRESH, n_faults: int = 60_000, count: int = 5) -> list[Event]:
    def call(t: int) -> list[Event]:
        made = kernel(t + MS, t + 9 * MS, mode="out", fresh=fresh, usage=(n_faults, 0, 0, 0, 0))
        return [made, op(t, t + 10 * MS, "cross_entropy_value_and_grad")]

    return repeated(count, call, 20 * MS)


def small(count: int = 20, shape: tuple[int, ...] = (1, 8, 1000), **options: Any) -> list[Event]:
    def call(t: int) -> list[Event]:
        return [kernel(t + 2 * MS, t + 4 * MS, shape=shape, **{"threads": 1, **options}), op(t, t + 5 * MS)]

    return repeated(count, call, 5 * MS)


def spinning(others: int, main: int = 10 * MS, count: int = 5) -> list[Event]:
    """Kernels on two threads; between two of them others and the main thread use some CPU time."""

    def call(t: int) -> list[Event]:
        i = t // (20 * MS)
        thread = i * main
        process = thread + i * others
        return [kernel(t, t + 10 * MS, usage=(0, process, thread, process, thread))]

    return repeated(count, call, 20 * MS)


def checked(each: int) -> list[Event]:
    def call(t: int) -> list[Event]:
        return [scan(t + MS, t + MS + each), kernel(t + 5 * MS, t + 9 * MS), op(t, t + 10 * MS)]

    return repeated(10, call)


def pairs(first: str, second: str, shape: tuple[int, ...] = (1, 2048, 32000)) -> list[Event]:
    def call(t: int) -> list[Event]:
        return [
            kernel(t, t + 3 * MS, shape=shape),
            op(t, t + 4 * MS, first),
            kernel(t + 5 * MS, t + 9 * MS),
            op(t + 4 * MS, t + 9 * MS, second),
        ]

    return repeated(5, call)


def first_long(first: int) -> list[Event]:
    return [op(0, first, "softmax"), *repeated(4, lambda t: [op(first + t, first + t + MS, "softmax")], 2 * MS)]


BOTH = [("blas", "openblas", 2), ("openmp", "libgomp", 2)]
NO_NATIVE = {"native": "the compiled extension is not there (no compiler)", "numba": None, "reference": None}

# rule: (events, options) that provoke it, a part of its sentence; (events, options) that must not
CASES: dict[str, tuple[list[tuple[list[Event], dict[str, Any], str]], list[tuple[list[Event], dict[str, Any]]]]] = {
    "fresh_results": (
        [
            (
                gradients(),
                {},
                "cross_entropy_value_and_grad went to a fresh 262MB array in 5 calls (300k page",
            ),
            (
                [
                    kernel(t, t + 9 * MS, "softmax", mode="out", fresh=FRESH, usage=(125, 0, 0, 0, 0))
                    for t in (0, 9 * MS)
                ],
                {},
                "the result of softmax went to a fresh 262MB array in 2 calls (250 page faults",
            ),
        ],
        [
            (gradients(fresh=0), {}),
            (gradients(n_faults=0), {}),  # the allocator had the memory already
            (gradients(n_faults=2), {}),
            (gradients(count=1), {}),
        ],
    ),
    "small_batches": (
        [
            (
                small(),
                {},
                "too small for two threads: 20 calls on 8 x 1000 logits ran on one (100ms, 100%",
            ),
            (
                repeated(20, lambda t: [short(t, t + 5 * MS)], 5 * MS),
                {"threads": 8},
                "small for 8 threads: 20 calls",
            ),
        ],
        [
            (small(), {"threads": 1}),
            (small(shape=(1, 64, 2000)), {}),
            (small(threads=2), {}),
            (small(count=5), {}),
            (small(thread=WORKER), {}),  # a block of the objective, whose blocks share out the threads
            (small(), {"wall": 1000 * MS}),
        ],
    ),
    "overhead": (
        [
            (
                repeated(200, lambda t: [kernel(t + 100, t + 200), op(t, t + 400)], 500),
                {"wall": 100_000},
                "took 60.0us, 60% of the time, 0.300us a call of cross_entropy: make batches larger, or the loss once",
            )
        ],
        [
            (repeated(200, lambda t: [kernel(t + 10, t + 390), op(t, t + 400)], 500), {"wall": 100_000}),
            (repeated(50, lambda t: [kernel(t + 100, t + 200), op(t, t + 400)], 500), {"wall": 25_000}),
        ],
    ),
    "float64_logits": (
        [
            (
                [op(0, 90 * MS), kernel(0, 50 * MS, dtype="float64")],
                {},
                "cross_entropy got float64 in 1 call (50.0ms",
            )
        ],
        [
            ([kernel(0, 50 * MS, dtype="float32")], {}),
            ([kernel(0, 50 * MS, "sgd_update", mode="plain", shape=(1 << 20,), dtype="float64")], {}),
            ([kernel(0, 50 * MS, dtype="float64", shape=(1, 8, 10))], {}),
            ([kernel(0, 3 * MS, dtype="float64")], {}),
        ],
    ),
    "strided_classes": (
        [
            (
                [kernel(0, 50 * MS, stride=8192)],
                {},
                "of cross_entropy on 2048 x 32000 logits lie 8192 bytes apart",
            )
        ],
        [
            ([kernel(0, 50 * MS)], {}),
            ([kernel(0, 50 * MS, stride=0, shape=(1, 2048, 1))], {}),
            ([kernel(0, 3 * MS, stride=8192)], {}),
        ],
    ),
    "validation": (
        [(checked(2 * MS), {}, "checking that targets are class ids took 20.0ms, 20% of the time")],
        [(checked(MS // 10), {}), ([scan(0, 50 * MS), op(0, 60 * MS)], {}), (small(), {})],
    ),
    "backend": (
        [
            (
                [kernel(0, 50 * MS, backend="reference")],
                {},
                "the reference backend ran 1 call (50.0ms, 50%",
            ),
            ([kernel(0, 50 * MS, backend="reference")], {}, "the compiled one is available: remove using(backend=...)"),
            ([kernel(0, 50 * MS, backend="numba")], {"backends": NO_NATIVE}, "is not there (no compiler)"),
        ],
        [([kernel(0, 50 * MS)], {}), ([kernel(0, MS, backend="reference"), kernel(MS, 90 * MS)], {})],
    ),
    "pinned_isa": (
        [
            (
                [kernel(0, 50 * MS)],
                {"isa": "avx2"},
                "ran on avx2 (50.0ms, 50% of the time) where this processor has",
            ),
            ([kernel(0, 50 * MS, isa="baseline")], {}, "ran on baseline"),
        ],
        [
            ([kernel(0, 50 * MS)], {}),
            ([kernel(0, 50 * MS, isa="avx512")], {"isa": "avx2"}),
            ([kernel(0, 50 * MS, backend="numba")], {"isa": None, "isas": ()}),
        ],
    ),
    "read_twice": (
        [
            (
                pairs("cross_entropy", "cross_entropy_value_and_grad"),
                {},
                "followed by cross_entropy_value_and_grad on logits of the same shape 5 times (20.0ms, 20%",
            ),
            (pairs("log_softmax", "nll_loss"), {}, "cross_entropy takes the logits and does both in one pass"),
        ],
        [
            (pairs("cross_entropy", "cross_entropy_value_and_grad", shape=(1, 100, 32000)), {}),
            (pairs("cross_entropy_value_and_grad", "cross_entropy_value_and_grad"), {}),
            (pairs("cross_entropy", "cross_entropy_value_and_grad")[:8], {}),
        ],
    ),
    "waiting": (
        [
            (
                [wait(0, 40 * MS)],
                {},
                "waiting for data took 40.0ms, 40% of the time, most of it in 'data': load",
            ),
            ([wait(0, 40 * MS, "data: rows")], {}, "most of it in 'data: rows': larger batches look up more rows"),
        ],
        [([wait(0, 5 * MS)], {}), ([user(0, 40 * MS, "database")], {})],
    ),
    "outside": (
        [
            (
                [kernel(0, 10 * MS)],
                {},
                "90.0ms, 90% of the time, passed outside fastnll: a faster loss cannot",
            ),
            (
                [kernel(0, 10 * MS), user(10 * MS, 80 * MS)],
                {},
                "70.0ms of it in blocks that you named: a faster",
            ),
        ],
        [([kernel(0, 60 * MS)], {}), ([user(0, 10 * MS)], {})],
    ),
    "pools": (
        [
            (
                spinning(others=12 * MS),
                {"pools": BOTH},
                "(openblas, 2 threads) and OpenMP (libgomp, 2 threads) pools",
            )
        ],
        [
            (spinning(others=12 * MS), {}),  # the BLAS has one thread
            (spinning(others=12 * MS), {"pools": BOTH[:1]}),
            (spinning(others=44 * MS // 10), {"pools": BOTH}),  # OpenMP's own spinning after a loop
            (spinning(others=12 * MS, main=MS // 10), {"pools": BOTH}),  # the caller slept
            (spinning(others=12 * MS, count=2), {"pools": BOTH}),
        ],
    ),
    "oversubscribed": (
        [([kernel(0, 50 * MS, threads=4)], {}, "kernels ran on 4 threads, but this process has 2 cores (50.0ms, 50%")],
        [([kernel(0, 50 * MS)], {}), ([kernel(0, MS, threads=4)], {})],
    ),
    "other_faults": (
        [([], {"steps": 5, "faults": 4000}, "4k page faults a step happened outside the kernels (about 20.0ms, 20%")],
        [
            ([], {"steps": 5, "faults": 100}),
            ([], {"steps": 2, "faults": 9000}),
            ([kernel(0, MS, usage=(20_000, 0, 0, 0, 0))], {"steps": 5, "faults": 0}),
        ],
    ),
    "first_call": (
        [
            (
                first_long(80 * MS),
                {},
                "first call of softmax took 80.0ms, the median one 1.00ms: something was",
            )
        ],
        [(first_long(MS), {}), (first_long(40 * MS), {}), (first_long(80 * MS)[:2], {})],
    ),
}


@pytest.fixture(autouse=True)
def price(monkeypatch: pytest.MonkeyPatch) -> None:
    """A microsecond a page fault, a tenth of a millisecond a huge one."""
    monkeypatch.setattr(faults, "fault_cost", lambda: FaultCost(1e-6, 1e-4))


def said(rule: str, events: list[Event], options: dict[str, Any]) -> str | None:
    found = {item.rule: item.text for item in advise(analysis(*events, **options))}
    return found.get(rule)


def test_every_rule_has_cases() -> None:
    assert set(CASES) == {rule.__name__ for rule in RULES}
    assert all(provoked and silent for provoked, silent in CASES.values())


@pytest.mark.parametrize(
    ("rule", "case"),
    [(rule, case) for rule, (provoked, _) in CASES.items() for case in provoked],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_it_is_said(rule: str, case: tuple[list[Event], dict[str, Any], str]) -> None:
    events, options, sentence = case
    text = said(rule, events, options)
    assert text is not None
    assert sentence in text


@pytest.mark.parametrize(
    ("rule", "case"),
    [(rule, case) for rule, (_, silent) in CASES.items() for case in silent],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_it_is_not_said(rule: str, case: tuple[list[Event], dict[str, Any]]) -> None:
    assert said(rule, *case) is None


def test_the_dearest_comes_first() -> None:
    found = advise(analysis(wait(0, 40 * MS), kernel(40 * MS, 50 * MS, dtype="float64"), kernel(50 * MS, 95 * MS)))
    assert [item.rule for item in found] == ["waiting", "float64_logits"]
    assert found[0].seconds > found[1].seconds > 0


def test_nothing_is_said_of_nothing() -> None:
    assert advise(analysis(wall=0)) == []
    assert advice.advise(analysis(kernel(0, 90 * MS))) == []


# The same with the library itself, where what is measured does not depend on how busy the machine is.

BIG = np.random.default_rng(0).standard_normal((1280, 8192)).astype(np.float32)
TARGETS = np.arange(1280)


def rules(prof: fn.profile) -> set[str]:
    return {item.rule for item in prof.advice()}


def test_a_real_fresh_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource", reason="page faults are counted by the resource module")
    # A fault on a huge page, and one on an ordinary page, dear enough to be worth a sentence on any machine.
    monkeypatch.setattr(faults, "fault_cost", lambda: FaultCost(1.0, 1.0))
    seen = {}
    fn.empty_cache()
    for name, out in (("fresh", None), ("kept", np.empty_like(BIG))):
        if out is not None:
            out.fill(0)
        with fn.profile(limits=None) as prof:
            # Results that are kept: memory of those that are gone is used again, without a fault.
            held = [fn.cross_entropy_value_and_grad(BIG, TARGETS, out=out) for _ in range(3)]
            del held
        seen[name] = rules(prof)
    assert "fresh_results" in seen["fresh"]
    assert "fresh_results" not in seen["kept"]


def test_real_dtypes_strides_and_backends() -> None:
    def during(x: Any, **settings: Any) -> set[str]:
        with fn.using(**settings), fn.profile(limits=None) as prof:
            for _ in range(3):
                fn.cross_entropy(x, TARGETS[:64])
        return rules(prof)

    plain = BIG[:64]
    about = {"float64_logits", "strided_classes", "backend", "pinned_isa"}
    assert not during(plain) & about or registry.backend_name() != "native"
    assert "float64_logits" in during(plain.astype(np.float64))
    assert "strided_classes" in during(np.asfortranarray(plain))
    assert "backend" in during(plain, backend="reference")
    if len(registry.available_isas()) > 1:
        assert "pinned_isa" in during(plain, backend="native", isa="baseline")


def test_real_facts_are_of_this_installation() -> None:
    with fn.using(threads=2), fn.profile(limits=None) as prof:
        fn.logsumexp(BIG)
    facts = prof.recording.facts
    assert set(FACTS) <= set(facts)
    assert facts["threads"] == 2
    assert {api for api, _, _ in facts["pools"]} <= {"blas", "openmp"}


@pytest.mark.slow
def test_real_pools_that_fight() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="controls the pools")
    if registry.backend_name() != "native" or fn.info().to_dict()["cores"] < 2:
        pytest.skip("takes the compiled backend and two cores")
    square = np.random.default_rng(0).standard_normal((1800, 1800)).astype(np.float32)
    found = {}
    for threads in (1, 2):
        with threadpoolctl.threadpool_limits(threads, "blas"):
            pools = {p["user_api"]: p["num_threads"] for p in threadpoolctl.threadpool_info()}
            with fn.profile(limits=None) as prof:
                for _ in range(6):
                    fn.cross_entropy(BIG, TARGETS, threads=2)
                    square @ square
            found[threads] = rules(prof)
    assert "pools" not in found[1]
    if pools.get("blas", 1) < 2 or pools.get("openmp", 1) < 2:
        pytest.skip("one of the pools has one thread here")
    assert "pools" in found[2]
