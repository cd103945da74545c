"""Nesting, owners of each moment, models of bytes, shares of limits: on recordings made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.events import Event, call_of
from fastnll.kernels.spec import OPS
from fastnll.profiling import faults
from fastnll.profiling.faults import FaultCost, lost
from fastnll.profiling.recording import Recording, detect_rank
from fastnll.profiling.report import report, summary
from fastnll.profiling.timeline import build
from fastnll.profiling.work import Limits, Work, work_of
from tests.profiling.made import LIMITS, MAIN, MS, WORKER, analysis, kernel, op, recording, scan, span, user, wait


def rows_of(*events: Event, **options: object) -> dict[str, object]:
    made = analysis(*events, limits=LIMITS, **options)
    from fastnll.profiling.averages import averages

    return {row.key: row for row in averages(made)}


def test_nesting_follows_times_not_the_order_of_the_list() -> None:
    events = [kernel(20, 50), op(10, 60), op(5, 90, "outer"), kernel(92, 95)]
    line = build(events)
    assert line.parent == [1, 2, -1, -1]
    assert line.self_ns == [30, 20, 35, 3]
    assert line.wall_ns == [30, 20, 35, 3]
    assert line.lane == [0, 0, 0, 0]


def test_equal_times_nest_in_the_order_of_ending() -> None:
    line = build([kernel(10, 20), op(10, 20)])  # the kernel ended first, so it is the inner one
    assert line.parent == [1, -1]
    assert line.wall_ns == [10, 0]


def test_events_of_no_length_own_nothing_and_stay_nowhere() -> None:
    line = build([kernel(10, 10), op(5, 20), op(30, 30), op(40, 50)])
    assert line.wall_ns == [0, 15, 0, 10]


def test_overlapping_events_get_lanes_of_their_own() -> None:
    line = build([user(0, 50, "a"), user(20, 80, "b"), user(30, 90, "c"), user(85, 95, "d")])
    assert line.lane == [0, 1, 2, 0]
    assert line.parent == [-1] * 4


def test_threads_that_compute_share_a_moment_and_frames_do_not() -> None:
    frame = span(0, 100, "objective")
    one, other = kernel(10, 60, thread=WORKER), kernel(40, 90, thread=WORKER + 1)
    line = build([frame, one, other])
    # 10 to 40: one; 40 to 60: both; 60 to 90: other; the frame has what is left.
    assert line.wall_ns == [20, 40, 40]
    assert line.self_ns == [100, 50, 50]
    # Waiting is no frame: a thread that waits for data while another computes does wait.
    assert build([wait(0, 10), kernel(0, 10, thread=WORKER)]).wall_ns == [5, 5]


@st.composite
def nested(draw: st.DrawFn) -> list[Event]:
    """Events of up to three threads, properly nested in each, in the order in which they end."""
    events: list[Event] = []

    def fill(low: int, high: int, thread: int, depth: int) -> None:
        at = low
        while at < high and draw(st.booleans()):
            start = draw(st.integers(at, high))
            end = draw(st.integers(start, high))
            if depth < 3:
                fill(start, end, thread, depth + 1)
            make = draw(st.sampled_from([op, span, user, wait]))
            events.append(make(start, end, thread=thread))
            at = end + 1

    for thread in range(draw(st.integers(1, 3))):
        fill(0, 60, thread, 0)
    return draw(st.permutations(events)) if draw(st.booleans()) else events


@given(nested())
def test_the_owners_of_all_moments_add_up(events: list[Event]) -> None:
    line = build(events)
    moments = {t for start, end, *_ in events for t in range(start, end)}
    assert math.isclose(sum(line.wall_ns), len(moments))
    assert all(own >= 0 for own in line.wall_ns)
    assert all(0 <= own <= e[1] - e[0] for own, e in zip(line.self_ns, events, strict=True))
    for thread in {event[2] for event in events}:
        mine = [i for i, event in enumerate(events) if event[2] == thread]
        busy = {t for i in mine for t in range(events[i][0], events[i][1])}
        assert sum(line.self_ns[i] for i in mine) == len(busy)
    for i, parent in enumerate(line.parent):
        if parent >= 0:
            assert events[parent][2] == events[i][2]
            assert events[parent][0] <= events[i][0] <= events[i][1] <= events[parent][1]


@pytest.mark.parametrize(
    ("name", "mode", "kind", "written"),
    [
        ("logsumexp", "value", "read", 0),
        ("softmax", "out", "copy", 1),
        ("softmax", "inplace", "update", 1),
        ("softmax_vjp", "out", "copy", 1),
        ("cross_entropy", "value", "read", 0),
        ("cross_entropy", "out", "copy", 1),
        ("cross_entropy", "inplace", "update", 1),
        ("gather", "normalised", "read", 0),
    ],
)
def test_the_bytes_are_those_of_the_op_table(name: str, mode: str, kind: str, written: int) -> None:
    call = call_of(kernel(0, 1, name, mode=mode, shape=(3, 100, 7), dtype="float32"))
    assert call is not None
    work = work_of(call)
    assert (work.kind, work.written) == (kind, written * 300 * 7 * 4)
    assert work.bytes == OPS[name].model_bytes(300, 7, 4, mode)
    assert work.exps == 2100
    assert work.blocks == 5


def test_other_models() -> None:
    def work(event: Event) -> Work:
        call = call_of(event)
        assert call is not None
        return work_of(call)

    sgd = {"name": "sgd_update", "shape": (1000,), "exps": 0}
    assert work(kernel(0, 1, mode="plain", **sgd))[:5] == ("update", 8000, 4000, 0, 2000)
    assert work(kernel(0, 1, mode="momentum", **sgd))[:5] == ("update", 12000, 8000, 0, 4000)
    assert work(scan(0, 1, 50))[:5] == ("read", 400, 0, 0, 0)
    fresh = work(kernel(0, 1, mode="out", shape=(1, 1024, 1024), fresh=4 << 20))
    assert fresh.kind == "fresh"
    product = ("product", "linear_logits", (10, 20), np.dtype(np.float32), 2, "native", 30)
    assert work((0, 1, MAIN, 1, "kernel.linear_logits", product)).flops == 2 * 10 * 20 * 30


def test_rates_and_the_share_of_the_limit() -> None:
    nbytes = 2048 * 32000 * 4
    rows = rows_of(op(0, 20 * MS), kernel(5 * MS, 15 * MS))
    row = rows["kernel.cross_entropy [read]"]
    assert row.bytes == nbytes + 2048 * 8
    assert row.gbps == pytest.approx(row.bytes / 10e6)
    assert row.gflops == pytest.approx(3 * 2048 * 32000 / 10e6)
    # 65.5 million exps at 8 G/s take longer than 262 MB at 40 GB/s.
    assert row.bound_by == "exp"
    assert row.limit_share == pytest.approx(2048 * 32000 / 8e9 / 0.010)
    assert rows["cross_entropy"].limit_share == pytest.approx(row.limit_share / 2)
    assert rows["cross_entropy"].gbps == pytest.approx(row.gbps / 2)
    assert (row.threads, row.backend, row.isa, row.blocks) == ("2", "native", "avx512", "32")
    half = rows_of(kernel(0, 10 * MS, dtype="float16", mode="inplace"))["kernel.cross_entropy [update]"]
    assert half.bound_by == "exp"
    double = rows_of(kernel(0, 10 * MS, dtype="float64", exps=0))["kernel.cross_entropy [read]"]
    assert double.bound_by == "read"
    assert double.limit_share == pytest.approx((2 * nbytes + 2048 * 8) / 40e9 / 0.010)


def test_limits_of_other_thread_counts_are_missing_and_said_to_be() -> None:
    made = analysis(kernel(0, MS, threads=1), limits=LIMITS)
    text = report(made)
    assert "% of limit" not in text
    assert "not been measured for 1 thread: fastnll roofline --threads 1 " in text
    assert Limits(None).note() is None
    assert "% of limit" in report(analysis(kernel(0, 20 * MS), limits=LIMITS))


def test_the_cached_limits_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnll.profiling.work.load", lambda threads: LIMITS if threads == 2 else None)
    monkeypatch.setattr("fastnll.profiling.work.load_or_measure", lambda threads: LIMITS)
    assert (Limits("cached").of(2), Limits("cached").of(1), Limits("measure").of(1)) == (LIMITS, None, LIMITS)


def test_shares_of_the_clock_add_up_to_it() -> None:
    rows = rows_of(wait(0, 10 * MS), op(20 * MS, 50 * MS), kernel(30 * MS, 45 * MS), user(60 * MS, 80 * MS))
    assert sum(row.wall_share for row in rows.values()) == pytest.approx(1)
    assert rows["(outside fastnll)"].wall_share == pytest.approx(0.4)
    made = analysis(wait(0, 10 * MS), op(20 * MS, 50 * MS), user(60 * MS, 80 * MS))
    assert (made.waiting, made.outside) == pytest.approx((0.01, 0.06))


def test_shapes_apart() -> None:
    from fastnll.profiling.averages import averages

    made = analysis(op(0, 9), kernel(1, 2, shape=(1, 4, 8)), op(10, 29), kernel(11, 12, shape=(2, 3, 8)))
    together, apart = averages(made), averages(made, by_shapes=True)
    assert [row.count for row in together if row.key == "cross_entropy"] == [2]
    assert [row.input_shapes for row in together if row.key == "cross_entropy"] == ["4 x 8 float32, 2 x 3 x 8 float32"]
    assert sorted(row.input_shapes for row in apart if row.key == "cross_entropy") == [
        "2 x 3 x 8 float32",
        "4 x 8 float32",
    ]


def test_the_table_leaves_empty_columns_out_and_says_what_it_cut() -> None:
    from fastnll.profiling.averages import averages

    text = averages(analysis(*(user(i, i + 1, f"block {i}") for i in range(9)))).table(row_limit=4)
    assert "GB/s" not in text and "Faults" not in text
    assert text.splitlines()[-1] == "... and 6 more rows; row_limit=-1 shows all"
    long = averages(analysis(user(0, 1, "x" * 90))).table(max_name_column_width=20)
    assert "x" * 17 + "..." in long and "x" * 18 not in long


def test_page_faults_are_priced_by_the_size_of_their_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = FaultCost(small=1e-6, huge=1e-4)
    assert lost(0, 0, cost) == 0
    assert lost(100, 100 * 4096, cost) == pytest.approx(1e-4)
    assert lost(100, 100 << 21, cost) == pytest.approx(1e-2)
    assert lost(100, 100 << 21, FaultCost(small=1e-6, huge=None)) == pytest.approx(1e-4)
    assert lost(5, 0, FaultCost(None, None)) == 0
    monkeypatch.setattr(faults, "fault_cost", lambda: cost)
    huge = kernel(0, MS, mode="out", fresh=262_144_000, usage=(125, 0, 0, 0, 0))
    made = analysis(huge, faults=1000)
    assert summary(made)["faults"] == pytest.approx(125e-4 + 1000e-6)
    assert summary(made)["minor_faults"] == 1125


def test_the_price_is_measured() -> None:
    cost = faults.fault_cost()
    assert cost.small is None or 0 <= cost.small < 1e-2


def test_trimming_keeps_what_is_known() -> None:
    made = recording(kernel(30, 40, usage=(7, 0, 0, 0, 0)), wall=100, faults=500)
    assert made.minor_faults == 507
    trimmed = made.trimmed()
    assert (trimmed.windows, trimmed.minor_faults) == ([(30, 40)], 7)
    assert recording(kernel(30, 40), wall=100, steps=2, faults=3).trimmed().minor_faults == 6
    assert Recording(windows=[(0, 5)]).trimmed().windows == [(0, 5)]


def test_an_empty_recording_has_a_report() -> None:
    assert "0 events" in report(analysis(wall=0))


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "3", "PMI_SIZE": "4"}, (3, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "1"}, (0, 1)),
        ({"RANK": "one", "WORLD_SIZE": "2"}, (0, 1)),
    ],
)
def test_the_launcher_says_the_rank(environment: dict[str, str], rank: tuple[int, int]) -> None:
    assert detect_rank(environment) == rank
