"""The code blocks of the Markdown pages, in order, with the line they start at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]
# Languages that the tests run, and those that they need not.
RUN = {"python", "pycon", "sh"}
SHOWN = {"text", "toml", "json", "c", "cython"}


class Block(NamedTuple):
    """A fenced block: its language, its text and the line of its first line."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page; directives of the documentation tool (in braces) are none."""
    found: list[Block] = []
    lines: list[str] | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and lines is None:
            language, start, lines = fence.group(1).strip(), number + 1, []
        elif fence:
            assert lines is not None
            if not language.startswith("{"):
                found.append(Block(language, "\n".join(lines) + "\n", start))
            lines = None
        elif lines is not None:
            lines.append(line)
    assert lines is None, f"{page}: a block that does not end"
    return found
