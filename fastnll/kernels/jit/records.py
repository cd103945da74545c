"""The one struct that every row kernel takes: a record of addresses, strides in bytes, and numbers.

A kernel compiles once per compute dtype: whatever else differs between calls (storage dtype, strides,
which arrays there are) is a number in the record. An address of 0 means "not there".
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll.dtypes import FLOATS, INTEGERS, FloatType
from fastnll.kernels.jit.constants import BLOCK, GROUP_BYTES, LANES, TILE

__all__ = ["ROWS", "STAMP", "Record", "float_type", "new_record"]

Array = npt.NDArray[Any]


def _source_digest() -> str:
    """Return a digest of this folder's sources.

    Numba reuses a cached kernel as long as the file of that kernel is unchanged, whatever happened to
    the files it calls. The digest names a field of the record, so it is part of every kernel's signature.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


# Elements of a cache line, in float32.
_LINE = 16
# From so many bytes on results bypass the caches, where rows follow each other, or are so long that each is a group of
# its own: several are written as one piece.
_BYPASS_BYTES, _BYPASS_ROW = 1 << 25, GROUP_BYTES
_VIEWS = ("x", "second", "out", "probs", "mask")
_INTEGERS = (
    *(f"{name}{part}" for name in _VIEWS for part in ("", "_outer", "_inner", "_class", "_code")),
    # rows, rows per outer index, classes; how rows are fetched
    *("rows", "inner", "classes", "direct", "tile", "tile_at", "second_at", "soft_at", "log"),
    # rows finished together, elements from the terms of one to those of the next, tables, results past the caches
    *("group", "pitch", "lanes_at", "bypass"),
    *("targets", "targets_outer", "targets_inner", "targets_code"),
    *("ids", "id_probs", "ids_count", "picked", "picked_code", "class_weight"),
    *("row_weight", "target_weight", "grad_weight"),
    *("loss", "loss_code", "row_loss", "block_sums", "lse", "lse_code", "entropy", "entropy_code", "argmax", "rank"),
)
_FLOATS = ("grad_scale", "smoothing", "z_loss", "temperature", "softcap")
_DIGEST = (f"source_{_source_digest()}", np.int64)
ROWS = np.dtype([(name, np.int64) for name in _INTEGERS] + [(name, np.float64) for name in _FLOATS] + [_DIGEST])
# For kernels that take no record: an argument of which only the type counts.
STAMP = np.zeros(0, np.dtype([_DIGEST]))
_CODES = {np.dtype(name): i for i, name in enumerate(INTEGERS)}


@functools.cache
def float_type(dtype: np.dtype[Any]) -> FloatType:
    """Return the policy of a storage dtype; NumPy puts a dtype's name together anew each time."""
    return FLOATS[dtype.name]


class Record:
    """A record being filled, and the scratch memory its kernel needs.

    Attributes
    ----------
    array : (1,) record array
        What the kernel gets.
    compute : numpy.dtype
    words : int
        Elements of scratch memory, of the compute dtype, that each thread needs.
    keep : list
        Arrays made on the way, alive as long as the kernel runs.
    """

    def __init__(self, x: Array) -> None:
        self.array = np.zeros(1, ROWS)
        self.fields: dict[str, float] = {}
        self.compute = float_type(x.dtype).compute
        self.words = 0
        self.keep: list[Array] = []

    def view(self, name: str, a: Array) -> None:
        """Put an (outer, inner, V) array."""
        f = self.fields
        f[name] = a.ctypes.data
        f[f"{name}_outer"], f[f"{name}_inner"], f[f"{name}_class"] = a.strides
        f[f"{name}_code"] = float_type(a.dtype).code if a.dtype != bool else 0

    def vector(self, name: str, a: Array | None, code: bool = False) -> None:
        """Put a contiguous vector with one element (or K) a row; nothing where None."""
        if a is None:
            return
        self.fields[name] = a.ctypes.data
        if code:
            self.fields[f"{name}_code"] = float_type(a.dtype).code

    def targets(self, a: Array | None) -> None:
        """Put (outer, inner) integers of any dtype."""
        if a is None:
            return
        f = self.fields
        f["targets"], f["targets_code"] = a.ctypes.data, _CODES[a.dtype]
        f["targets_outer"], f["targets_inner"] = a.strides

    def room(self, words: int) -> int:
        """Return the position of so many more elements of scratch memory, at the start of a cache line."""
        at = self.words
        self.words += -(-words // _LINE) * _LINE
        return at

    def finish(self) -> Array:
        """Return the record array, filled."""
        row = self.array[0]
        for name, value in self.fields.items():
            row[name] = value
        return self.array


def new_record(
    x: Array, out: Array | None = None, second: Array | None = None, *, in_place: bool = True, grouped: bool = False
) -> Record:
    """Return a record of rows and where their results go.

    Parameters
    ----------
    x : (outer, inner, V) array
    out, second : arrays of that shape, optional
        Result, and another input.
    in_place : bool
        Whether the kernel may work on the rows where they lie. Where not, or where a row is not
        contiguous or not of the compute dtype, rows are fetched into scratch memory first.
    grouped : bool
        Whether the kernel finishes several rows together, whose terms are all kept where there is a result.
    """
    record = Record(x)
    arrays = [a for a in (x, out, second) if a is not None]
    record.view("x", x)
    if out is not None:
        record.view("out", out)
    if second is not None:
        record.view("second", second)
    outer, inner, v = x.shape
    size = record.compute.itemsize
    direct = in_place and all(a.dtype == record.compute and (a.strides[2] == size or v == 1) for a in arrays)
    # Where neighbouring rows lie closer than neighbouring classes, a cache line holds TILE rows.
    near = abs(x.strides[1]) < abs(x.strides[2]) and inner > 1
    tile = 1 if direct or not near else TILE
    bypass = direct and grouped and out is not None and _bypasses(x, out)
    pitch = -(-v // _LINE) * _LINE
    group = LANES
    if grouped and out is not None:
        group = min(max(GROUP_BYTES // (pitch * size), 1), LANES)
    if bypass and group > 1:  # put together as they lie in the result
        pitch = v
    record.fields.update(rows=outer * inner, inner=inner, classes=v, direct=direct, tile=tile)
    record.fields.update(group=group, pitch=pitch, bypass=bypass)
    # The terms of the rows that are kept first (BLOCK of them where none are), then the fetched rows.
    record.room(max(pitch * (group if grouped and out is not None else 1), BLOCK))
    if not direct:
        record.fields["tile_at"] = record.room(tile * v)
        if second is not None:
            record.fields["second_at"] = record.room(tile * v)
    return record


def _bypasses(x: Array, out: Array) -> bool:
    """Return whether results go past the caches: those that do not fit them, where the row's own lines are not."""
    dense = out.flags.c_contiguous or out.shape[2] * out.itemsize >= _BYPASS_ROW
    return dense and out.nbytes >= _BYPASS_BYTES and out.ctypes.data != x.ctypes.data
