"""Disks that are full, places that cannot be written: one sentence, and the last checkpoint as it was."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastnll.callbacks import Callback, Checkpoints, CsvLines, JsonLines
from fastnll.checkpoint import checkpoints_in, load_checkpoint, save_checkpoint
from fastnll.history import Progress
from fastnll.training import Run, fit
from tests.training.small import problem, same_bits

resource = pytest.importorskip("resource", reason="limits on files are those of POSIX")


@contextlib.contextmanager
def file_limit(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: the kernel refuses the write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Fill(Callback):
    """From a step on, files may not grow beyond so many bytes."""

    def __init__(self, step: int, n_bytes: int) -> None:
        self.step, self.n_bytes = step, n_bytes
        self.stack = contextlib.ExitStack()

    def on_step(self, run: Run) -> None:
        if run.progress.step == self.step:
            self.stack.enter_context(file_limit(self.n_bytes))


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "checkpoint"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    objective, whole = problem()
    fit(objective, whole, steps=40, batch_tokens=64)
    # A checkpoint's largest file has about 1200 bytes, a table of 40 records 5000.
    fill = Fill(5, 250 if name == "checkpoint" else 3000)
    files: dict[str, Callback] = {
        "metrics.jsonl": JsonLines(tmp_path / "metrics.jsonl"),
        "metrics.csv": CsvLines(tmp_path / "metrics.csv"),
    }
    writers = [files[name]] if name in files else []
    with fill.stack, pytest.raises(OSError, match="File too large") as caught:
        fit(
            objective,
            problem()[1],
            steps=40,
            batch_tokens=64,
            callbacks=[fill, *writers, Checkpoints(tmp_path / "checkpoint", every=4)],
        )
    # The sentence names the file.
    expected = "checkpoint/step-000008" if name == "checkpoint" else name
    assert str(caught.value.filename) == str(tmp_path / expected)
    newest = load_checkpoint(tmp_path / "checkpoint")
    assert 4 <= newest.progress.step < 40
    assert not list(tmp_path.rglob(".*"))
    # With room again it goes on, to the same bits and whole files.
    _, sgd = problem()
    fit(objective, sgd, steps=40, batch_tokens=64, start=newest, callbacks=writers)
    assert same_bits(sgd.params, whole.params)
    for path in tmp_path.glob("metrics.*"):
        lines = path.read_text().splitlines()
        assert all(line.count(",") == lines[0].count(",") for line in lines[:40]), lines


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    import numpy as np

    old = save_checkpoint(tmp_path, {"w": np.zeros(10)}, progress=Progress(step=1))
    with file_limit(4096), pytest.raises(OSError, match="File too large") as caught:
        save_checkpoint(tmp_path, {"w": np.zeros(100_000)}, progress=Progress(step=2))
    assert caught.value.filename == str(tmp_path / "step-000002")
    assert list(tmp_path.iterdir()) == [old]
    assert load_checkpoint(tmp_path).params["w"].tolist() == [0.0] * 10


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_dev_full() -> None:
    objective, sgd = problem()
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        fit(objective, sgd, steps=3, batch_tokens=64, callbacks=[JsonLines("/dev/full")])


def test_a_file_in_the_way(tmp_path: Path) -> None:
    objective, sgd = problem()
    (tmp_path / "checkpoint").write_text("a file")
    with pytest.raises(FileExistsError) as caught:
        fit(objective, sgd, steps=3, batch_tokens=64, callbacks=[Checkpoints(tmp_path / "checkpoint")])
    assert caught.value.filename == str(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").read_text() == "a file"


@contextlib.contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder this process may not write to; root, who may write anywhere, becomes somebody else for a while."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder, {"w": __import__("numpy").ones(2)}, progress=Progress(step=1))
        folder.chmod(0o555)
        if root:
            try:
                os.seteuid(65534)
            except OSError as error:
                pytest.skip(f"root may write anywhere, and cannot become another user here: {error}")
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX")
def test_a_read_only_folder() -> None:
    objective, sgd = problem()
    with read_only_folder() as folder:
        if os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            pytest.skip("this user may write to a folder without the permission")
        for callback, name in (
            (JsonLines(folder / "metrics.jsonl"), "metrics.jsonl"),
            (Checkpoints(folder, every=1), ".writing-step-000001-"),
        ):
            with pytest.raises(PermissionError) as caught:
                fit(objective, sgd, steps=2, batch_tokens=64, callbacks=[callback])
            assert str(caught.value.filename).startswith(str(folder / name))
        assert [path.name for path in checkpoints_in(folder)] == ["step-000001"]
        assert load_checkpoint(folder).params["w"].tolist() == [1.0, 1.0]
