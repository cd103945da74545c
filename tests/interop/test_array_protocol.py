"""Arrays of other libraries go into every function, by ``__array__`` or ``__dlpack__``, without a copy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastnll as fn
from fastnll.arrays import as_array

Array = np.ndarray[Any, Any]


class OnlyDlpack:
    """An array of which nothing can be had but a DLPack capsule."""

    def __init__(self, a: Array, device: tuple[int, int] = (1, 0)) -> None:
        self.a, self.device = a, device

    def __dlpack__(self, **kw: Any) -> Any:
        return self.a.__dlpack__(**kw)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class OnlyArray:
    """An array of which nothing can be had but a NumPy array."""

    def __init__(self, a: Array) -> None:
        self.a = a

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.a if dtype is None else self.a.astype(dtype)


def of_torch(a: Array) -> Any:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tensors cannot be tried")
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def of_jax(a: Array) -> Any:
    jax = pytest.importorskip("jax", reason="JAX is not installed: its arrays cannot be tried")
    with jax.enable_x64(True):
        return jax.numpy.asarray(a)


def read_only(a: Array) -> Array:
    a = a.copy()
    a.flags.writeable = False
    return a


KINDS: dict[str, Callable[[Array], Any]] = {
    "dlpack": OnlyDlpack,
    "array": OnlyArray,
    "torch": of_torch,
    "jax": of_jax,
    "read-only": read_only,
}
RNG = np.random.default_rng(5)
X = 2.0 * RNG.standard_normal((6, 9))
T = RNG.integers(0, 9, 6)
IDS = RNG.integers(0, 9, (6, 3))
P = fn.softmax(RNG.standard_normal((6, 9)))
G = RNG.standard_normal((6, 9))
MASK = np.array([True, False, True, True, True, False])
CLASSES = np.arange(9) != T[0] - 1
W = RNG.uniform(0.5, 2.0, 9)
ROW = RNG.uniform(0.5, 2.0, 6)
OFFSETS = np.array([0, 2, 6])

# What is called, with the arrays it is given; each is handed over as every kind.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Array, ...]]] = {
    "logsumexp": (fn.logsumexp, (X,)),
    "softmax": (fn.softmax, (X,)),
    "log_softmax": (fn.log_softmax, (X,)),
    "softmax_vjp": (fn.softmax_vjp, (P, G)),
    "log_softmax_vjp": (fn.log_softmax_vjp, (np.log(P), G)),
    "nll_loss": (fn.nll_loss, (np.log(P), T)),
    "selected_log_probs": (fn.selected_log_probs, (X, IDS)),
    "selected_log_probs_vjp": (fn.selected_log_probs_vjp, (X, IDS, G[:, :3])),
    "cross_entropy": (fn.cross_entropy, (X, T)),
    "cross_entropy of probabilities": (fn.cross_entropy, (X, P)),
    "cross_entropy_value_and_grad": (
        lambda x, t, g: fn.cross_entropy_value_and_grad(x, t, grad_output=g, reduction="none"),
        (X, T, ROW),
    ),
    "cross_entropy_details": (fn.cross_entropy_details, (X, T)),
    "mask": (lambda x, t, m: fn.cross_entropy(x, t, mask=m), (X, T, MASK)),
    "class_mask": (lambda x, t, m: fn.cross_entropy(x, t, class_mask=m), (X, T, CLASSES | (np.arange(9) == T[0]))),
    "weight": (lambda x, t, w: fn.cross_entropy(x, t, weight=w), (X, T, W)),
    "token_weight": (lambda x, t, w: fn.cross_entropy(x, t, token_weight=w), (X, T, ROW)),
    "offsets": (lambda x, t, o: fn.cross_entropy(x, t, offsets=o, reduction="sequence_sum"), (X, T, OFFSETS)),
    "sparse targets": (lambda x, i, q: fn.cross_entropy(x, (i, q)), (X, IDS, P[:, :3])),
}


def flat(result: Any) -> list[Array]:
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_every_function_takes_every_array(call: str, kind: str) -> None:
    function, arrays = CALLS[call]
    want = function(*arrays)
    got = function(*(KINDS[kind](a.copy()) for a in arrays))
    for ours, theirs in zip(flat(got), flat(want), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", ["torch", "jax", "array"])
def test_every_float_dtype(kind: str, dtype: Any) -> None:
    x = X.astype(dtype)
    foreign = KINDS[kind](x.copy())
    loss, grad = fn.cross_entropy_value_and_grad(foreign, T)
    want, want_grad = fn.cross_entropy_value_and_grad(x, T)
    assert loss == want
    assert grad.dtype == dtype
    assert grad.tobytes() == want_grad.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_tensor_is_read_in_place(dtype: Any) -> None:
    x = X.astype(dtype)
    tensor = of_torch(x)
    for view, seen in ((tensor, x), (tensor.T, x.T), (tensor[1::2, ::3], x[1::2, ::3]), (tensor[:0], x[:0])):
        a = as_array(view, "x")
        assert a.shape == seen.shape
        assert a.tobytes() == seen.tobytes()
        assert a.size == 0 or np.shares_memory(a.view(np.uint8) if a.flags.c_contiguous else a, x)


def test_memory_outlives_the_tensor_it_was_borrowed_from() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kept = [as_array(torch.full((1000,), float(i)).bfloat16(), "x") for i in range(64)]
    for i, a in enumerate(kept):
        assert np.all(a == np.full((), i, ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_step_of_sgd_writes_to_the_tensor(dtype: Any) -> None:
    param, grad, buffer = (a.astype(dtype) for a in (X, G, 0 * X))
    tensors = [of_torch(a.copy()) for a in (param, grad, buffer)]
    fn.sgd_update(*tensors, lr=0.1, momentum=0.9)
    fn.sgd_update(param, grad, buffer, lr=0.1, momentum=0.9)
    for tensor, a in zip(tensors, (param, grad, buffer), strict=True):
        assert as_array(tensor, "x").tobytes() == a.tobytes()


def test_a_step_of_sgd_refuses_what_cannot_change() -> None:
    with pytest.raises(fn.DTypeError, match="param: expected a writeable"):
        fn.sgd_update(of_jax(X), G, lr=0.1)
    with pytest.raises(fn.DTypeError, match="param: expected a numpy array, got list"):
        fn.sgd_update([1.0], G, lr=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "name"), [((2, 1), "CUDA"), ((8, 0), "Metal"), ((99, 0), "DLPack type 99")])
def test_other_devices_are_refused_in_one_sentence(device: tuple[int, int], name: str) -> None:
    message = f"logits: expected an array in the CPU's memory, got one on .*{name} .number {device[1]}.; copy it"
    with pytest.raises(fn.DTypeError, match=message):
        fn.cross_entropy(OnlyDlpack(X, device), T)  # type: ignore[arg-type]
    with pytest.raises(fn.DTypeError, match="targets: expected an array in the CPU's memory"):
        fn.cross_entropy(X, OnlyDlpack(T, device))


@pytest.mark.parametrize("kind", ["grad", "bfloat16 grad", "sparse", "meta", "float8"])
def test_tensors_without_readable_memory_are_refused(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = of_torch(X.astype(np.float32))
    bad = {
        "grad": lambda: x.clone().requires_grad_(),
        "bfloat16 grad": lambda: x.bfloat16().requires_grad_(),
        "sparse": x.to_sparse,
        "meta": lambda: x.to("meta"),
        "float8": lambda: x.to(torch.float8_e4m3fn),
    }[kind]()
    with pytest.raises(fn.DTypeError, match=r"^x: expected"):
        fn.logsumexp(bad)


def test_masked_arrays_are_refused() -> None:
    with pytest.raises(fn.DTypeError, match="masked"):
        fn.softmax(np.ma.array([1.0, 2.0], mask=[True, False]))


def test_nothing_foreign_is_imported() -> None:
    code = (
        "import sys, numpy as np, fastnll as fn\n"
        "class A:\n"
        "    def __array__(self, dtype=None, copy=None): return np.zeros((2, 3))\n"
        "fn.cross_entropy(A(), [0, 1])\n"
        "assert not {'torch', 'jax', 'ml_dtypes', 'sklearn'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
