"""The training curve as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.errors import DataError

__all__ = ["plot_curve", "smoothed"]

_BATCH, _MEAN, _FLOOR, _GRID, _TEXT = "#b7cbe6", "#1f4e9c", "#c0392b", "#e3e3e3", "#333333"
_HELD_OUT = "#d17a00"


def smoothed(values: npt.ArrayLike, share: float = 0.1) -> npt.NDArray[np.float64]:
    """Means over windows that grow with the position, so that they look equally wide on a logarithmic axis.

    Parameters
    ----------
    values : array, shape (N,)
    share : float, default 0.1
        Value i becomes the mean of the values from ``i / (1 + share)`` to ``i * (1 + share)``, as far as there are any.
        The first few stay as they are.

    Examples
    --------
    >>> smoothed([4.0, 2.0, 0.0, 1.0], share=0.5).tolist()
    [4.0, 1.0, 1.0, 0.5]
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    places = np.arange(1, total.size)
    starts = np.minimum(np.ceil(places / (1 + share)).astype(np.int64), places) - 1
    ends = np.minimum(np.floor(places * (1 + share)).astype(np.int64), total.size - 1)
    means: npt.NDArray[np.float64] = (total[ends] - total[starts]) / (ends - starts)
    return means


def plot_curve(
    path: str | os.PathLike[str],
    tokens: Sequence[int],
    loss: Sequence[float],
    *,
    final: float | None = None,
    held_out: tuple[Sequence[int], Sequence[float]] | None = None,
    best: int | None = None,
    floor: float | None = None,
    floor_label: str = "bigram optimum",
    title: str = "",
) -> None:
    """Draw the loss over the tokens seen, as bits per token, into an image file.

    Parameters
    ----------
    path : path
        Its suffix chooses the format: .png, .svg, .pdf.
    tokens : sequence of int
        Predicted tokens seen at each step.
    loss : sequence of float
        Mean nats per token of each step's batch.
    final : float, optional
        Nats per token of the whole dataset at the end, drawn as a point.
    held_out : pair of sequences, optional
        Tokens seen, and nats per token of held-out data, at each of their evaluations.
    best : int, optional
        Which of these evaluations is marked as the best: its index.
    floor : float, optional
        Nats per token of a known optimum, drawn as a line.
    floor_label : str
    title : str

    Raises
    ------
    ImportError
        Without matplotlib.
    DataError
        Without a step to draw.

    Notes
    -----
    Tokens are on a logarithmic axis: most of the way down is in the first hundredth of a run. Drawn on a canvas of
    its own (Agg), so no window opens and no setting of the caller's pyplot is touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not len(loss):
        raise DataError(f"{path}: expected at least one step to draw, got none")
    x = np.asarray(tokens, dtype=np.float64)
    bits = np.asarray(loss, dtype=np.float64) / math.log(2)
    mean = smoothed(bits)
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(x, bits, color=_BATCH, linewidth=0.6, label="loss of each batch", zorder=2)
    axes.plot(x, mean, color=_MEAN, linewidth=1.8, label="mean over neighbouring batches", zorder=3)
    if floor is not None:
        label = f"{floor_label}: {floor / math.log(2):.4f}"
        axes.axhline(floor / math.log(2), color=_FLOOR, linewidth=1.3, linestyle=(0, (5, 3)), label=label, zorder=4)
    marks = [v / math.log(2) for v in (floor, final) if v is not None]
    if held_out is not None and len(held_out[1]):
        marks += _draw_held_out(axes, *held_out, best)
    if final is not None:
        name = "whole dataset at the end" if held_out is None else "training data with the final parameters"
        at = x[-1] if held_out is None or best is None else held_out[0][best]
        label = f"{name}: {final / math.log(2):.4f}"
        axes.plot(at, final / math.log(2), "o", color=_MEAN, markersize=6, label=label, zorder=5, clip_on=False)
    _style(axes, x, title)
    axes.set_ylim(*_limits(bits, mean, marks))
    figure.savefig(path)


def _draw_held_out(axes: Any, tokens: Sequence[int], loss: Sequence[float], best: int | None) -> list[float]:
    """Draw the line of the held-out data, and return the values that have to be inside the picture."""
    bits = [value / math.log(2) for value in loss]
    axes.plot(tokens, bits, "-", marker="o", color=_HELD_OUT, linewidth=1.8, markersize=3, label="held out", zorder=4)
    if best is not None:
        label = f"best held out: {bits[best]:.4f}"
        axes.plot(tokens[best], bits[best], "o", color=_HELD_OUT, markersize=9, fillstyle="none", label=label, zorder=6)
    finite = [value for value in bits if math.isfinite(value)]
    return [min(finite), max(finite)] if finite else []


def _limits(bits: Any, mean: Any, marks: list[float]) -> tuple[float, float]:
    # Batches scatter; the 1 % that lie farthest out would squeeze what the picture is about.
    low = min(float(np.quantile(bits, 0.01)), float(mean.min()), *marks) if marks else float(np.quantile(bits, 0.01))
    high = max(float(bits[0]), float(mean.max()), *marks) if marks else max(float(bits[0]), float(mean.max()))
    room = 0.06 * (high - low) or 0.1
    return low - room, high + room


def _style(axes: Any, x: Any, title: str) -> None:
    from matplotlib.ticker import EngFormatter

    if x[-1] > 10 * x[0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("predicted tokens seen")
    axes.set_ylabel("negative log-likelihood, bits per token")
    axes.set_title(title, loc="left", fontsize=11, color=_TEXT, pad=12, parse_math=False)
    axes.grid(True, which="major", color=_GRID, linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
