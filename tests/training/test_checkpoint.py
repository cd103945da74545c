"""Checkpoints: the same bits back, in any installation; torn and foreign ones named; nothing lost on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fastnll import arrayfiles, checkpoint
from fastnll.callbacks import Checkpoints
from fastnll.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from fastnll.errors import DataError
from fastnll.history import Progress
from fastnll.models import Bigram, make
from fastnll.optim import SGD
from fastnll.training import fit
from tests.training.small import problem, same_bits

KINDS = ["safetensors", "npz"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The format of the array files: with safetensors, and as if it were not installed."""
    if request.param == "npz":
        monkeypatch.setattr(arrayfiles, "find_spec", lambda name: None)
    else:
        pytest.importorskip("safetensors")
    return str(request.param)


def awkward() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    square = rng.standard_normal((3, 4)).astype("f4")
    return {
        "plain": square,
        "fortran": np.asfortranarray(square),
        "strided": rng.standard_normal((6, 8))[::2, ::-3],
        "half": square.astype("f2"),
        "brain": square.astype(ml_dtypes.bfloat16),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "big_endian": square.astype(">f8"),
        "odd": np.array([np.nan, -0.0, np.inf, -np.inf]),
        "name with spaces/é": np.arange(3.0),
    }


def test_round_trip_of_any_array(tmp_path: Path, kind: str) -> None:
    params = awkward()
    path = save_checkpoint(tmp_path, params, progress=Progress(step=12))
    assert (path / f"model.{kind}").is_file()
    loaded = load_checkpoint(tmp_path)
    assert loaded.params.keys() == params.keys()
    for name, array in params.items():
        got = loaded.params[name]
        assert got.shape == array.shape, name
        assert got.dtype == array.dtype.newbyteorder("="), name
        assert got.tobytes() == array.astype(got.dtype).tobytes(), name
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert got.flags.owndata
        assert got.flags.aligned
    assert loaded.progress == Progress(step=12)


def test_everything_comes_back(tmp_path: Path, kind: str) -> None:
    objective, sgd = problem(max_norm=1.0)
    history = fit(objective, sgd, steps=5, batch_tokens=64)
    save_checkpoint(
        tmp_path, sgd.params, progress=history.progress, optimizer=sgd, model=objective.model, dataset_sha256="ab" * 32
    )
    loaded = load_checkpoint(tmp_path, model=objective.model)
    assert same_bits(loaded.params, sgd.params)
    assert loaded.progress == history.progress
    assert loaded.dataset_sha256 == "ab" * 32
    assert loaded.model is not None
    assert make(**loaded.model).config() == objective.model.config()
    other = SGD(loaded.params, lr=7.0)
    assert loaded.optimizer is not None
    other.load_state_dict(loaded.optimizer)
    assert repr(other) == repr(sgd)
    grads = {"logits": np.ones((7, 7), "f4")}
    sgd.step(grads)
    other.step(grads)
    assert same_bits(other.params, sgd.params)


def test_continuing_from_a_checkpoint_is_the_uninterrupted_run(tmp_path: Path, kind: str) -> None:
    objective, whole = problem()
    fit(objective, whole, steps=50, batch_tokens=64, seed=1)
    _, first = problem()
    fit(objective, first, steps=23, batch_tokens=64, seed=1, callbacks=[Checkpoints(tmp_path)])
    loaded = load_checkpoint(tmp_path, model=objective.model)
    second = SGD(loaded.params, lr=1.0)
    assert loaded.optimizer is not None
    second.load_state_dict(loaded.optimizer)
    fit(objective, second, steps=50, batch_tokens=64, seed=1, start=loaded.progress)
    assert same_bits(whole.params, second.params)


def test_last_k_are_kept(tmp_path: Path) -> None:
    for step in (5, 100, 1_000_000, 99):
        save_checkpoint(tmp_path, {"w": np.ones(2)}, progress=Progress(step=step), keep=2)
    # The one just written is never dropped, even where the folder held later steps.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000099", "step-1000000"]
    assert latest_checkpoint(tmp_path).name == "step-1000000"
    save_checkpoint(tmp_path, {"w": np.full(2, 3.0)}, progress=Progress(step=1_000_000), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1000000"]
    assert load_checkpoint(tmp_path).params["w"].tolist() == [3.0, 3.0]


def test_found_from_the_run_folder_too(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "checkpoint", {"w": np.ones(2)}, progress=Progress(step=3))
    assert latest_checkpoint(tmp_path) == latest_checkpoint(tmp_path / "checkpoint") == latest_checkpoint(path) == path


def test_another_model(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Bigram(5).init(), model=Bigram(5))
    with pytest.raises(
        DataError, match=r'expected a checkpoint of model .*"vocab_size": 6.* got one of .*"vocab_size": 5'
    ):
        load_checkpoint(tmp_path, model=Bigram(6))


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_torn_arrays_are_named(tmp_path: Path, kind: str, damage: str) -> None:
    path = save_checkpoint(tmp_path, {"w": np.arange(100.0)}) / f"model.{kind}"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-9])
    elif damage == "flip":
        data[-300] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(DataError, match=f"model.{kind}: expected .*(torn or was changed|got no such file)"):
        load_checkpoint(tmp_path)


def damaged_state(text: str) -> list[tuple[str, str]]:
    state = json.loads(text)
    return [
        (text[: len(text) // 2], "the file is torn"),
        ("", "the file is torn"),
        ("[1]", "expected a JSON object, got list"),
        ("{}", "expected a fastnll checkpoint, got a state.json of None"),
        (json.dumps({**state, "format": "other"}), "got a state.json of 'other'"),
        (json.dumps({**state, "format_version": 3}), "expected checkpoint format 2 or older, got 3 .*update fastnll"),
        (json.dumps({k: v for k, v in state.items() if k != "files"}), "got a file without 'files'"),
        (json.dumps({**state, "progress": {"stepp": 1}}), "expected the entries of a checkpoint"),
    ]


def test_torn_and_foreign_states_are_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, {"w": np.arange(3.0)}) / "state.json"
    for text, message in damaged_state(path.read_text()):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_checkpoint(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="the file is torn"):
        load_checkpoint(tmp_path)


def test_folders_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got one without a checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(DataError, match="got no such folder"):
        load_checkpoint(tmp_path / "no")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="got a file"):
        load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("where", ["write_arrays", "write_json"])
def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    save_checkpoint(tmp_path, {"w": np.ones(2)}, progress=Progress(step=1))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, where, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"w": np.zeros(2)}, progress=Progress(step=2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert load_checkpoint(tmp_path).params["w"].tolist() == [1.0, 1.0]


def test_what_is_written_is_read_back(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that mixes up the memory order (as safetensors 0.8 does for Fortran order) is caught at once."""

    def scrambled(data: Any, **kwargs: Any) -> Any:
        return {name: np.ascontiguousarray(array[::-1]) for name, array in data.items()}

    honest = arrayfiles._load
    monkeypatch.setattr(arrayfiles, "_load", lambda path: scrambled(honest(path)))
    with pytest.raises(DataError, match="expected 'w' to read back as written"):
        save_checkpoint(tmp_path, {"w": np.arange(4.0)})
    assert list(tmp_path.iterdir()) == []


def test_remains_of_a_dead_writer_are_swept(tmp_path: Path) -> None:
    done = save_checkpoint(tmp_path, {"w": np.ones(2)}, progress=Progress(step=1))
    shutil.copytree(done, tmp_path / ".writing-step-000002-99999")
    assert latest_checkpoint(tmp_path) == done
    save_checkpoint(tmp_path, {"w": np.ones(2)}, progress=Progress(step=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_safetensors_checkpoint_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    save_checkpoint(tmp_path, {"w": np.ones(2)})
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    with pytest.raises(DataError, match="pip install safetensors"):
        load_checkpoint(tmp_path)
