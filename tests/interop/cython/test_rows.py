"""`fastnll/rows.pxd` from compiled code: the example project builds and runs, and every function is that of Python."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnll as fn

pytest.importorskip("Cython", reason="compiles a Cython project")
pytest.importorskip("setuptools", reason="compiles a Cython project")
pytest.importorskip("fastnll.rows", reason="no C compiler: fastnll itself has no compiled kernels")

HERE, EXAMPLE = Path(__file__).parent, Path(__file__).parents[3] / "examples" / "cython_rows"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(fn.info().to_dict()["backend"] != "native", reason="the rows are those of the native kernels"),
]
Array = np.ndarray[Any, Any]
TYPES = {"float64": 0, "float32": 1, "bfloat16": 2, "float16": 3}
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def build(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CFLAGS": "-O1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the compiled functions of calls.pyx."""
    folder = tmp_path_factory.mktemp("calls")
    shutil.copy(HERE / "calls.pyx", folder)
    setup = (EXAMPLE / "setup.py").read_text(encoding="utf-8")
    (folder / "setup.py").write_text(setup.replace("beam", "calls"), encoding="utf-8")
    build(folder)
    [library] = folder.glob("calls.*.so")
    spec = importlib.util.spec_from_file_location("calls", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the examples are not here")
def test_the_example_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("build", "*.so", "*.c"))
    build(project)
    done = subprocess.run(
        [sys.executable, "-W", "error", "run.py"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"log-probability -\d+\.\d+\nlosses and gradients agree", done.stdout)


def rows_of(x: Array, dtype: str | None = None) -> Any:
    """Return an (outer, inner, classes) array as calls.pyx takes it."""
    strides = tuple(stride // x.itemsize for stride in x.strides)
    return x.ctypes.data, TYPES[dtype or x.dtype.name], x.shape, strides


def numbers(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes").bfloat16
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


LAYOUTS: dict[str, Any] = {
    "contiguous": lambda x: x,
    "rows apart": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "classes apart": lambda x: np.repeat(x, 3, axis=2)[:, :, ::3],
    "class axis first": lambda x: np.ascontiguousarray(np.moveaxis(x, 2, 0)).transpose(1, 2, 0),
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
}
SHAPES = [(1, 1, 1), (1, 7, 10), (3, 5, 33), (2, 300, 257), (1, 4, 5000)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_function_has_the_bits_of_pythons(calls: Any, shape: Any, dtype: str, layout: str) -> None:
    x = LAYOUTS[layout](numbers(shape, dtype, 0))
    n = shape[0] * shape[1]
    assert x.shape == shape
    for threads in (1, 3):
        lse = np.full(n, 7.0)
        assert calls.logsumexp(rows_of(x), lse.ctypes.data, threads) == 0
        want = fn.logsumexp(x)  # float32 for 16-bit logits
        np.testing.assert_array_equal(lse.astype(want.dtype).reshape(shape[:2]), want)
        for log, function, vjp in ((0, fn.softmax, fn.softmax_vjp), (1, fn.log_softmax, fn.log_softmax_vjp)):
            out = np.full_like(x, 7)
            assert calls.softmax(rows_of(x), rows_of(out), log, threads) == 0
            np.testing.assert_array_equal(out, function(x, out=np.empty_like(x)))
            upstream, product = numbers(shape, dtype, 1), np.empty_like(x)
            assert calls.softmax_vjp(rows_of(out), rows_of(upstream), rows_of(product), log, threads) == 0
            np.testing.assert_array_equal(product, vjp(out, upstream))
        probs = np.ascontiguousarray(fn.softmax(numbers(shape, dtype, 2)))
        loss, grad, weight = np.full(n, 7.0), np.empty_like(x), np.linspace(0.5, 2, n)
        given = (weight.ctypes.data, loss.ctypes.data, rows_of(grad), weight.ctypes.data, 0.25, threads)
        assert calls.soft_cross_entropy(rows_of(x), rows_of(probs), *given) == 0
        want, want_grad = fn.cross_entropy_value_and_grad(
            x,
            probs,
            reduction="none",
            token_weight=weight.reshape(shape[:2]),
            grad_output=np.full(shape[:2], 0.25),
            out=np.empty_like(x),
        )
        np.testing.assert_array_equal(loss.astype(want.dtype).reshape(shape[:2]), want)
        np.testing.assert_array_equal(grad, want_grad)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_class_ids_of_every_dtype(calls: Any, dtype: str, threads: int) -> None:
    rng = np.random.default_rng(3)
    x, targets = numbers((4, 6, 90), "float32", 3), rng.integers(0, 90, (4, 6)).astype(dtype)
    code = INTEGERS.index(dtype)
    loss, grad = np.empty(24), np.empty_like(x)
    assert (
        calls.cross_entropy(rows_of(x), targets.ctypes.data, code, 0, loss.ctypes.data, rows_of(grad), 0, 0.5, threads)
        == 0
    )
    want, want_grad = fn.cross_entropy_value_and_grad(
        x, targets, reduction="none", ignore_index=None, grad_output=np.full((4, 6), 0.5)
    )
    np.testing.assert_array_equal(loss.astype(np.float32).reshape(4, 6), want)
    np.testing.assert_array_equal(grad, want_grad)
    assert calls.cross_entropy(rows_of(x), targets.ctypes.data, code, 0, loss.ctypes.data, None, 0, 1.0, threads) == 0
    np.testing.assert_array_equal(loss.astype(np.float32).reshape(4, 6), want)
    # In place: the gradient where the logits were.
    assert calls.cross_entropy(rows_of(x), targets.ctypes.data, code, 0, 0, rows_of(x), 0, 0.5, threads) == 0
    np.testing.assert_array_equal(x, want_grad)


def test_rows_without_weight_are_never_read_and_ids_that_are_no_class_are_nan(calls: Any) -> None:
    x, targets = numbers((1, 5, 40), "float64", 4), np.array([1, 2, -100, 40, 3])
    x[0, 1:3] = np.nan
    weight, loss, grad = np.array([1.0, 0, 0, 1, 2]), np.empty(5), np.full((1, 5, 40), 7.0)
    given = (weight.ctypes.data, loss.ctypes.data, rows_of(grad), 0, 1.0, 2)
    assert calls.cross_entropy(rows_of(x), targets.ctypes.data, 7, *given) == 0
    np.testing.assert_array_equal(np.isnan(loss), [False, False, False, True, False])
    assert np.isnan(grad[0, 3]).all()
    assert (loss[1:3] == 0).all()
    assert (grad[0, 1:3] == 0).all()
    want, want_grad = fn.cross_entropy_value_and_grad(x[0, [0, 4]], [1, 3], reduction="none")
    np.testing.assert_array_equal(loss[[0, 4]], want * [1, 2])
    np.testing.assert_allclose(grad[0, [0, 4]], want_grad * [[1], [2]], rtol=1e-15)


def test_a_matrix_is_rows_one_after_the_other(calls: Any) -> None:
    x = numbers((6, 50), "float32", 5)
    assert calls.matrix(x.ctypes.data, 1, 6, 50) == (*rows_of(x[None])[:2], (1, 6, 50), (0, 50, 1))


X = numbers((1, 3, 4), "float32", 6)
A, T, L = X.ctypes.data, np.zeros(3, np.int64).ctypes.data, np.zeros(3).ctypes.data
GOOD = (A, 1, (1, 3, 4), (0, 4, 1))
BAD: dict[str, Any] = {
    "no classes": ("logsumexp", ((A, 1, (1, 3, 0), (0, 4, 1)), L, 1)),
    "a negative size": ("logsumexp", ((A, 1, (1, -3, 4), (0, 4, 1)), L, 1)),
    "no such type": ("logsumexp", ((A, 4, (1, 3, 4), (0, 4, 1)), L, 1)),
    "no threads": ("logsumexp", (GOOD, L, 0)),
    "a result of another type": ("softmax", (GOOD, (A, 0, (1, 3, 4), (0, 4, 1)), 0, 1)),
    "a result of another shape": ("softmax", (GOOD, (A, 1, (1, 3, 5), (0, 5, 1)), 1, 1)),
    "a gradient of another shape": ("softmax_vjp", (GOOD, (A, 1, (3, 1, 4), (4, 0, 1)), GOOD, 0, 1)),
    "ids of no type": ("cross_entropy", (GOOD, T, 8, 0, L, None, 0, 1.0, 1)),
    "probabilities of another shape": (
        "soft_cross_entropy", (GOOD, (A, 1, (1, 2, 4), (0, 4, 1)), 0, L, None, 0, 1.0, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_answer_a_code_and_write_nothing(calls: Any, case: str) -> None:
    function, arguments = BAD[case]
    before = X.copy()
    assert getattr(calls, function)(*arguments) == 2
    np.testing.assert_array_equal(X, before)


def test_no_rows(calls: Any) -> None:
    assert calls.logsumexp((0, 1, (1, 0, 4), (0, 4, 1)), 0, 2) == 0
