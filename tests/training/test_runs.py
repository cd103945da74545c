"""Run folders and the picture in them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastnll.checkpoint import save_checkpoint
from fastnll.data import ByteTokenizer
from fastnll.errors import DataError
from fastnll.models import Bigram
from fastnll.plots import plot_curve, smoothed
from fastnll.runs import create_run, open_run


def test_round_trip(tmp_path: Path) -> None:
    run = create_run(tmp_path / "a" / "b", "bigram")
    run.write_config({"model": Bigram(4).config(), "data": {"tokenizer": ByteTokenizer().to_dict()}})
    params = Bigram(4).init()
    params["logits"] += 0.5
    save_checkpoint(run.checkpoints, params, model=Bigram(4))
    model, checkpoint = open_run(run.path).load()
    assert model.config() == Bigram(4).config()
    assert checkpoint.params["logits"].tolist() == params["logits"].tolist()
    assert open_run(run.path).tokenizer == ByteTokenizer()


def test_default_names_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [create_run(None, "bigram").path for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.is_dir() and path.parent == Path("runs") and path.name.startswith("bigram-2") for path in paths)


def test_places_that_cannot_be_a_run(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="expected a new or empty folder for the run, got one with files"):
        create_run(tmp_path / "full", "bigram")
    with pytest.raises(DataError, match="expected a folder that can be written, got a file; name another one"):
        create_run(tmp_path / "full" / "thesis.txt", "bigram")
    with pytest.raises(DataError, match=r"a folder that can be written, got one below the file .*thesis\.txt; name"):
        create_run(tmp_path / "full" / "thesis.txt" / "a" / "run", "bigram")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no such folder"):
        open_run(tmp_path / "no")
    with pytest.raises(DataError, match=r"got one without config\.json"):
        open_run(tmp_path)
    config = tmp_path / "config.json"
    cases = {
        '{"format": "fastnll-run"': "the file is torn",
        '{"architectures": ["GPT2"]}': "expected the folder of a fastnll run, got a config.json of None",
        json.dumps({"format": "fastnll-run", "format_version": 2, "fastnll": "9"}): "format 1 or older, got 2",
    }
    for text, message in cases.items():
        config.write_text(text)
        with pytest.raises(DataError, match=message):
            open_run(tmp_path)
    config.write_text(json.dumps({"format": "fastnll-run", "format_version": 1}))
    with pytest.raises(DataError, match="expected the description of a model, got none"):
        open_run(tmp_path).load()


def test_smoothing_follows_the_values() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    means = smoothed(values, share=0.25)
    for i in (0, 1, 10, 500, 999):
        low, high = math.ceil((i + 1) / 1.25) - 1, min(1000, math.floor((i + 1) * 1.25))
        assert means[i] == pytest.approx(values[low:high].mean())


@pytest.mark.parametrize("n", [1, 2, 500])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture(tmp_path: Path, n: int, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    steps = np.arange(1, n + 1)
    path = tmp_path / f"curve.{suffix}"
    plot_curve(
        path,
        (64 * steps).tolist(),
        (3 + 1 / steps).tolist(),
        final=3.0,
        floor=2.9,
        title="file names may hold $\\oops$ and <b>",
    )
    data = path.read_bytes()
    if suffix == "png":
        assert data.startswith(b"\x89PNG")
        assert len(data) > 10_000
    else:
        assert b"<svg" in data


def test_picture_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(DataError, match="expected at least one step to draw, got none"):
        plot_curve(tmp_path / "curve.png", [], [])
