"""Every code block of the README and the documentation runs, page by page, as a reader would type it."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastnll.cli.main import COMMANDS, build_parser
from fastnll.cli.parsing import commands_of
from tests.docs.blocks import PAGES, ROOT, RUN, SHOWN, Block, blocks

OPTIONAL = ("torch", "jax", "sklearn", "mpi4py", "tokenizers", "numba", "matplotlib", "ml_dtypes", "pyarrow")
# A part of ours that needs an optional package without naming it.
THROUGH = {"mpi4py": "distributed"}
NAMES = {command.name for command in COMMANDS}
# Lines that are not typed in a test: installing, and whatever measures for minutes.
NOT_RUN = re.compile(r"^(pip|python -m (pip|pytest|venv|sphinx)|bash|mpiexec|git)\b|&& ")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not here")]


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    # Line numbers of the page, so that a traceback points at it.
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, namespace)


def run_doctest(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, namespace, page.name, str(page), block.line - 1)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    runner.run(test, out=said.append, clear_globs=False)
    # What a user sees of an error is its class and sentence; a traceback is not written out on the page.
    assert not said, "".join(said)
    namespace.update(test.globs)


def lines_of(block: Block) -> list[str]:
    """The commands of a shell block, continued lines joined, comments removed."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [line for raw in joined.splitlines() if (line := re.sub(r"\s+#.*$", "", raw).strip()) and line[0] != "#"]


def cheap(words: list[str], folder: Path) -> bool:
    """Whether a fastnll command is run, not only understood."""
    if "..." in " ".join(words):
        return False  # a name left to the reader
    if words[0] in ("bench", "roofline"):
        return "--quick" in words
    if words[0] == "train":
        return "--steps" in words
    if words[0] == "profile":
        # A page that wants it run has a block that writes the script.
        return any((folder / word).is_file() for word in words)
    return words[0] in NAMES - {"launch"}


def run_shell(block: Block, folder: Path) -> None:
    for line in lines_of(block):
        if NOT_RUN.search(line):
            continue
        program, *words = shlex.split(line.split(" > ")[0])
        assert program == "fastnll", f"{line}: neither a command of ours nor one that is known not to be run"
        build_parser(words[0]).parse_args(words)
        if cheap(words, folder):
            command = [sys.executable, "-m", "fastnll", *words]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(page)
    assert {block.language for block in found} <= RUN | SHOWN
    code = "\n".join(block.text for block in found if block.language in ("python", "pycon"))
    for name in OPTIONAL:
        through = rf"fastnll\.interop\.{name}\b|fastnll\.{THROUGH.get(name, 0)}\b"
        if re.search(rf"^\s*(>>> )?(import|from) {name}\b|{through}", code, re.MULTILINE):
            pytest.importorskip(name, reason=f"the page needs {name}")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in found:
        if block.language == "python":
            run_python(block, page, namespace)
        elif block.language == "pycon":
            run_doctest(block, page, namespace)
        elif block.language == "sh":
            run_shell(block, tmp_path)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_readme_is_short_and_has_the_marked_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    for name in ("main-job", "tests"):
        marked = text.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0]
        assert re.fullmatch(r"\s*```sh\n.+\n```\s*", marked)


def test_the_reference_has_every_public_name() -> None:
    import fastnll

    reference = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    modules = re.findall(r"automodule:: (\S+)", reference)
    listed = set(re.findall(r"auto(?:function|class|exception|data):: (\S+)", reference))
    for module in modules:
        if module.startswith("fastnll.interop."):
            continue  # needs the other library, and its names are not of fastnll itself
        listed |= {f"fastnll.{name}" for name in importlib.import_module(module).__all__}
    assert {f"fastnll.{name}" for name in fastnll.__all__} - listed == set()


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs sphinx")
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    for name in ("myst_parser", "furo", "latex2mathml"):
        pytest.importorskip(name, reason=f"the documentation needs {name}")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path / "html")], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "html" / "reference" / "command-line.html").read_text(encoding="utf-8")
    for name, parser in commands_of(build_parser()).items():
        assert f'id="fastnll-{name}"' in commands
        assert all(flag in commands for action in parser._actions for flag in action.option_strings)
    for page in (tmp_path / "html").rglob("*.html"):
        sources = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert sources == [], f"{page.name} fetches {sources}"
        unknown = re.findall(r"<m[a-z]+[^>]*>(\\[a-z]+)", page.read_text(encoding="utf-8"))
        assert unknown == [], f"{page.name} has formulas that were not understood: {unknown}"
