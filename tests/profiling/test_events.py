"""The switch and the recorder: what reaches them, from where, and what happens when nobody listens."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll import events
from fastnll.kernels import registry
from fastnll.kernels.spec import OPS, ROW_BLOCK
from fastnll.profiling import work

RNG = np.random.default_rng(5)
LOGITS = RNG.standard_normal((6, 9)).astype(np.float32)
TARGETS = RNG.integers(0, 9, 6)
LOG_PROBS = fn.log_softmax(LOGITS)

# Every public operation of the op table, and what the profile calls it where that is another name.
CALLS: dict[str, Any] = {
    "logsumexp": lambda: fn.logsumexp(LOGITS),
    "softmax": lambda: fn.softmax(LOGITS),
    "log_softmax": lambda: fn.log_softmax(LOGITS),
    "softmax_vjp": lambda: fn.softmax_vjp(np.exp(LOG_PROBS), LOGITS),
    "log_softmax_vjp": lambda: fn.log_softmax_vjp(LOG_PROBS, LOGITS),
    "cross_entropy": lambda: fn.cross_entropy(LOGITS, TARGETS, reduction="sum"),
    "cross_entropy_value_and_grad": lambda: fn.cross_entropy_value_and_grad(LOGITS, TARGETS, reduction="sum"),
    "cross_entropy_details": lambda: fn.cross_entropy_details(LOGITS, TARGETS),
    "nll_loss": lambda: fn.nll_loss(LOG_PROBS, TARGETS),
    "selected_log_probs": lambda: fn.selected_log_probs(LOGITS, TARGETS),
    "linear_cross_entropy": lambda: fn.linear_cross_entropy(LOGITS, LOGITS.repeat(2, 0), TARGETS),
    "linear_cross_entropy_value_and_grad": lambda: fn.linear_cross_entropy_value_and_grad(
        LOGITS, LOGITS.repeat(2, 0), TARGETS
    ),
    "sgd_update": lambda: fn.sgd_update(LOGITS.copy(), LOGITS, lr=0.1),
}


def recorded(call: Any) -> tuple[Any, list[events.Event]]:
    with fn.profile(limits=None) as prof:
        result = call()
    return result, prof.recording.events


def test_every_public_operation_of_the_table_has_a_call_here() -> None:
    named = {public for spec in OPS.values() for public in spec.public}
    assert named == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_an_operation_reports_itself_and_its_kernel(name: str) -> None:
    plain = CALLS[name]()
    result, found = recorded(CALLS[name])
    np.testing.assert_equal(result, plain)
    ops = [event for event in found if event[3] == events.OP]
    kernels = [event for event in found if event[3] == events.KERNEL]
    assert [event[4] for event in ops] == [name]
    expected = {f"kernel.{spec.name}" for spec in OPS.values() if name in spec.public}
    # The one kernel that a backend need not have: the losses of a linear head without its logits.
    expected |= {"kernel.linear_losses"} if name == "linear_cross_entropy" else set()
    assert expected & {event[4] for event in kernels}
    for event in kernels:
        assert ops[0][0] <= event[0] <= event[1] <= ops[0][1]
        assert event[2] == ops[0][2] == threading.get_ident()
        call = events.call_of(event)
        assert call is not None
        assert call.backend == registry.backend_name()
        assert f"kernel.{call.spec.name}" == event[4].replace("linear_losses", "linear_logits")
        assert call.shape[-1] in (6, 9, 12, 54)


@pytest.mark.parametrize("backend", [name for name, why in registry.available_backends().items() if why is None])
def test_every_backend_reports(backend: str) -> None:
    with fn.using(backend=backend):
        CALLS["cross_entropy"]()
        _, found = recorded(CALLS["cross_entropy"])
    assert {call.backend for event in found if (call := events.call_of(event))} == {backend}


def test_the_mode_says_what_is_written() -> None:
    def modes(call: Any) -> list[tuple[str, int]]:
        found = [events.call_of(event) for event in recorded(call)[1]]
        return [(call.mode, call.fresh) for call in found if call is not None and call.spec.name == "cross_entropy"]

    x, out = LOGITS.copy(), np.empty_like(LOGITS)
    options: dict[str, Any] = {"reduction": "sum"}
    assert modes(lambda: fn.cross_entropy(x, TARGETS, **options)) == [("value", 0)]
    assert modes(lambda: fn.cross_entropy_value_and_grad(x, TARGETS, **options)) == [("out", x.nbytes)]
    assert modes(lambda: fn.cross_entropy_value_and_grad(x, TARGETS, out=out, **options)) == [("out", 0)]
    assert modes(lambda: fn.cross_entropy_value_and_grad(x, TARGETS, out=x, **options)) == [("inplace", 0)]


@pytest.mark.skipif(registry.backend_name() != "native", reason="only the compiled backend has a short way")
def test_the_short_way_reports_too() -> None:
    x = LOGITS.copy()
    plain = fn.cross_entropy_value_and_grad(x, TARGETS)
    result, found = recorded(lambda: fn.cross_entropy_value_and_grad(x, TARGETS))
    np.testing.assert_equal(result, plain)
    assert [(event[3], event[4]) for event in found] == [(events.SHORT, "cross_entropy_value_and_grad")]
    call = events.call_of(found[0])
    assert call is not None
    assert (call.mode, call.shape, call.fresh, call.threads) == ("out", (1, 6, 9), x.nbytes, 1)
    call = events.call_of(recorded(lambda: fn.cross_entropy_value_and_grad(x, TARGETS, out=x))[1][0])
    assert call is not None and call.mode == "inplace"
    call = events.call_of(recorded(lambda: fn.cross_entropy(LOGITS, TARGETS))[1][0])
    assert call is not None and call.mode == "value"


def test_off_means_off() -> None:
    assert events.active is None
    assert registry.backend() is registry._load(registry.backend_name())
    with fn.profile(limits=None):
        assert events.active is not None
        assert registry.backend() is not registry._load(registry.backend_name())
    assert events.active is None
    assert events.watchers == []


def test_large_calls_say_what_the_system_counted() -> None:
    large, small = np.zeros((64, 8192), np.float32), np.zeros((63, 128), np.float32)
    found = {}
    for x in (large, small):
        _, seen = recorded(lambda x=x: fn.logsumexp(x))
        found[x.size] = [call.usage for event in seen if (call := events.call_of(event))]
    assert found[small.size] == [None]
    (usage,) = found[large.size]
    assert usage is not None
    faults, process, thread, process_after, thread_after = usage
    assert faults >= 0 and process <= process_after and thread <= thread_after


def test_events_of_all_threads_arrive() -> None:
    def work_on(count: int) -> None:
        for _ in range(count):
            fn.logsumexp(LOGITS, threads=1)

    with fn.profile(limits=None) as prof:
        threads = [threading.Thread(target=work_on, args=(200,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ops = [event for event in prof.recording.events if event[3] == events.OP]
    assert len(ops) == 800
    assert len({event[2] for event in ops}) >= 1
    assert prof.key_averages()[0].count == 800


def test_memory_is_bounded_and_the_rest_is_counted() -> None:
    with fn.profile(limits=None, max_events=10) as prof:
        for _ in range(20):
            fn.logsumexp(LOGITS)
    assert len(prof.recording.events) == 10
    assert prof.recording.dropped == 30
    assert "30 events beyond max_events=10" in prof.report()


def test_an_event_holds_no_array() -> None:
    def atoms(value: Any) -> Any:
        return [a for item in value for a in atoms(item)] if isinstance(value, tuple) else [value]

    big = np.zeros((64, 8192), np.float32)
    _, found = recorded(lambda: fn.cross_entropy_value_and_grad(big, np.zeros(64, int)))
    for event in found:
        assert all(isinstance(a, int | str | np.dtype | type(None)) for a in atoms(event))


def test_an_error_leaves_the_switch_as_it_was() -> None:
    with fn.profile(limits=None) as prof, pytest.raises(fn.LabelError):
        fn.cross_entropy(LOGITS, TARGETS + 100)
    assert events.active is None
    assert [event[4] for event in prof.recording.events] == ["kernel.scan_targets"]
    with pytest.raises(ZeroDivisionError), fn.profile(limits=None) as prof, fn.record_function("before it fails"):
        1 / 0  # noqa: B018
    assert events.active is None
    assert [event[4] for event in prof.recording.events] == ["before it fails"]


def test_nested_profiles_each_get_everything() -> None:
    with fn.profile(limits=None) as outer:
        fn.logsumexp(LOGITS)
        with fn.profile(limits=None) as inner:
            fn.softmax(LOGITS)
            with fn.profile(limits=None, max_events=1) as least:
                fn.log_softmax(LOGITS)
        fn.logsumexp(LOGITS)

    def ops(prof: fn.profile) -> list[str]:
        return [event[4] for event in prof.recording.events if event[3] == events.OP]

    assert ops(outer) == ["logsumexp", "softmax", "log_softmax", "logsumexp"]
    assert ops(inner) == ["softmax", "log_softmax"]
    assert len(least.recording.events) == 1 and least.recording.dropped == 1


def test_profiles_that_do_not_nest() -> None:
    first, second = fn.profile(limits=None), fn.profile(limits=None)
    first.start()
    second.start()
    first.stop()
    fn.logsumexp(LOGITS)
    second.stop()
    assert not first.recording.events
    assert len(second.recording.events) == 2
    assert events.active is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where it has been imported
def test_a_forked_child_records_nothing() -> None:
    with fn.profile(limits=None) as prof:
        child = os.fork()
        if child == 0:
            os._exit(0 if events.active is None and not events.watchers else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert events.active is not None
        fn.logsumexp(LOGITS)
    assert len(prof.recording.events) == 2


def test_the_blocks_are_those_of_the_op_table() -> None:
    assert work.ROW_BLOCK == ROW_BLOCK


def test_waiting_passes_errors_on_and_counts_the_wait() -> None:
    def broken() -> Any:
        yield 1
        raise OSError("the disk is gone")

    with fn.profile(limits=None) as prof:
        items = prof.waiting(broken(), "data: disk")
        assert next(items) == 1
        with pytest.raises(OSError, match="gone"):
            next(items)
    assert {row.key for row in prof.key_averages()} == {"data: disk", "(outside fastnll)"}
