"""The picture: both halves, with limits and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastnll.profiling.figure import draw_profile
from tests.profiling.made import LIMITS, MS, analysis, kernel, op, user, wait

pytest.importorskip("matplotlib", reason="draws")


def texts(made: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Draw, and return every text in the figure."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    seen: list[str] = []
    save = Figure.savefig

    def keep(figure: Any, *args: Any, **options: Any) -> None:
        save(figure, *args, **options)
        seen.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_profile(made, path)
    assert path.stat().st_size > 10_000
    return seen


def test_a_step_and_the_roofline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = analysis(
        *(kernel(i * 10 * MS, (i * 10 + 8) * MS) for i in range(5)),
        wait(50 * MS, 80 * MS),
        user(80 * MS, 90 * MS),
        op(100 * MS, 200 * MS, "after the last step"),
        limits=LIMITS,
        steps=5,
    )
    found = texts(made, tmp_path / "p.png", monkeypatch)
    assert "where a step goes (mean)" in found
    assert " 8.00ms  40.0%" in found  # of a step, not of the whole
    assert " 6.00ms  30.0%" in found
    assert "after the last step" not in found
    assert "cross_entropy [read] float32: 102%" in found
    assert {"kernels", "waiting for data", "blocks you named", "outside fastnll"} <= set(found)


def test_many_names_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = analysis(*(user(i * MS, (i + 1) * MS, f"block {i}") for i in range(40)))
    assert "29 more" in texts(made, tmp_path / "p.svg", monkeypatch)


def test_without_limits_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = texts(analysis(kernel(0, MS, threads=1), limits=LIMITS), tmp_path / "p.png", monkeypatch)
    assert any("fastnll roofline --threads 1" in text for text in found)
    assert "no kernel was recorded" in texts(analysis(op(0, MS)), tmp_path / "p.png", monkeypatch)
