"""Every script under examples/ runs, prints what it promises, and is listed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(ROOT.glob("*.py"))
# A sentence that only a script that got to its end prints.
SAYS = {
    "maximum_likelihood": r"after 'q': 'u' 0\.\d",
    "own_loop": r"all points: loss 0\.\d+, [5-9]\d\.\d % right[\s\S]*cross_entropy_value_and_grad",
    "train_text": r"held out: +\d\.\d+ bits a byte\nhardest: +\S+\.py",
    "large_vocabulary": r"the gradients agree",
    "choose_a_model": r"chosen: (bigram|[26] characters), [\d,]+ nats",
    "gpt_torch": r"tokens[\s\S]+fastnll",
}
NEEDS = {"maximum_likelihood": ("scipy",), "gpt_torch": ("torch", "tokenizers")}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ROOT.is_dir(), reason="the examples are not here")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    for name in NEEDS.get(script.stem, ()):
        pytest.importorskip(name, reason=f"the example needs {name}")
    command = [sys.executable, "-W", "error", str(script), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(SAYS[script.stem], done.stdout), done.stdout
    assert list(tmp_path.iterdir()) == []  # nothing is left where it ran


def test_every_example_is_listed_with_a_line() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \| .+ \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    there = {script.name for script in SCRIPTS} | {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir()}
    assert {name for name in there if not name.startswith("__")} == listed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_explains_itself(script: Path) -> None:
    for name in NEEDS.get(script.stem, ()):
        pytest.importorskip(name, reason=f"the example needs {name}")
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0
    assert "--quick" in done.stdout
