"""The limits as a picture: the roofline of a softmax, and the bandwidth by the size of the arrays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastnll.profiling.roofline import Roofline

__all__ = ["Point", "draw_roofline", "draw_roofs"]

# Exps that a byte of traffic calls for: one an element, over the bytes an element moves.
_MARKS = (
    (1 / 16, "f64 grad"),
    (1 / 8, "f32 grad, f64 value"),
    (1 / 4, "f32 value, 16-bit grad"),
    (1 / 2, "16-bit value"),
)
_KINDS = (
    ("read", "read only", "tab:blue"),
    ("update", "update in place", "tab:green"),
    ("copy_nt", "copy, non-temporal", "tab:orange"),
    ("copy", "copy, regular stores", "tab:red"),
)


class Point(NamedTuple):
    """A measured kernel: exps a byte, exps a second, its name and the kind of traffic it is bounded by."""

    intensity: float
    exps_per_second: float
    label: str
    kind: str


def draw_roofline(limits: Roofline, path: str | Path, points: Iterable[Point] = ()) -> Path:
    """Draw the limits to a file whose suffix names the format.

    Parameters
    ----------
    limits : Roofline
    path : path
        Such as ``roofline.png``.
    points : iterable of Point
        Kernels to mark below the roofs.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        draw_roofs(left, limits, points)
        _draw_sweep(right, limits)
        figure.suptitle(f"{limits.machine.cpu}, {limits.threads} threads; probes: {limits.method}", fontsize=9)
        figure.savefig(path, dpi=130)
    return Path(path)


def draw_roofs(axes: Any, limits: Roofline, points: Iterable[Point] = ()) -> None:
    """Draw the roofs to axes, and measured kernels below them."""
    for point in points:
        colour = next((c for kind, _, c in _KINDS if kind == point.kind), "black")
        axes.plot(point.intensity, point.exps_per_second * 1e-9, "o", color=colour, markeredgecolor="black", zorder=3)
        axes.annotate(point.label, (point.intensity, point.exps_per_second * 1e-9), fontsize=7,
                      xytext=(4, -8), textcoords="offset points",
                      bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5})  # fmt: skip
    intensity = np.geomspace(1 / 64, 4, 200)
    single, double = limits.rates["exp_f32"].median, limits.rates["exp_f64"].median
    for kind, label, colour in _KINDS:
        if kind in limits.rates:
            rate = limits.rates[kind].median
            roof = np.minimum(intensity * rate, single)
            axes.plot(intensity, roof * 1e-9, color=colour, label=f"{label}: {rate * 1e-9:.0f} GB/s")
    axes.axhline(single * 1e-9, color="black", lw=1, label=f"exp float32: {single * 1e-9:.1f} G/s")
    axes.axhline(double * 1e-9, color="black", lw=1, ls="--", label=f"exp float64: {double * 1e-9:.1f} G/s")
    axes.set(xscale="log", yscale="log", xlabel="exps per byte moved", ylabel="10^9 exps per second")
    axes.set_title("what binds a softmax: memory (slopes) or exp (flat)", fontsize=9)
    bottom = axes.get_ylim()[0]
    for where, label in _MARKS:
        axes.axvline(where, color="grey", lw=0.6, ls=":")
        axes.text(where, bottom * 1.1, " " + label, rotation=90, va="bottom", ha="right", fontsize=7, color="grey")
    axes.set_xticks([1 / 64, 1 / 16, 1 / 4, 1, 4], ["1/64", "1/16", "1/4", "1", "4"])
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom, 2 * max(single, double) * 1e-9)
    axes.minorticks_off()
    axes.legend(fontsize=7, loc="upper left")


def _draw_sweep(axes: Any, limits: Roofline) -> None:
    for kind, label, colour in _KINDS:
        points = limits.sweep.get(kind, [])
        if points:
            sizes, rates = zip(*points, strict=True)
            axes.plot(np.array(sizes) / 2**20, np.array(rates) * 1e-9, "o-", ms=3, color=colour, label=label)
    if limits.machine.llc_bytes:
        axes.axvline(limits.machine.llc_bytes / 2**20, color="grey", lw=0.8, ls=":")
        axes.text(limits.machine.llc_bytes / 2**20, axes.get_ylim()[1], "last-level cache as reported ",
                  rotation=90, ha="right", va="top", fontsize=7, color="grey")  # fmt: skip
    axes.set(xscale="log", xlabel="MB in use", ylabel="GB/s, read + written", ylim=(0, None))
    axes.set_xticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1000"])
    axes.set_title("bandwidth by the bytes in use", fontsize=9)
    axes.legend(fontsize=7)
