"""Charts as SVG text: lines over two axes, and dots in rows. Colours come from the page's style, light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["WIDE", "Series", "dots", "lines", "marker", "plain", "rows_of_dots"]

# Of rows of dots, which span the page; and of a chart with two axes, which has half of it.
WIDE = 720
_WIDTH, _HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 48
_ROW = 24
# Each series has a colour and a shape: either alone tells them apart.
_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "M-3.7,-3.7h7.4v7.4h-7.4Z",
    "M0,-4.8L4.6,3.6H-4.6Z",
    "M0,-5L5,0L0,5L-5,0Z",
    "M0,4.8L4.6,-3.6H-4.6Z",
    "M-4.5,-1.4h3.1v-3.1h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1Z",
)


@dataclass(frozen=True)
class Series:
    """Points (x, y, what the pointer shows) of one name; joined by a line, or not."""

    name: str
    points: Sequence[tuple[float, float, str]]
    joined: bool = True


@dataclass(frozen=True)
class _Axis:
    """From numbers to places."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(value) if self.log else value
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        if not self.log:
            step = 10.0 ** math.floor(math.log10(self.high - self.low))
            step = next(s for s in (step / 5, step / 2, step, 2 * step) if (self.high - self.low) / s <= 8)
            first = math.ceil(self.low / step)
            return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = math.log10(self.high / self.low)
        steps = (1, 2, 5) if decades < 3.2 else (1,)
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [m * 10.0**e for e in exponents for m in steps if self.low <= m * 10.0**e <= self.high]
        stride = max(1, math.ceil(len(found) / 9))
        return found[::stride]


def _axis(values: Sequence[float], start: float, end: float, *, log: bool, zero: bool = False) -> _Axis:
    low, high = min(values), max(values)
    if log:
        return _Axis(low / 1.25, high * 1.25, start, end, True)
    low = 0.0 if zero else low
    return _Axis(low, high + 0.05 * (high - low or 1.0), start, end, False)


def plain(value: float) -> str:
    """Return a number for a tick or a cell: three digits, k and M for thousands and millions.

    Examples
    --------
    >>> plain(128256), plain(0.25), plain(65_500_000), plain(2e-4)
    ('128 k', '0.25', '65.5 M', '0.0002')
    """
    if abs(value) >= 1e12:
        return f"{value:.0e}"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"


def marker(index: int, x: float, y: float, tip: str) -> str:
    """Return the mark of the series of that number at a place; `tip` is what the pointer shows."""
    shape = _SHAPES[index % len(_SHAPES)]
    return f'<path class="c{index % 8}" d="{shape}" transform="translate({x},{y})"><title>{escape(tip)}</title></path>'


def _legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<li><svg viewBox="-7 -7 14 14" aria-hidden="true"><path class="c{i % 8}" d="{_SHAPES[i % len(_SHAPES)]}"/>'
        f"</svg>{escape(name)}</li>"
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _figure(
    title: str, about: str, names: Sequence[str], height: float, body: Sequence[str], numbers: str, kind: str = "axes"
) -> str:
    label, width = escape(f"{title}. {about}"), WIDE if kind == "rows" else _WIDTH
    return (
        f'<figure class="{kind}"><figcaption>{escape(title)}</figcaption>{_legend(names)}'
        f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{label}">{"".join(body)}</svg>'
        f"{numbers}</figure>"
    )


def _numbers(head: str, rows: Sequence[str], columns: Sequence[str], cell: Callable[[str, str], str]) -> str:
    """Return the numbers behind a chart as a table that is folded away."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in (head, *columns))
    body = "".join(
        f'<tr><th scope="row">{escape(row)}</th>' + "".join(f"<td>{cell(row, name)}</td>" for name in columns) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<details><summary>the numbers</summary><div class="wide" tabindex="0">{table}</div></details>'


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    y_log: bool = True,
    marks: Mapping[float, str] | None = None,
) -> str:
    """Return a chart of series over a logarithmic x axis.

    Parameters
    ----------
    title : str
    series : sequence of Series
        At least one point in all.
    x, y : str
        What the axes show.
    y_log : bool
        Else the axis starts at 0.
    marks : dict of float to str, optional
        Horizontal lines: where, and what they mean.

    Examples
    --------
    >>> svg = lines("speed", [Series("torch", [(256, 5.0, "5 times"), (1000, 8.0, "8 times")])], x="V", y="times")
    >>> svg.count("<polyline"), svg.count("5 times")
    (1, 1)
    """
    points = [point for one in series for point in one.points]
    across = _axis([p[0] for p in points], _LEFT, _WIDTH - _RIGHT, log=True)
    up = _axis([p[1] for p in points] + list(marks or ()), _HEIGHT - _BOTTOM, _TOP, log=y_log, zero=True)
    body = []
    for tick in up.ticks():
        body.append(f'<path class="grid" d="M{_LEFT},{up(tick)}H{_WIDTH - _RIGHT}"/>')
        body.append(f'<text class="y" x="{_LEFT - 7}" y="{up(tick) + 4}">{plain(tick)}</text>')
    for tick in across.ticks():
        body.append(f'<path class="grid" d="M{across(tick)},{_TOP}V{_HEIGHT - _BOTTOM}"/>')
        body.append(f'<text class="x" x="{across(tick)}" y="{_HEIGHT - _BOTTOM + 17}">{plain(tick)}</text>')
    for value, meaning in (marks or {}).items():
        body.append(f'<path class="mark" d="M{_LEFT},{up(value)}H{_WIDTH - _RIGHT}"/>')
        body.append(f'<text class="note" x="{_WIDTH - _RIGHT - 4}" y="{up(value) - 5}">{escape(meaning)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    body.append(f'<text class="x" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}">{escape(x)}</text>')
    body.append(f'<text class="x" transform="translate(14,{middle}) rotate(-90)">{escape(y)}</text>')
    for i, one in enumerate(series):
        if one.joined and len(one.points) > 1:
            path = " ".join(f"{across(a)},{up(b)}" for a, b, _ in one.points)
            body.append(f'<polyline class="c{i % 8}" points="{path}"/>')
        body += [marker(i, across(a), up(b), tip) for a, b, tip in one.points]

    at: dict[tuple[str, str], list[str]] = {}
    for one in series:
        for a, b, _ in one.points:
            at.setdefault((f"{a:g}", one.name), []).append(f"{b:.3g}")
    rows = [f"{a:g}" for a in sorted({p[0] for p in points})]
    names = [one.name for one in series]
    numbers = _numbers(x, rows, names, lambda row, name: ", ".join(at.get((row, name), [])))
    return _figure(title, f"{y} by {x}", names, _HEIGHT, body, numbers)


def rows_of_dots(
    rows: Sequence[str],
    series: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    show: Callable[[float], str] = plain,
    log: bool = True,
    mark: float | None = None,
    top: int = _TOP,
) -> tuple[float, list[str]]:
    """Return the height and the SVG elements of such a chart, `WIDE` across and `top` from the upper edge."""
    # Twelve pixels high, a letter is about 6.6 wide.
    left = min(WIDE // 2 + 60, 16 + 6.6 * max(map(len, rows)))
    height = top + _ROW * len(rows) + _BOTTOM
    values = [value for row in series.values() for value in row.values()] + ([] if mark is None else [mark])
    across = _axis(values, left, WIDE - _RIGHT - 10, log=log, zero=True)
    body = []
    for tick in across.ticks():
        body.append(f'<path class="grid" d="M{across(tick)},{top}V{height - _BOTTOM}"/>')
        body.append(f'<text class="x" x="{across(tick)}" y="{height - _BOTTOM + 17}">{show(tick)}</text>')
    if mark is not None:
        body.append(f'<path class="mark" d="M{across(mark)},{top}V{height - _BOTTOM}"/>')
    for number, row in enumerate(rows):
        middle = top + _ROW * (number + 0.5)
        body.append(f'<path class="grid" d="M{left},{middle}H{WIDE - _RIGHT}"/>')
        body.append(f'<text class="y" x="{left - 8}" y="{middle + 4}">{escape(row)}</text>')
        for i, (name, by_row) in enumerate(series.items()):
            if row in by_row:
                body.append(marker(i, across(by_row[row]), middle, f"{name}, {row}: {show(by_row[row])}"))
    body.append(f'<text class="x" x="{(left + WIDE) / 2}" y="{height - 8}">{escape(x)}</text>')
    return height, body


def dots(
    title: str,
    rows: Sequence[str],
    series: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    show: Callable[[float], str] = plain,
    log: bool = True,
    mark: float | None = None,
) -> str:
    """Return a chart with one row a name and one dot a series.

    Parameters
    ----------
    title : str
    rows : sequence of str
        From top to bottom.
    series : dict of str to dict of str to float
        Series, and its values by row; positive where the axis is logarithmic.
    x : str
        What the values are.
    show : callable
        From a value to text.
    log : bool
    mark : float, optional
        A vertical line.

    Examples
    --------
    >>> dots("memory", ["value"], {"torch": {"value": 2e6}, "fastnll": {"value": 1e4}}, x="bytes").count("translate(")
    2
    """
    height, body = rows_of_dots(rows, series, x=x, show=show, log=log, mark=mark)
    numbers = _numbers("", rows, list(series), lambda r, n: show(series[n][r]) if r in series[n] else "")
    return _figure(title, x, list(series), height, body, numbers, "rows")
