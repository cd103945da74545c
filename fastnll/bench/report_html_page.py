"""What every report page has: its style, its tables, its frame. No script, no request to anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["frame", "section", "table"]

# Colours after Okabe and Ito, told apart with every kind of colour vision; lighter ones on a dark page.
_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1b1d22; --soft: #5c6270; --line: #d9dce3;
  --panel: #f3f4f6; --c0: #0061a8; --c1: #b8470b; --c2: #00795a; --c3: #a04080; --c4: #8a6d00; --c5: #2f8bc4;
  --c6: #6b4fa3; --c7: #555b66; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --ink: #e8e9ec; --soft: #a3a9b6; --line: #363b45;
  --panel: #1e2127; --c0: #62b5f5; --c1: #f79a5e; --c2: #3cc9a0; --c3: #e58fc8; --c4: #e0c04a; --c5: #9fd3f7;
  --c6: #b9a4ec; --c7: #b4bac6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; }
p { margin: .3rem 0 .8rem; max-width: 52rem; } .soft { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; list-style: none; }
a { color: var(--c0); } :focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.2rem;
  margin: .8rem 0; } figure.rows { grid-column: 1 / -1; max-width: 58rem; }
figure { margin: 0; padding: .8rem; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; }
figcaption { font-weight: 600; } figure > svg { width: 100%; height: auto; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .2rem 0 .4rem; padding: 0; list-style: none;
  font-size: .85rem; } .legend svg { width: .8rem; height: .8rem; margin-right: .3rem; vertical-align: -.08rem; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .x { text-anchor: middle; }
svg .y, svg .note { text-anchor: end; } svg .note { fill: var(--soft); }
svg .grid { stroke: var(--line); fill: none; } svg .mark { stroke: var(--ink); stroke-dasharray: 5 4; fill: none; }
svg polyline[class] { fill: none; stroke-width: 1.8; }
.c0 { fill: var(--c0); stroke: var(--c0); } .c1 { fill: var(--c1); stroke: var(--c1); }
.c2 { fill: var(--c2); stroke: var(--c2); } .c3 { fill: var(--c3); stroke: var(--c3); }
.c4 { fill: var(--c4); stroke: var(--c4); } .c5 { fill: var(--c5); stroke: var(--c5); }
.c6 { fill: var(--c6); stroke: var(--c6); } .c7 { fill: var(--c7); stroke: var(--c7); }
.wide { overflow-x: auto; } summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .22rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 500; } thead th { font-weight: 600; }
td.good { font-weight: 600; } code { background: var(--panel); padding: 0 .25rem; border-radius: 3px; }
@media print { details > div { display: block; } nav { display: none; } }
"""


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column names the rows; every cell is text.

    Examples
    --------
    >>> table("limits", ["limit", "GB/s"], [("read", "45 < 50")]).count("45 &lt; 50")
    1
    """
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    # A table wider than the screen scrolls on its own; with tabindex the keyboard can scroll it too.
    return (
        f'<div class="wide" role="region" aria-label="{escape(caption)}" tabindex="0"><table><caption>{escape(caption)}'
        f"</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def section(name: str, title: str, text: str, *parts: str) -> str:
    """Return a part of the page with a heading to link to; `text` is plain, `parts` are HTML."""
    paragraph = f'<p class="soft">{escape(text)}</p>' if text else ""
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{paragraph}{"".join(parts)}</section>'


def frame(title: str, lead: Sequence[str], sections: Sequence[tuple[str, str, str]], data: str) -> str:
    """Return the page.

    Parameters
    ----------
    title : str
    lead : sequence of str
        Paragraphs below the title, plain text.
    sections : sequence of (name, title, html)
        In order; the first two make the list of contents.
    data : str
        JSON, kept in the page for whoever wants the numbers behind it.
    """
    links = "".join(f'<li><a href="#{escape(name)}">{escape(text)}</a></li>' for name, text, _ in sections)
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in lead)
    # "<" never occurs unescaped inside the data: nothing in it can end the element.
    kept = data.replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>'
        f"<header><h1>{escape(title)}</h1>{paragraphs}</header>"
        f'<nav aria-label="contents"><ul>{links}</ul></nav>'
        f"<main>{''.join(html for _, _, html in sections)}</main>"
        f'<script type="application/json" id="run">{kept}</script></body></html>\n'
    )
