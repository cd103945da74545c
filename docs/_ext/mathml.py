"""Formulas as MathML: every browser shows it, and no script has to be fetched."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    # One line of the formula is one block: MathML tables of aligned lines look different in every browser.
    lines = [line.replace("&", "") for line in node.astext().split(r"\\")]
    body = "".join(f"<p>{convert(line.strip(), display='block')}</p>" for line in lines if line.strip())
    writer.body.append(f'<div class="math">{body}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name "mathml"."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
