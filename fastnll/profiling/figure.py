"""A profile as a picture: where a step goes, and how far below the machine's limits its kernels run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastnll.profiling.analysis import Analysis
from fastnll.profiling.averages import Average, averages
from fastnll.profiling.picture import Point, draw_roofs
from fastnll.profiling.table import duration

__all__ = ["draw_profile"]

_COLOURS = {
    "kernel": "tab:blue",
    "op": "tab:cyan",
    "part": "tab:green",
    "data": "tab:orange",
    "user": "tab:purple",
    "outside": "tab:gray",
}
_LABELS = {
    "kernel": "kernels",
    "op": "checks and allocation",
    "part": "model, objective, optimiser",
    "data": "waiting for data",
    "user": "blocks you named",
    "outside": "outside fastnll",
}
_ROWS = 12


def draw_profile(analysis: Analysis, path: str | Path) -> Path:
    """Draw the steps, or all that was recorded where none was marked, to a file whose suffix names the format.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    analysis = Analysis(analysis.recording.of_steps(), analysis.limits)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(12.5, 5), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.15, 1]})
        _draw_shares(left, analysis)
        _draw_roofline(right, analysis)
        figure.suptitle(_title(analysis), fontsize=9)
        figure.savefig(path, dpi=130)
    return Path(path)


def _title(analysis: Analysis) -> str:
    steps = len(analysis.recording.steps)
    text = f"{duration(1e6 * analysis.wall)} recorded"
    if steps:
        seconds = sum(analysis.step_seconds)
        text += f", {steps} steps of {duration(1e6 * seconds / steps)}"
        if analysis.tokens and seconds:
            text += f", {analysis.tokens / seconds:,.0f} tokens/s"
    return text + f", about {duration(1e6 * analysis.fault_seconds)} lost to page faults"


def _draw_shares(axes: Any, analysis: Analysis) -> None:
    """One bar a name: its own part of the clock, for a step where steps were marked."""
    rows = [row for row in averages(analysis).sorted("wall_time") if row.wall_time > 0]
    steps = len(analysis.recording.steps)
    shown, rest = rows[:_ROWS], rows[_ROWS:]
    if rest:
        more = Average(f"{len(rest)} more", "outside", wall_time=sum(row.wall_time for row in rest))
        more.wall_share = sum(row.wall_share for row in rest)
        shown.append(more)
    shown.reverse()
    used: dict[str, Any] = {}
    for y, row in enumerate(shown):
        bar = axes.barh(y, 100 * row.wall_share, color=_COLOURS[row.kind], height=0.7)
        used.setdefault(row.kind, bar)
        text = f" {duration(row.wall_time / max(steps, 1))}  {100 * row.wall_share:.1f}%"
        axes.text(100 * row.wall_share, y, text, va="center", fontsize=7.5)
    axes.set_yticks(range(len(shown)), [row.key if len(row.key) < 36 else row.key[:33] + "..." for row in shown])
    axes.set_xlim(0, 1.3 * max((100 * row.wall_share for row in shown), default=1.0))
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 100])
    axes.set_xlabel("% of the recorded time")
    axes.set_title("where a step goes (mean)" if steps else "where the time goes", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if used:
        order = [kind for kind in _LABELS if kind in used]
        axes.legend([used[kind] for kind in order], [_LABELS[kind] for kind in order], fontsize=7, loc="lower right")


def _draw_roofline(axes: Any, analysis: Analysis) -> None:
    """The limits for the threads that the kernels spent most time on, and a point a kernel and kind of traffic."""
    seconds: dict[int, float] = {}
    for kernel in analysis.kernels:
        seconds[kernel.call.threads] = seconds.get(kernel.call.threads, 0.0) + kernel.seconds
    threads = max(seconds, key=lambda n: seconds[n], default=0)
    limits = analysis.limits.of(threads) if threads else None
    if limits is None or not {"exp_f32", "exp_f64"} <= limits.rates.keys():
        axes.set_axis_off()
        text = "no kernel was recorded" if not threads else analysis.limits.note() or "no limits were asked for"
        axes.text(0.5, 0.5, text.replace(": ", ":\n"), ha="center", va="center", wrap=True, transform=axes.transAxes)
        return
    sums: dict[tuple[str, str, str], list[float]] = {}
    for kernel in analysis.kernels:
        if kernel.call.threads == threads and kernel.work.exps and kernel.seconds:
            key = (kernel.call.spec.name, str(kernel.call.dtype), kernel.work.kind)
            entry = sums.setdefault(key, [0.0, 0.0, 0.0, 0.0])
            entry[0] += kernel.work.exps
            entry[1] += kernel.work.bytes
            entry[2] += kernel.seconds
            entry[3] += 0.0 if kernel.bound is None else kernel.bound.seconds
    points = [
        Point(
            exps / nbytes,
            exps / time,
            f"{name} [{kind}] {dtype}: {100 * bound / time:.0f}%",
            "copy" if kind == "fresh" else kind,
        )
        for (name, dtype, kind), (exps, nbytes, time, bound) in sums.items()
    ]
    draw_roofs(axes, limits, points)
    words = "thread" if threads == 1 else "threads"
    axes.set_title(f"kernels below the limits for {threads} {words}: memory (slopes) or exp (flat)", fontsize=9)
