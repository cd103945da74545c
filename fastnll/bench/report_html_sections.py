"""Parts of the page that do not depend on the table of cases: accuracy, memory, end to end."""

from __future__ import annotations

from typing import Any

from fastnll.bench.report_html_charts import dots, plain
from fastnll.bench.report_html_page import section, table

__all__ = ["accuracy", "end_to_end", "memory"]


def accuracy(rows: list[dict[str, Any]]) -> str:
    """Return the part on errors against float64; nothing without rows."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row["errors"]))
    labels = [f"{row['inputs']}, {row['quantity']}" for row in rows]
    # An error of zero has no place on a logarithmic axis: a hundredth of a unit stands for it.
    worst = {
        name: {
            label: max(row["errors"][name]["worst"], 0.01)
            for label, row in zip(labels, rows, strict=True)
            if name in row["errors"]
        }
        for name in names
    }
    chart = dots("Worst error", labels, worst, x="units in the last place of float32", mark=1.0)
    cells = [
        [label, *(_error(row["errors"].get(name)) for name in names)] for label, row in zip(labels, rows, strict=True)
    ]
    text = "Against float64, on the same float32 inputs; losses a row, gradients of the sum of the losses."
    listing = table("worst error / root mean square, in units in the last place", ["inputs, quantity", *names], cells)
    return section("accuracy", "Accuracy", text, f'<div class="charts">{chart}</div>', listing)


def _error(error: dict[str, float] | None) -> str:
    return "" if error is None else f"{error['worst']:.3g} / {error['rms']:.2g}"


def _bytes(count: float) -> str:
    return f"{plain(count)}B" if count >= 1000 else f"{count:.0f} B"


def memory(rows: list[dict[str, Any]]) -> str:
    """Return the part on peak memory, from rows of `fastnll.bench.memory`; nothing without any."""
    measured = [row for row in rows if "peak_bytes" in row]
    if not measured:
        return ""
    labels = list(dict.fromkeys(row["case"] for row in measured))
    short = {
        label: label.replace("cross_entropy_value_and_grad", "with gradient").replace("-", " ") for label in labels
    }
    peaks: dict[str, dict[str, float]] = {}
    for row in measured:
        # Below a page nothing was touched.
        peaks.setdefault(row["contender"], {})[short[row["case"]]] = max(row["peak_bytes"], 4096)
    chart = dots("Peak memory of one call, beyond its inputs", list(short.values()), peaks, x="bytes", show=_bytes)
    cells = [
        [
            f"{row['case']}, {row['contender']}",
            row["mode"],
            _bytes(row["peak_bytes"]),
            f"{row['peak_bytes'] / row['logits_bytes']:.2g}",
        ]
        for row in measured
    ]
    heads = ["case, contender", "result", "peak", "times the logits"]
    text = (
        "How much a process of its own grew at most during one call, results included, after a call on a small shape."
    )
    listing = table("peak memory, beyond the inputs", heads, cells)
    return section("memory", "Memory", text, f'<div class="charts">{chart}</div>', listing)


def end_to_end(rows: list[dict[str, Any]]) -> str:
    """Return the part on training, from rows of `fastnll.bench.end_to_end`; nothing without any."""
    measured = [row for row in rows if "tokens_per_second" in row]
    if not measured:
        return ""
    rates: dict[str, dict[str, float]] = {}
    for row in measured:
        rates.setdefault(row["contender"], {})[row["job"]] = row["tokens_per_second"]
    jobs = list(dict.fromkeys(row["job"] for row in measured))
    chart = dots("Training a neural n-gram model", jobs, rates, x="tokens a second")
    cells = []
    for row in measured:
        ours = rates.get("native", {}).get(row["job"])
        ratio = f"{ours / row['tokens_per_second']:.2f}" if ours else ""
        name = f"{row['job']}, {row['contender']}"
        cells.append([name, f"{row['tokens_per_second']:,.0f}", ratio, f"{row['loss']:.6f}"])
    heads = ["job, contender", "tokens a second", "times as long as fastnll", "loss of the last compared step"]
    text = "Batches, forward, backward and update; the same tokens, initial parameters and batches on both sides."
    return section(
        "end-to-end", "End to end", text, f'<div class="charts">{chart}</div>', table("training", heads, cells)
    )
