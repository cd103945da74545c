"""The HTML page of a run: complete, self-contained, well formed, and readable in a browser."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fastnll.bench.cases import CASES, Case
from fastnll.bench.memory import MEMORY_CASES
from fastnll.bench.pictures import draw_pictures
from fastnll.bench.report_html import html_report, write_report
from fastnll.bench.report_html_charts import Series, dots, lines
from fastnll.cli.main import main

# A browser that is not on the path: FASTNLL_TEST_BROWSER=/somewhere/chromium
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("FASTNLL_TEST_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
VOID = {"meta", "link", "br", "path", "polyline"}


def case_entry(case: Case, seconds: float, peers: dict[str, float]) -> dict[str, Any]:
    """One case as a run has it, with made-up times."""

    def contender(name: str, times: float) -> dict[str, Any]:
        mode = case.mode if name == "native" else "fresh"
        return {
            "seconds": seconds * times, "rounds": [seconds * times], "calls_a_round": 1, "mode": mode,
            "gb_per_s": 10.0 / times, "share_of_limit": None if case.group == "call" else 0.8 / times,
            "times_slower": times, "error_ulp": {"loss": {"worst": 0.7, "rms": 0.2}},
        }  # fmt: skip

    return {
        "name": case.name, "group": case.group, "op": case.op, "shape": list(case.shape), "axis": case.axis,
        "dtype": case.dtype, "mode": case.mode, "bytes_read": 1, "bytes_written": 1, "exps": 1,
        "limit": None if case.group == "call" else "read", "limits": {}, "compared_with": "native",
        "contenders": {"native": contender("native", 1.0), **{n: contender(n, t) for n, t in peers.items()}},
        "left_out": {"scipy": "loss is wrong: off by <much> & more"} if case.group == "f64" else {},
    }  # fmt: skip


@pytest.fixture
def run() -> dict[str, Any]:
    cases = [case_entry(case, 0.001 * (i + 1), {"torch": 3.0 + i % 7, "jax": 1.5}) for i, case in enumerate(CASES)]
    memory = {"case": CASES[0].name, "logits_bytes": 262_144_000}
    return {
        "format": 1,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "A <b>fast</b> & new one", "threads": 2, "system": "Linux", "versions": {"numpy": "2.4.6"}},
        "roofline": {"rates": {"read": {"median": 45e9, "best": 47e9}}},
        "cases": cases,
        "accuracy": [
            {"inputs": "wide", "quantity": q, "left_out": {}, "errors": {
                "native": {"worst": 0.0 if q == "loss" else 1.5, "rms": 0.1}, "torch": {"worst": 2e7, "rms": 3e5}}}
            for q in ("loss", "gradient")
        ],
        "memory": [
            {**memory, "contender": "native", "peak_bytes": 0, "mode": "value"},
            {**memory, "contender": "torch", "peak_bytes": 262_000_000, "mode": "value"},
            {**memory, "contender": "jax", "left_out": "no memory"},
        ],
        "end_to_end": [
            {"job": "a job", "contender": "native", "tokens_per_second": 40_000.0, "rounds": [4e4], "loss": 1.25},
            {"job": "a job", "contender": "torch", "tokens_per_second": 10_000.0, "rounds": [1e4], "loss": 1.25},
        ],
    }  # fmt: skip


class Page(HTMLParser):
    """Elements of a page, checked to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "path" and self.get_starttag_text().endswith('">')):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_stands_alone(run: dict[str, Any]) -> None:
    text = html_report(run)
    page = Page(text)
    # Nothing is fetched: no address of any kind, but links within the page and an empty icon.
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text.split('<script type="application/json"')[0])
    addresses = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert {address for address in addresses if address and not address.startswith("#")} == {"data:,"}
    names = {attributes.get("id") for _, attributes in page.elements}
    assert {a[1:] for a in addresses if a and a.startswith("#")} <= names
    assert [attributes["type"] for attributes in page.named("script")] == ["application/json"]


def test_everything_of_the_run_is_there(run: dict[str, Any]) -> None:
    text = html_report(run)
    for title in ("Speed-up", "Share of the machine&#x27;s limit", "Accuracy", "Memory", "End to end", "Every case"):
        assert f"<h2>{title}</h2>" in text
    for case in run["cases"]:
        label = f"{case['op']} {' x '.join(map(str, case['shape']))} {case['dtype']} {case['mode']}"
        assert f'<th scope="row">{label}</th>' in text
    assert "A &lt;b&gt;fast&lt;/b&gt; &amp; new one" in text
    assert "off by &lt;much&gt; &amp; more" in text
    assert "<td>4.00</td>" in text  # torch takes four times as long end to end
    assert "no memory" in text
    kept = text.split('id="run">')[1].split("</script>")[0]
    assert json.loads(kept) == run


def test_tables_and_charts_can_be_read_without_eyes(run: dict[str, Any]) -> None:
    page = Page(html_report(run))
    assert len(page.named("caption")) >= 5
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.named("th"))
    charts = [a for a in page.named("svg") if a.get("role") == "img"]
    assert len(charts) >= 8
    assert all(attributes["aria-label"] for attributes in charts)
    assert len(page.named("summary")) == len(charts)  # each has its numbers


def test_the_pictures_know_every_case_that_is_measured_by_default(run: dict[str, Any], tmp_path: Path) -> None:
    run["memory"] = [
        {"case": name, "contender": who, "peak_bytes": 10**6, "mode": "value"}
        for name in MEMORY_CASES
        for who in ("native", "torch")
    ]
    files = draw_pictures(run, tmp_path)
    assert [file.name for file in files] == ["speed.svg", "memory.svg"]
    rows = re.findall(r'class="y"[^>]*>([^<]+)<', files[1].read_text(encoding="utf-8"))
    assert len(set(rows)) == len(MEMORY_CASES)


@pytest.mark.parametrize("missing", ["accuracy", "memory", "end_to_end", "roofline", "cases"])
def test_a_part_that_was_not_measured_is_left_out(run: dict[str, Any], missing: str) -> None:
    run = copy.deepcopy(run)
    run[missing] = None if missing == "roofline" else []
    sections = {"cases": ["speed", "limit"], "end_to_end": ["end-to-end"]}.get(missing, [missing])
    page = Page(html_report(run))
    ids = {attributes.get("id") for attributes in page.named("section")}
    assert ids.isdisjoint(sections)
    assert "machine" in ids


def test_a_run_of_an_earlier_version_has_no_memory(run: dict[str, Any]) -> None:
    del run["memory"], run["end_to_end"]
    assert 'id="memory"' not in html_report(run)


def places(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'transform="translate\(([\d.]+),([\d.]+)\)"><title>', svg)]


def test_points_stand_where_they_should() -> None:
    svg = lines("t", [Series("a", [(10, 1, "p"), (100, 10, "q"), (1000, 100, "r")])], x="V", y="times")
    (x0, y0), (x1, y1), (x2, y2) = places(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)  # equal ratios, equal distances
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y0 > y2  # up is more
    svg = dots("t", ["one", "two"], {"a": {"one": 1.0, "two": 4.0}, "b": {"two": 2.0}}, x="s", log=False)
    (xa, ya), (xb, yb), (xc, yc) = places(svg)
    assert ya < yb == yc
    assert xa < xc < xb


def test_a_chart_of_one_value_is_drawn() -> None:
    assert places(lines("t", [Series("a", [(10, 5.0, "p")])], x="V", y="y"))
    assert places(lines("t", [Series("a", [(10, 0.0, "p")])], x="V", y="y", y_log=False))
    assert places(dots("t", ["one"], {"a": {"one": 3.0}}, x="s"))


def test_the_command_writes_the_page_of_an_earlier_run(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "run.json", tmp_path / "run.html"
    file.write_text(json.dumps(run))
    assert main(["bench", "--from", str(file), "--report", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == html_report(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.json"]
    capsys.readouterr()
    assert main(["bench", "--from", str(file), "--report", str(tmp_path / "no" / "run.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert main(["bench", "--from", str(file), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == run


def test_the_pictures_of_the_readme(run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "run.json", tmp_path / "pictures"
    file.write_text(json.dumps(run))
    assert main(["bench", "--from", str(file), "--pictures", str(folder)]) == 0
    speed, memory = (folder / name for name in ("speed.svg", "memory.svg"))
    texts = [element.text for element in ElementTree.parse(speed).iter("{http://www.w3.org/2000/svg}text")]
    assert {"PyTorch", "JAX", "loss, 2048 x 32000 float32", "loss and gradient, 2048 x 32000 float32, in place"} <= set(
        texts
    )
    assert "fastnll, loss" in memory.read_text()
    assert "PyTorch, loss, 65536 x 256 float32: 262" in memory.read_text()
    file.write_text(json.dumps({**run, "cases": []}))
    assert main(["bench", "--from", str(file), "--pictures", str(folder)]) == 1
    assert "run with --peers" in capsys.readouterr().err


def browse(page: Path, *options: str) -> str:
    """Load the page in a headless browser that can reach nothing; return what it wrote."""
    assert BROWSER
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9",
               f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser(run: dict[str, Any], tmp_path: Path) -> None:
    """The layout is measured by a script that this test adds: the page itself has none."""
    page = tmp_path / "run.html"
    write_report(run, page)
    probe = """<script>addEventListener('load', () => {
      const r = e => e.getBoundingClientRect(), all = s => [...document.querySelectorAll(s)];
      const style = (e, p) => getComputedStyle(e)[p];
      const inside = svg => { const b = r(svg); return [...svg.querySelectorAll('text, path, polyline')].every(e => {
        const c = r(e);
        return c.left > b.left - 1 && c.right < b.right + 1 && c.top > b.top - 1 && c.bottom < b.bottom + 1; }); };
      document.title = JSON.stringify({
        requests: performance.getEntriesByType('resource').map(e => e.name),
        overflow: document.documentElement.scrollWidth > innerWidth,
        charts: all('figure > svg').length, drawn: all('figure > svg').filter(s => r(s).height > 40).length,
        cut: all('figure > svg').filter(s => !inside(s)).map(s => s.getAttribute('aria-label')),
        lines: all('polyline').every(l => style(l, 'fill') === 'none'),
        ink: style(document.body, 'color'), paper: style(document.body, 'backgroundColor'),
        figures: all('table').length }); });</script>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", probe + "</body>"), encoding="utf-8")
    seen: dict[str, dict[str, Any]] = {}
    for name, options in {
        "light": ["--blink-settings=preferredColorScheme=1", "--window-size=1300,900"],
        "dark": ["--blink-settings=preferredColorScheme=0", "--window-size=1300,900"],
        "phone": ["--window-size=500,900"],
    }.items():
        dom = browse(page, "--dump-dom", *options)
        title = re.search(r"<title>(\{.*?\})</title>", dom)
        assert title, dom[:500]
        seen[name] = json.loads(title.group(1).replace("&amp;", "&"))
        assert seen[name]["requests"] == []
        assert not seen[name]["overflow"], name
        assert seen[name]["charts"] == seen[name]["drawn"] >= 8
        assert seen[name]["cut"] == []
        assert seen[name]["lines"]

    def brightness(colour: str) -> float:
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 765

    assert brightness(seen["light"]["paper"]) - brightness(seen["light"]["ink"]) > 0.7
    assert brightness(seen["dark"]["ink"]) - brightness(seen["dark"]["paper"]) > 0.7
