"""A run of the benchmarks as a picture: speed-up over the peers by V, and the share of the machine's limit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fastnll.bench.report import peer_columns
from fastnll.profiling import Roofline
from fastnll.profiling.picture import Point, draw_roofline

__all__ = ["draw_run"]

_OPS = {
    "value": ("cross_entropy", "tab:blue"),
    "value + grad": ("cross_entropy_value_and_grad", "tab:orange"),
    "softmax": ("softmax", "tab:green"),
    "log_softmax": ("log_softmax", "tab:red"),
    "logsumexp": ("logsumexp", "tab:purple"),
}
_MARKERS = {"float32": "o", "float64": "s", "bfloat16": "^", "float16": "v"}
_FASTNLL = ("native", "native-1t", "numba", "reference")


def draw_run(run: dict[str, Any], path: str | Path) -> list[Path]:
    """Draw a run, as `fastnll.bench.report.run_dict` describes it.

    Parameters
    ----------
    run : dict
    path : path
        Such as ``bench.png``. Where the run has a roofline, a second picture ``bench-roofline.png`` marks the kernels
        below the machine's limits.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        for name, panel in zip(("value", "value + grad"), axes[0], strict=True):
            _draw_speed_up(panel, run["cases"], name)
        _draw_shares(axes[1][0], run["cases"])
        _draw_throughput(axes[1][1], run["cases"])
        machine = run["machine"]
        figure.suptitle(f"{machine['cpu']}, {machine['threads']} threads, {run['date'][:10]}", fontsize=9)
        figure.savefig(path, dpi=130)
    files = [path]
    if run["roofline"] is not None:
        second = path.with_name(f"{path.stem}-roofline{path.suffix}")
        files.append(draw_roofline(Roofline.from_dict(run["roofline"]), second, _points(run["cases"])))
    return files


def _classes(case: dict[str, Any]) -> int:
    return int(case["shape"][case["axis"]])


def _on_curve(case: dict[str, Any]) -> bool:
    """Whether a case is a point of a curve over V: many rows, class axis last, and not an odd neighbour (32003)."""
    return case["group"] in ("large", "small-v") and (_classes(case) <= 32 or _classes(case) % 8 == 0)


def _main(case: dict[str, Any]) -> dict[str, Any] | None:
    entry: dict[str, Any] | None = case["contenders"].get(case["compared_with"] or "")
    return entry


def _draw_speed_up(axes: Any, cases: list[dict[str, Any]], name: str) -> None:
    """Draw how many times longer each peer takes, by V; float32 cases with the class axis last and many rows."""
    op = _OPS[name][0]
    chosen = [
        case for case in cases if case["op"] == op and case["dtype"] == "float32" and _on_curve(case) and _main(case)
    ]
    for peer in peer_columns(chosen):
        points: dict[int, list[float]] = {}
        for case in chosen:
            if peer in case["contenders"]:
                points.setdefault(_classes(case), []).append(case["contenders"][peer]["times_slower"])
        sizes = sorted(points)
        # The geometric mean of the modes (in place, out=, fresh): peers do the same work in each.
        means = [math.exp(sum(map(math.log, points[v])) / len(points[v])) for v in sizes]
        axes.plot(sizes, means, "o--" if peer in _FASTNLL else "o-", ms=4, label=peer)
    axes.axhline(1, color="black", lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel="classes V", ylabel="times as long as fastnll")
    axes.set_title(f"{name}, float32: time of the others", fontsize=9)
    _plain_ticks(axes, [1, 2, 5, 10, 20, 50, 100, 200, 500])
    if chosen:
        axes.legend(fontsize=7)


def _plain_ticks(axes: Any, ticks: list[float]) -> None:
    low, high = axes.get_ylim()
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(low, high)
    axes.set_xticks([10, 100, 1000, 10_000, 100_000], ["10", "100", "1000", "10 k", "100 k"])
    axes.minorticks_off()


def _draw_shares(axes: Any, cases: list[dict[str, Any]]) -> None:
    for name, (op, colour) in _OPS.items():
        for dtype, marker in _MARKERS.items():
            shares = [
                (_classes(case), 100 * entry["share_of_limit"])
                for case in cases
                if case["op"] == op and case["dtype"] == dtype and (entry := _main(case)) and entry["share_of_limit"]
            ]
            if shares:
                sizes, values = zip(*((v, min(share, 129)) for v, share in shares), strict=True)
                axes.scatter(sizes, values, s=18, marker=marker, color=colour, label=f"{name}, {dtype}", alpha=0.8)
    axes.axhline(100, color="black", lw=0.8)
    axes.axhline(90, color="grey", lw=0.6, ls=":")
    # A share far above 1 means that the limit met a slow moment: it is drawn at the edge, not to scale.
    axes.set(xscale="log", xlabel="classes V", ylabel="% of the limit that binds (memory or exp)", ylim=(0, 130))
    axes.set_title("share of the limit, measured in the same rounds (at the edge: beyond)", fontsize=9)
    axes.set_xticks([10, 100, 1000, 10_000, 100_000], ["10", "100", "1000", "10 k", "100 k"])
    axes.minorticks_off()
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=6, ncols=2)


def _draw_throughput(axes: Any, cases: list[dict[str, Any]]) -> None:
    """Draw the bytes a second of every contender, in the value cases in float32."""
    chosen = [c for c in cases if c["op"] == "cross_entropy" and c["dtype"] == "float32" and c["group"] != "call"]
    names = dict.fromkeys(name for case in chosen for name in case["contenders"])
    for name in names:
        points = sorted(
            (_classes(case), case["contenders"][name]["gb_per_s"])
            for case in chosen
            if _on_curve(case) and name in case["contenders"]
        )
        if points:
            sizes, rates = zip(*points, strict=True)
            axes.plot(sizes, rates, "o-", ms=3, label=name)
    limits = sorted(
        (_classes(case), case["bytes_read"] / case["limits"][case["limit"]]["seconds"] * 1e-9)
        for case in chosen
        if _on_curve(case) and case["limit"]
    )
    if limits:
        sizes, rates = zip(*limits, strict=True)
        axes.plot(sizes, rates, "k--", lw=1, label="limit (memory or exp)")
        axes.legend(fontsize=7)
    axes.set(xscale="log", xlabel="classes V", ylabel="GB/s of the model", ylim=(0, None))
    axes.set_title("value, float32: bytes a second", fontsize=9)
    axes.set_xticks([10, 100, 1000, 10_000, 100_000], ["10", "100", "1000", "10 k", "100 k"])
    axes.minorticks_off()


def _points(cases: list[dict[str, Any]]) -> list[Point]:
    """Return a point for most dtypes and modes, at 32000 classes: more would cover each other."""
    kinds = {"value": "read", "inplace": "update", "out": "copy_nt"}
    points = []
    for case in cases:
        entry = _main(case)
        shown = case["op"].startswith("cross_entropy") and case["axis"] == -1 and _classes(case) == 32000
        if entry and shown and case["mode"] in kinds and case["dtype"] != "float16":
            intensity = case["exps"] / (case["bytes_read"] + case["bytes_written"])
            label = f"{case['dtype']} {case['mode']}"
            points.append(Point(intensity, case["exps"] / entry["seconds"], label, kinds[case["mode"]]))
    return points
