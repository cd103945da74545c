"""What a run of the benchmarks looks like: lines on a terminal, JSON, Markdown."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from fastnll.bench.accuracy import AccuracyRow
from fastnll.bench.contenders import OURS
from fastnll.bench.measure import CaseResult

__all__ = ["accuracy_table", "case_dict", "case_line", "header_line", "left_out_lines", "markdown", "run_dict"]

_WIDTHS = {"case": 55, "time": 10, "GB/s": 7, "limit": 10, "share": 6, "ulp": 9}


def _seconds(value: float) -> str:
    """Return a time with three digits.

    Examples
    --------
    >>> _seconds(0.0105), _seconds(2.1e-6)
    ('10.5 ms', '2.1 us')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def case_dict(result: CaseResult) -> dict[str, Any]:
    """Return one case as plain JSON values: the model, every contender's raw times, what was derived from them."""
    case, traffic = result.case, result.case.traffic()
    main = next((name for name in OURS if name in result.timings), None)
    contenders = {}
    for name, timing in result.timings.items():
        contenders[name] = {
            "seconds": timing.median,
            "rounds": timing.seconds,
            "calls_a_round": timing.number,
            "mode": result.modes[name],
            "gb_per_s": (traffic.read + traffic.written) / timing.median * 1e-9,
            "share_of_limit": result.share(name),
            "times_slower": timing.ratio_to(result.timings[main]) if main else None,
            "error_ulp": {output: {"worst": e.worst, "rms": e.rms} for output, e in result.errors[name].items()},
        }
    return {
        "name": case.name,
        "group": case.group,
        "op": case.op,
        "shape": list(case.shape),
        "features": case.features,
        "axis": case.axis,
        "dtype": case.dtype,
        "mode": case.mode,
        "bytes_read": traffic.read,
        "bytes_written": traffic.written,
        "exps": traffic.exps,
        "limit": result.binding(),
        "limits": {name: {"seconds": t.median, "rounds": t.seconds} for name, t in result.limits.items()},
        "compared_with": main,
        "contenders": contenders,
        "left_out": result.left_out,
    }


def run_dict(
    cases: Sequence[dict[str, Any]],
    accuracy: Iterable[AccuracyRow],
    machine: dict[str, Any],
    limits: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the whole run as plain JSON values.

    Parameters
    ----------
    cases : sequence of dict
        From `case_dict`.
    accuracy : iterable of AccuracyRow
    machine : dict
        Facts of the machine and the versions of everything.
    limits : dict, optional
        The roofline.
    """
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "roofline": limits,
        "cases": list(cases),
        "accuracy": [
            {
                "inputs": row.inputs,
                "quantity": row.quantity,
                "errors": {name: {"worst": e.worst, "rms": e.rms} for name, e in row.errors.items()},
                "left_out": row.left_out,
            }
            for row in accuracy
        ],
    }


def header_line(peers: Sequence[str]) -> str:
    """Return the heading of the table; one column for each contender that is compared with."""
    w = _WIDTHS
    return (
        f"{'case':<{w['case']}}{'time':>{w['time']}}{'GB/s':>{w['GB/s']}}{'limit':>{w['limit']}}{'share':>{w['share']}}"
        f"{'worst ulp':>{w['ulp'] + 2}}" + "".join(f"{name:>{max(8, len(name) + 2)}}" for name in peers)
    )


def case_line(case: dict[str, Any], peers: Sequence[str]) -> str:
    """Return one line of the table.

    Parameters
    ----------
    case : dict
        From `case_dict`.
    peers : sequence of str
        The columns of `header_line`. A number is how many times longer the peer takes; ``*`` marks a peer that
        allocates its result where the case does not, ``!`` one that was left out, ``-`` one that has no such op.
    """
    w, main = _WIDTHS, case["contenders"].get(case["compared_with"] or "")
    sizes = [*case["shape"], *([f"d{case['features']}"] if case.get("features") else [])]
    label = f"{case['op']} {'x'.join(map(str, sizes))} {case['dtype']} {case['mode']}"
    line = f"{label:<{w['case']}}"
    if main is None:
        return line + "  nothing of fastnll's own was admitted: see below"
    worst = max((e["worst"] for e in main["error_ulp"].values()), default=0.0)
    share = "-" if main["share_of_limit"] is None else f"{100 * main['share_of_limit']:.0f} %"
    line += (
        f"{_seconds(main['seconds']):>{w['time']}}{main['gb_per_s']:>{w['GB/s']}.1f}"
        f"{case['limit'] or '-':>{w['limit']}}{share:>{w['share']}}{worst:>{w['ulp'] + 2}.1f}"
    )
    for name in peers:
        width = max(8, len(name) + 2)
        entry = case["contenders"].get(name)
        if entry is None:
            line += f"{'!' if name in case['left_out'] else '-':>{width}}"
        else:
            line += f"{_ratio(entry['times_slower']) + ('*' if entry['mode'] != case['mode'] else ''):>{width}}"
    return line


def _ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def left_out_lines(cases: Iterable[dict[str, Any]], missing: dict[str, str]) -> list[str]:
    """Return who was left out and why: each kind of reason once, the first in full, with the number of cases."""
    found: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for name, reason in case["left_out"].items():
            found.setdefault((name, reason.partition(":")[0]), []).append(f"{reason} ({case['name']})")
    lines = [f"{name}: {reason}" for name, reason in missing.items()]
    for (name, _), reasons in found.items():
        lines.append(f"{name}: {reasons[0]}" + (f" and {len(reasons) - 1} more like it" if len(reasons) > 1 else ""))
    return lines


def accuracy_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the accuracy table as lines: worst / rms error in ulp, ``<`` at the smallest worst error."""
    names = list(dict.fromkeys(name for row in rows for name in row["errors"]))
    lines = [f"{'error in float32 ulp, worst / rms':<34}" + "".join(f"{name:>20}" for name in names)]
    for row in rows:
        smallest = min((e["worst"] for e in row["errors"].values()), default=0.0)
        line = f"{row['inputs'] + ', ' + row['quantity']:<34}"
        for name in names:
            e = row["errors"].get(name)
            text = "-" if e is None else f"{e['worst']:.3g} / {e['rms']:.2g}" + ("<" if e["worst"] == smallest else " ")
            line += f"{text:>20}"
        lines.append(line)
    failed = {f"{name}: {reason}" for row in rows for name, reason in row["left_out"].items()}
    return lines + [f"left out: {reason}" for reason in sorted(failed)]


def markdown(run: dict[str, Any]) -> str:
    """Return the run as a Markdown table, with the machine named: what the README shows."""
    cases = run["cases"]
    peers = peer_columns(cases)
    machine = run["machine"]
    heads = ["case", "time", "GB/s", "of the limit", *(f"× {name}" for name in peers)]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f"; {run['date'][:10]}.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for case in cases:
        main = case["contenders"].get(case["compared_with"] or "")
        if main is None:
            continue
        share = "" if main["share_of_limit"] is None else f"{100 * main['share_of_limit']:.0f} % ({case['limit']})"
        cells = [
            f"{case['op']} {' x '.join(map(str, case['shape']))} {case['dtype']}, {case['mode']}",
            _seconds(main["seconds"]),
            f"{main['gb_per_s']:.1f}",
            share,
        ]
        for name in peers:
            entry = case["contenders"].get(name)
            star = "" if entry is None or entry["mode"] == case["mode"] else "*"
            cells.append("" if entry is None else _ratio(entry["times_slower"]).rstrip("x") + star)
        lines.append("| " + " | ".join(cells) + " |")
    note = "× says how many times longer the other takes; * marks one that allocates its result where the case does not"
    lines += ["", note + "."]
    return "\n".join(lines)


def peer_columns(cases: Iterable[dict[str, Any]]) -> list[str]:
    """Return the contenders of a run in the order of the table, without the one they are compared with."""
    from fastnll.bench.contenders import CONTENDERS

    there = {name for case in cases for name in case["contenders"] if name != case["compared_with"]}
    return [name for name in CONTENDERS if name in there]
