"""The two pictures of the README, from a run: how long others take, and how much memory. SVG, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastnll.bench.report_html_charts import WIDE, marker, plain, rows_of_dots
from fastnll.errors import DataError

__all__ = ["draw_pictures"]

# An image on somebody's page has no style but its own.
_STYLE = """
svg { --paper: #ffffff; --ink: #1b1d22; --line: #d9dce3;
  --c0: #0061a8; --c1: #b8470b; --c2: #00795a; --c3: #a04080; --c4: #8a6d00; --c5: #2f8bc4; --c6: #6b4fa3;
  --c7: #555b66 }
@media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #e6e8ec; --line: #30363d;
  --c0: #62b5f5; --c1: #f79a5e; --c2: #3cc9a0; --c3: #e58fc8; --c4: #e0c04a; --c5: #9fd3f7; --c6: #b9a4ec;
  --c7: #b4bac6 } }
text { fill: var(--ink); font: 12px system-ui, sans-serif } .x { text-anchor: middle } .y { text-anchor: end }
.title { font-weight: 600; font-size: 14px } .grid { stroke: var(--line); fill: none }
.mark { stroke: var(--ink); stroke-dasharray: 5 4; fill: none } .paper { fill: var(--paper) }
"""
_STYLE += "".join(f".c{i} {{ fill: var(--c{i}); stroke: var(--c{i}) }} " for i in range(8))
_TOP = 62
_LABELS = {
    "cross_entropy": "loss",
    "cross_entropy_value_and_grad": "loss and gradient",
    "linear_cross_entropy": "head's loss",
    "linear_cross_entropy_value_and_grad": "head's gradients",
}
_MODES = {"value": "", "inplace": ", in place", "out": ", out=", "fresh": ", new memory"}
# fastnll's own other backends say little to who compares it with something else.
_PEERS = {"scipy": "SciPy", "torch": "PyTorch", "jax": "JAX", "numpy": "NumPy", "sklearn": "scikit-learn",
          "torch.compile": "torch.compile"}  # fmt: skip


def draw_pictures(run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write ``speed.svg`` and, where the run has it, ``memory.svg``.

    Parameters
    ----------
    run : dict
        As `fastnll.bench.report.run_dict` makes it, with ``memory`` from `fastnll.bench.memory`.
    folder : path
        Made if it is not there.

    Returns
    -------
    list of Path

    Raises
    ------
    DataError
        If the run has no case in which fastnll and a peer took part.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # All of them in both pictures, though some be empty: a library's colour and shape come from its place.
    speed, memory = ({name: dict[str, float]() for name in ("fastnll", *_PEERS.values())} for _ in range(2))
    labels = {}
    for case in run["cases"]:
        if case["op"] in _LABELS and case["compared_with"] and case["group"] != "few-rows":
            labels[case["name"]] = _label(case["op"], case["shape"], case["dtype"], case["mode"])
            for peer, name in _PEERS.items():
                if peer in case["contenders"]:
                    speed[name][labels[case["name"]]] = case["contenders"][peer]["times_slower"]
    if not any(speed.values()):
        raise DataError("run: expected cases in which fastnll and a peer took part, got none; run with --peers")
    note = f"{run['machine']['cpu']}, {run['machine']['threads']} threads, {run['date'][:10]}"
    title = "How many times longer the others take"
    files = [_write(folder / "speed.svg", title, list(labels.values()), speed, x=note, mark=1.0)]
    for row in run.get("memory") or []:
        who = "fastnll" if row["contender"] == "native" else _PEERS.get(row["contender"])
        if who and "peak_bytes" in row:
            op, shape, dtype, mode = row["case"].split("-")
            label = _label(op, shape.split("x"), dtype, mode)
            memory[who][label] = max(row["peak_bytes"], 4096) / 1e6
    if any(memory.values()):
        rows = list(dict.fromkeys(label for row in memory.values() for label in row))
        title = "Peak memory of one call beyond its inputs, in MB"
        files.append(_write(folder / "memory.svg", title, rows, memory, x="MB", mark=None))
    return files


def _label(op: str, shape: Sequence[Any], dtype: str, mode: str) -> str:
    return f"{_LABELS[op]}, {' x '.join(map(str, shape))} {dtype}{_MODES[mode]}"


def _write(
    path: Path,
    title: str,
    rows: Sequence[str],
    series: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    mark: float | None,
) -> Path:
    height, body = rows_of_dots(rows, series, x=x, show=plain, mark=mark, top=_TOP)
    across = 14.0
    legend = []
    for i, name in enumerate(series):
        if not series[name]:
            continue
        legend.append(marker(i, across, 42, name) + f'<text x="{across + 10}" y="46">{escape(name)}</text>')
        across += 34 + 7.2 * len(name)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height:g}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style><rect class="paper" width="{WIDE}" height="{height:g}"/>'
        f'<text class="title" x="8" y="20">{escape(title)}</text>{"".join(legend)}{"".join(body)}</svg>\n',
        encoding="utf-8",
    )
    return path
