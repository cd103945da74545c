"""Named arrays and JSON on disk: written through, read back, recognised when torn.

Arrays go to safetensors where it is installed, else to NumPy's ``.npz``; what was written is described by a small dict
(name, dtype, shape, size, checksum) that the caller keeps in its own JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.errors import DataError

__all__ = ["Arrays", "read_arrays", "read_json", "write_arrays", "write_json"]

Arrays = dict[str, npt.NDArray[Any]]


def write_arrays(folder: Path, stem: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Write arrays into ``folder/stem.safetensors`` (or .npz), flush to disk, read back and compare.

    Returns
    -------
    dict
        What `read_arrays` needs to know: JSON values.

    Raises
    ------
    OSError
        What the operating system refuses.
    DataError
        A file that does not read back the same.
    """
    # safetensors 0.8 writes the buffer of a Fortran-ordered array as if it were C-ordered, without an error.
    plain = {name: np.array(a, dtype=a.dtype.newbyteorder("="), order="C", copy=None) for name, a in arrays.items()}
    # A dtype that NumPy does not know (bfloat16) is stored as its bits.
    bits = {name: a.view(f"u{a.itemsize}") if a.dtype.kind == "V" else a for name, a in plain.items()}
    kind = "safetensors" if find_spec("safetensors") else "npz"
    path = folder / f"{stem}.{kind}"
    if kind == "safetensors":
        from safetensors.numpy import save

        data = save(bits)
        path.write_bytes(data)
    else:
        with open(path, "wb") as stream:
            np.savez(stream, allow_pickle=False, **bits)
    _flush(path)
    described = {name: {"dtype": a.dtype.name, "shape": list(a.shape)} for name, a in plain.items()}
    description = {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path), "arrays": described}
    for name, array in read_arrays(folder, description).items():
        if array.tobytes() != plain[name].tobytes():
            raise DataError(f"{path}: expected {name!r} to read back as written, got other numbers; check the disk")
    return description


def read_arrays(folder: Path, description: Mapping[str, Any]) -> Arrays:
    """Read what `write_arrays` wrote, as fresh writeable arrays.

    Raises
    ------
    DataError
        A file that is missing, cut short or changed, or needs a package that is not installed.
    """
    path = folder / str(description["file"])
    if not path.is_file():
        raise DataError(f"{path}: expected a file of this checkpoint, got no such file")
    size = path.stat().st_size
    if size != description["bytes"] or _sha256(path) != description["sha256"]:
        got = f"{size}" if size != description["bytes"] else "other"
        raise DataError(
            f"{path}: expected the {description['bytes']} bytes that were written, got {got} bytes; "
            "the file is torn or was changed, use an earlier checkpoint"
        )
    loaded = _load(path)
    return {name: _restore(loaded[name], entry) for name, entry in description["arrays"].items()}


def _load(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    try:
        from safetensors.numpy import load
    except ImportError:
        raise DataError(
            f"{path}: expected the package safetensors to read it, got none; pip install safetensors"
        ) from None
    result: Mapping[str, npt.NDArray[Any]] = load(path.read_bytes())
    return result


def _restore(array: npt.NDArray[Any], entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    name = entry["dtype"]
    if array.dtype.name != name:
        import ml_dtypes

        array = array.view(getattr(ml_dtypes, name))
    # A copy is aligned and owns its memory; safetensors hands out views at odd addresses into one buffer.
    return np.array(array.reshape(entry["shape"]), order="C")


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside and rename it into place, flushed to disk.

    Raises
    ------
    OSError
        What the operating system refuses.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _flush(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    DataError
        A file that is missing, unreadable, torn, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a JSON file, got no such file") from None
    except OSError as error:
        raise DataError(f"{path}: expected a JSON file, got {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, got text that ends or breaks ({error}); the file is torn") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _flush(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
