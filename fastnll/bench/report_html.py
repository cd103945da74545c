"""A run of the benchmarks as one HTML page: tables and charts inside, nothing fetched from anywhere."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastnll.bench.cases import GROUPS
from fastnll.bench.contenders import CONTENDERS
from fastnll.bench.report import left_out_lines, peer_columns
from fastnll.bench.report_html_charts import Series, dots, lines, plain
from fastnll.bench.report_html_page import frame, section, table
from fastnll.bench.report_html_sections import accuracy, end_to_end, memory

__all__ = ["html_report", "write_report"]

Cases = list[dict[str, Any]]
_SPEED = {"cross_entropy": "the loss", "cross_entropy_value_and_grad": "loss and gradient"}
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_MODES = {
    "value": "value",
    "inplace": "gradient over the logits",
    "out": "into an array that exists",
    "fresh": "into new memory",
}
# A share far above 1 means that the limit met a slow moment: drawn at the edge.
_EDGE = 1.3
# More cases than this have no place in one chart.
_MOST_ROWS = 40


def write_report(run: dict[str, Any], path: str | Path) -> None:
    """Write the page of a run.

    Parameters
    ----------
    run : dict
        As `fastnll.bench.report.run_dict` makes it; ``memory`` and ``end_to_end`` may be missing.
    path : path
        Written beside and renamed, so that a reader never sees half a page.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    beside = Path(f"{path}.part")
    beside.write_text(html_report(run), encoding="utf-8")
    os.replace(beside, path)


def html_report(run: dict[str, Any]) -> str:
    """Return the page of a run as text.

    Examples
    --------
    >>> machine = {"cpu": "a <fast> one", "threads": 2, "system": "Linux", "versions": {"numpy": "2"}}
    >>> run = {"date": "2026-01-01T00:00", "machine": machine, "roofline": None, "cases": [], "accuracy": []}
    >>> page = html_report(run)
    >>> "a &lt;fast&gt; one" in page, "a <fast> one" in page, "http" in page
    (True, False, False)
    """
    machine, cases = run["machine"], run["cases"]
    chosen = f"; backend {machine['backend']}" if machine.get("backend") else ""
    chosen += f", instruction set {machine['isa']}" if machine.get("isa") else ""
    lead = [
        f"{machine['cpu']}, {machine['threads']} threads, {machine['system']}{chosen}. {run['date']}.",
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "Every contender's result was checked against float64 before its time counted; contenders took turns in one "
        "process; numbers are medians over the rounds, ratios are taken within rounds.",
    ]
    parts = (
        ("speed", "Speed-up", _speed(cases)),
        ("limit", "Share of the machine's limit", _shares(cases)),
        ("accuracy", "Accuracy", accuracy(run["accuracy"])),
        ("memory", "Memory", memory(run.get("memory") or [])),
        ("end-to-end", "End to end", end_to_end(run.get("end_to_end") or [])),
        ("cases", "Every case", _cases(cases)),
        ("machine", "The machine", _machine(run)),
    )
    sections = [(name, title, html) for name, title, html in parts if html]
    return frame("fastnll benchmark", lead, sections, json.dumps(run, separators=(",", ":")))


def _main(case: dict[str, Any]) -> dict[str, Any] | None:
    entry: dict[str, Any] | None = case["contenders"].get(case["compared_with"] or "")
    return entry


def _classes(case: dict[str, Any]) -> int:
    return 1 if case["op"] == "sgd_update" else int(case["shape"][case["axis"]])


def _mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs))


def _by(cases: Cases, key: Callable[[dict[str, Any]], Any]) -> dict[Any, Cases]:
    found: dict[Any, Cases] = {}
    for case in cases:
        found.setdefault(key(case), []).append(case)
    return found


def _speed(cases: Cases) -> str:
    # Calls on a handful of numbers and rows too few to share out are another question; they are in the table.
    cases = [case for case in cases if _main(case) and case["group"] not in ("call", "isa", "few-rows")]
    charts = []
    for op, what in _SPEED.items():
        for dtype in _DTYPES:
            here = [case for case in cases if case["op"] == op and case["dtype"] == dtype and case["axis"] == -1]
            by_classes = dict(sorted(_by(here, _classes).items()))
            series = [Series(peer, _ratios(by_classes, peer)) for peer in peer_columns(here)]
            # One V is no curve: it is a row of the chart by dtype.
            if len(by_classes) > 1 and any(one.points for one in series):
                title = f"{what[0].upper()}{what[1:]}, {dtype}"
                marks = {1.0: "fastnll"}
                charts.append(lines(title, series, x="classes V", y="times as long as fastnll", marks=marks))
    rows = [f"{what}, {dtype}" for what in _SPEED.values() for dtype in _DTYPES]
    summary: dict[str, dict[str, float]] = {peer: {} for peer in peer_columns(cases)}
    for op, what in _SPEED.items():
        for dtype in _DTYPES:
            here = [case for case in cases if case["op"] == op and case["dtype"] == dtype]
            for peer, row in summary.items():
                ratios = [case["contenders"][peer]["times_slower"] for case in here if peer in case["contenders"]]
                if ratios:
                    row[f"{what}, {dtype}"] = _mean(ratios)
    there = [row for row in rows if any(row in values for values in summary.values())]
    if not there:
        return ""
    charts.append(dots("By dtype, geometric mean over all V", there, summary, x="times as long as fastnll", mark=1.0))
    text = "How many times longer the others take: above 1, fastnll is faster. Where a peer cannot write in place, its "
    text += "time for a new array is compared; points are geometric means over the modes of one V."
    return section("speed", "Speed-up", text, f'<div class="charts">{"".join(charts)}</div>')


def _ratios(by_classes: dict[int, Cases], peer: str) -> list[tuple[float, float, str]]:
    points = []
    for v, cases in by_classes.items():
        ratios = [case["contenders"][peer]["times_slower"] for case in cases if peer in case["contenders"]]
        if ratios:
            points.append((float(v), _mean(ratios), f"{peer}, V = {v}: {_mean(ratios):.3g} times"))
    return points


def _shares(cases: Cases) -> str:
    shown = [case for case in cases if (main := _main(case)) and main["share_of_limit"]]
    if not shown:
        return ""
    charts = []
    curves = [case for case in shown if case["group"] not in ("call", "few-rows", "isa") and case["op"] != "sgd_update"]
    for dtype in _DTYPES:
        here = sorted((case for case in curves if case["dtype"] == dtype), key=_classes)
        series = [
            Series(name, [_share_point(case) for case in here if case["mode"] == mode], joined=False)
            for mode, name in _MODES.items()
        ]
        if len({_classes(case) for case in here}) > 3:
            marks = {100.0: "the limit"}
            charts.append(lines(dtype, series, x="classes V", y="% of the limit that binds", y_log=False, marks=marks))
    if len(shown) <= _MOST_ROWS:
        shares = {_label(case): _share_point(case)[1] for case in shown}
        rows = dots("By case", list(shares), {"fastnll": shares}, x="% of the limit that binds", log=False, mark=100.0)
        charts.append(rows)
    text = "The limit is the slower of two: moving every array once through memory, and one exp an element; both "
    text += (
        f"measured in the same rounds. Shares above {100 * _EDGE:.0f} % (the limit met a slow moment) are at the edge."
    )
    return section("limit", "Share of the machine's limit", text, f'<div class="charts">{"".join(charts)}</div>')


def _share_point(case: dict[str, Any]) -> tuple[float, float, str]:
    share = (_main(case) or {})["share_of_limit"]
    tip = f"{_label(case)}: {100 * share:.0f} % of {case['limit']}"
    return float(_classes(case)), 100 * min(share, _EDGE), tip


def _label(case: dict[str, Any]) -> str:
    return f"{case['op']} {' x '.join(map(str, case['shape']))} {case['dtype']} {case['mode']}"


def _cases(cases: Cases) -> str:
    parts = []
    for group, here in _by(cases, lambda case: case["group"]).items():
        peers = peer_columns(here)
        rows = []
        for case in here:
            main = _main(case)
            if main is None:
                rows.append([_label(case), "left out", *[""] * (3 + len(peers))])
                continue
            share = main["share_of_limit"]
            worst = max((e["worst"] for e in main["error_ulp"].values()), default=0.0)
            cells = [_label(case), f"{plain(main['seconds'] * 1e6)} us", f"{main['gb_per_s']:.1f}"]
            cells += [f"{100 * share:.0f} % ({case['limit']})" if share else "", f"{worst:.1f}"]
            rows.append(cells + [_slower(case, peer) for peer in peers])
        heads = ["case", "time", "GB/s", "of the limit", "worst ulp", *(f"x {peer}" for peer in peers)]
        parts.append(f"<h3>{group}</h3>" + table(GROUPS.get(group, group), heads, rows))
    text = "x: how many times longer the other takes; * it allocates its result where the case does not; ! left out. "
    text += "; ".join(f"{name}: {CONTENDERS[name].title}" for name in peer_columns(cases)) + "."
    return section("cases", "Every case", text, *parts) if parts else ""


def _slower(case: dict[str, Any], peer: str) -> str:
    entry = case["contenders"].get(peer)
    if entry is None:
        return "!" if peer in case["left_out"] else ""
    return f"{entry['times_slower']:.3g}" + ("" if entry["mode"] == case["mode"] else "*")


def _machine(run: dict[str, Any]) -> str:
    parts = []
    if run["roofline"]:
        from fastnll.profiling import CEILINGS

        rows = []
        for name, rate in run["roofline"]["rates"].items():
            label, unit, factor = CEILINGS.get(name, (name, "/s", 1.0))
            rows.append([label, f"{rate['median'] * factor:.1f}", f"{rate['best'] * factor:.1f}", unit])
        parts.append(table("measured limits of this machine", ["limit", "median", "best", "unit"], rows))
    facts = [[name, str(value)] for name, value in run["machine"].items() if name != "versions"]
    parts.append(table("facts", ["fact", "value"], facts))
    gone = [line.partition(": ") for line in left_out_lines(run["cases"], {})]
    gone += [(f"{row['contender']}, {row.get('case') or row['job']}", "", row["left_out"]) for row in _absent(run)]
    if gone:
        parts.append(table("left out, and why", ["who", "why"], [[who, why] for who, _, why in gone]))
    return section("machine", "The machine", "", *parts)


def _absent(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for key in ("memory", "end_to_end") for row in run.get(key) or [] if "left_out" in row]
