"""The Chrome trace: what Perfetto asks of it, counters, ranks."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.profiling import merge_traces
from fastnll.profiling.trace import trace_dict
from tests.profiling.made import LIMITS, MS, WORKER, analysis, kernel, op, user


def complete(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def check_format(trace: dict[str, Any]) -> None:
    """The rules of the format: fields, types, and complete events of a track that nest."""
    json.dumps(trace, allow_nan=False)
    tracks: dict[tuple[int, int], list[dict[str, Any]]] = {}
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["ph"] == "M" and e["name"] == "thread_name"}
    for event in trace["traceEvents"]:
        assert event["ph"] in {"X", "M", "C"}
        assert type(event["pid"]) is int
        if event["ph"] == "X":
            assert type(event["tid"]) is int
            assert event["ts"] >= 0 and event["dur"] >= 0
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
        if event["ph"] == "C":
            assert all(isinstance(value, float | int) for value in event["args"].values())
    assert set(tracks) <= named
    for members in tracks.values():
        members.sort(key=lambda e: (e["ts"], -e["dur"]))
        open_until: list[float] = []
        for event in members:
            end = event["ts"] + event["dur"]
            while open_until and open_until[-1] <= event["ts"] + 1e-6:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 1e-6
            open_until.append(end)


def test_a_real_loop_with_threads(tmp_path: Path) -> None:
    x, targets = np.random.default_rng(0).standard_normal((300, 40)), np.arange(300) % 40

    def compute() -> None:
        for _ in range(5):
            with fn.record_function("inside"):
                fn.cross_entropy(x, targets, threads=1)

    with fn.profile(limits=None) as prof, fn.record_function("epoch"):
        for i in range(4):
            threads = [threading.Thread(target=compute, name=f"reader {n}") for n in range(2)]
            for thread in threads:
                thread.start()
            fn.cross_entropy_value_and_grad(x, targets)
            for thread in threads:
                thread.join()
            prof.step(loss=1.0 / (i + 1), tokens=300)
    path = prof.export_chrome_trace(tmp_path / "trace.json.gz")
    trace = json.loads(gzip.decompress(path.read_bytes()))
    check_format(trace)
    names = [event["name"] for event in complete(trace)]
    assert {"ProfilerStep#0", "ProfilerStep#3", "epoch", "inside", "cross_entropy", "kernel.cross_entropy"} <= set(
        names
    )
    # A step ends inside the named block that is around all of them: they must not share a track.
    steps = {e["tid"] for e in complete(trace) if e["cat"] == "step"}
    assert steps.isdisjoint(e["tid"] for e in complete(trace) if e["cat"] != "step")
    counters = [e for e in trace["traceEvents"] if e["ph"] == "C"]
    assert [e["args"]["loss"] for e in counters if e["name"] == "loss"] == [1.0, 0.5, 1 / 3, 0.25]
    assert all(e["args"]["tokens/s"] > 0 for e in counters if e["name"] == "tokens/s")
    rates = sorted((e["ts"], e["args"]["GB/s"]) for e in counters if e["name"] == "GB/s")
    assert max(rate for _, rate in rates) > 0
    assert rates[-1][1] == 0
    assert plain(tmp_path, prof) == trace


def plain(folder: Path, prof: fn.profile) -> Any:
    return json.loads(prof.export_chrome_trace(folder / "trace.json").read_text())


def test_arguments_of_a_kernel() -> None:
    trace = trace_dict(analysis(op(0, 20 * MS), kernel(5 * MS, 15 * MS, usage=(9, 0, 0, 0, 0)), limits=LIMITS))
    (event,) = [e for e in complete(trace) if e["cat"] == "kernel"]
    assert (event["ts"], event["dur"]) == (5000, 10000)
    assert event["args"]["shape"] == [1, 2048, 32000]
    assert event["args"]["GB/s"] == pytest.approx((2048 * 32000 * 4 + 2048 * 8) / 10e6)
    assert event["args"]["% of limit"] == pytest.approx(81.92)
    assert (event["args"]["bound by"], event["args"]["page faults"]) == ("exp", 9)


def test_overlapping_events_go_to_a_track_of_their_own() -> None:
    trace = trace_dict(analysis(user(0, 50, "a"), user(20, 80, "b"), user(60, 90, "c")))
    check_format(trace)
    assert len({e["tid"] for e in complete(trace)}) == 2


def test_rates_of_kernels_at_the_same_time_add_up() -> None:
    shape = (1, 1000, 1000)
    nbytes = 4_000_000 + 8000
    trace = trace_dict(
        analysis(kernel(0, 2 * MS, shape=shape), kernel(MS, 3 * MS, shape=shape, thread=WORKER), kernel(4 * MS, 5 * MS))
    )
    rates = [e["args"]["GB/s"] for e in trace["traceEvents"] if e["name"] == "GB/s"][:4]
    assert rates == pytest.approx([nbytes / 2e6, nbytes / 1e6, nbytes / 2e6, 0])


def test_losses_that_are_no_number_are_left_out() -> None:
    with fn.profile(limits=None) as prof:
        prof.step(loss=float("inf"))
        prof.step(loss=np.float32(1.5), tokens=np.int64(3))  # type: ignore[arg-type]
    trace = trace_dict(prof.analysis)
    check_format(trace)
    assert [e["args"]["loss"] for e in trace["traceEvents"] if e["name"] == "loss"] == [1.5]


def test_ranks_become_processes_on_one_clock(tmp_path: Path) -> None:
    paths = []
    for rank in (0, 1):
        with fn.profile(limits=None, rank=(rank, 2)) as prof, fn.record_function(f"work of {rank}"):
            fn.logsumexp(np.zeros(4))
        paths.append(prof.export_chrome_trace(tmp_path / f"{rank}.json{'.gz' * rank}"))
    merged = json.loads(merge_traces(paths, tmp_path / "all.json").read_text())
    check_format(merged)
    processes = {e["pid"]: e["args"]["name"] for e in merged["traceEvents"] if e["name"] == "process_name"}
    assert processes == {0: "fastnll rank 0 of 2", 1: "fastnll rank 1 of 2"}
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in complete(merged) if e["cat"] == "user"}
    # The second profile began after the first had ended.
    assert spans["work of 1"][0] > spans["work of 0"][1] > 0


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    with fn.profile(limits=None) as prof:
        fn.logsumexp(np.zeros(4))
    good = prof.export_chrome_trace(tmp_path / "good.json")
    other = tmp_path / "other.json"
    for text in ("{}", "[1]", "not json", '{"traceEvents": []}'):
        other.write_text(text)
        with pytest.raises(ValueError, match=r"other.json: expected a trace that a profile has written"):
            merge_traces([good, other], tmp_path / "out.json")
    with pytest.raises(ValueError, match=r"expected one file a rank, got rank 0 in .*good.json too"):
        merge_traces([good, good], tmp_path / "out.json")
    with pytest.raises(ValueError, match="expected at least one trace"):
        merge_traces([], tmp_path / "out.json")
    with pytest.raises(FileNotFoundError):
        merge_traces([tmp_path / "none.json"], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
