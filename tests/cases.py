"""The tables that every op test walks: engines, dtypes, widths, kinds of logits, and the ops themselves.

An *engine* is a backend with, for the native one, an instruction set. An engine the machine cannot run
stays in the table and is skipped with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastnll as fn
from fastnll.kernels import registry, spec
from tests.ops.oracle import Truth, truth_of_rows

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
FULL = ("float64", "float32")
TARGET_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")

# Around the widths of every vector unit, of an unrolled loop and of a block of a row.
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 255, 257)
WIDE = (1000, 2047, 2048, 2049, 4097, 32003)
ROWS = (0, 1, 2, 3, 5, 17, 70)


@dataclass(frozen=True)
class Engine:
    """One implementation of the kernels that can be asked for by name."""

    backend: str
    isa: str | None = None

    @property
    def name(self) -> str:
        return self.backend if self.isa is None else f"{self.backend}-{self.isa}"

    def using(self, **more: Any) -> fn.using:
        return fn.using(backend=self.backend, isa=self.isa, **more)


@cache
def missing(engine: Engine) -> str | None:
    """Return why this machine cannot run the engine, or None."""
    reason = registry.available_backends()[engine.backend]
    if reason is None and engine.isa is not None and engine.isa not in registry.available_isas():
        return f"this machine cannot run the {engine.isa} table"
    return reason


# The rows of AMX are those of AVX-512, and to the bit those with instructions for bfloat16 are (test_bf16_table.py):
# only matrix products need to be tried on all of them.
AMX = Engine("native", "amx")
BF16 = Engine("native", "avx512_bf16")
ENGINES = (
    Engine("native", "baseline"),
    Engine("native", "avx2"),
    Engine("native", "avx512"),
    Engine("numba"),
    Engine("reference"),
)


def engine_params(*more: Engine) -> list[Any]:
    """Return one pytest parameter an engine, skipped with its reason where it cannot run."""
    params = []
    for engine in (*ENGINES, *more):
        why = missing(engine)
        marks = [pytest.mark.skip(reason=f"{engine.name}: {why}")] if why else []
        params.append(pytest.param(engine, id=engine.name, marks=marks))
    return params


# ---- logits ---------------------------------------------------------------------------------------


def _normal(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
    return 2.0 * rng.standard_normal((n, v))


def _wide(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
    return rng.uniform(-1e4, 1e4, (n, v))


def _offset(shift: float) -> Callable[..., Array]:
    def logits(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
        return 2.0 * rng.standard_normal((n, v)) + np.clip(shift, -big / 2, big / 2)

    return logits


def _extremes(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
    values = np.array([big, -big, min(1e30, big), -min(1e30, big), 0.0, 1.0])
    return values[rng.integers(0, len(values), (n, v))]


def _masked(value: float) -> Callable[..., Array]:
    def logits(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
        out = 2.0 * rng.standard_normal((n, v))
        masked = rng.random((n, v)) < 0.4
        masked[np.arange(n), rng.integers(0, v, n)] = False  # no row of masked classes only
        out[masked] = max(value, -big) if np.isfinite(value) else value
        return out

    return logits


def _huge_equal(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
    return np.full((n, v), min(3e38, big))


def _tiny_probabilities(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
    out = rng.uniform(-110.0, -80.0, (n, v))
    out[np.arange(n), rng.integers(0, v, n)] = 0.0
    return out


def _denormal_logits(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
    return rng.uniform(-1e-39, 1e-39, (n, v))


def _one_finite(rng: np.random.Generator, n: int, v: int, big: float) -> Array:
    out = np.full((n, v), -np.inf)
    out[np.arange(n), rng.integers(0, v, n)] = 5.0 * rng.standard_normal(n)
    return out


KINDS: dict[str, Callable[..., Array]] = {
    "normal": _normal,
    "wide": _wide,
    "offset-1e4": _offset(1e4),
    "offset-1e6": _offset(1e6),
    "offset-minus-1e6": _offset(-1e6),
    "extremes": _extremes,
    "masked-lowest": _masked(-np.finfo(np.float64).max),
    "masked-inf": _masked(-np.inf),
    "huge-equal": _huge_equal,
    "tiny-probabilities": _tiny_probabilities,
    "denormal-logits": _denormal_logits,
    "one-finite": _one_finite,
}


@dataclass(frozen=True)
class Case:
    """Logits (N, V) of one kind, targets (N,), and what the definitions give for them. Read-only."""

    x: Array
    t: Array
    truth: Truth


def frozen(*arrays: Array) -> tuple[Array, ...]:
    for a in arrays:
        a.flags.writeable = False
    return arrays


@lru_cache(maxsize=1000)
def make_case(n: int, v: int, dtype: str, kind: str = "normal", seed: int = 0) -> Case:
    """Return the same case for the same arguments."""
    rng = np.random.default_rng([n, v, seed, *kind.encode()])
    big = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    x = KINDS[kind](rng, n, v, big).astype(DTYPES[dtype])
    t = rng.integers(0, v, n)
    if kind == "normal":
        assert_interesting(x, t)
    frozen(x, t)
    return Case(x, t, truth_of_rows(x, t))


def assert_interesting(x: Array, t: Array) -> None:
    """Fail on data that would let a wrong formula pass: constant logits, or all mass on the target."""
    n, v = x.shape
    if v == 1 or n * v < 16:  # too few to promise anything of
        return
    wide = x.astype(np.float64)
    assert np.all(wide.std(axis=1) > 1e-3) or v < 7, "test data: a row of logits is constant"
    assert wide.std() > 0.1, "test data: the logits are constant"
    assert truth_of_rows(x, t).probs[np.arange(n), t].min() < 0.9, "test data: all mass on the targets"
    if n >= 17:
        assert len(np.unique(t)) > 1, "test data: one target everywhere"


# ---- the ops ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """A public function, how to call it, and which quantity of `Truth` each of its results is.

    ``run(x, t, **kw)`` takes logits with the classes last and returns a mapping from quantity to array.
    ``kernel`` is its line of `fastnll.kernels.spec.OPS`.
    """

    name: str
    kernel: str
    run: Callable[..., Mapping[str, Any]]
    takes_out: bool = False


def _value_and_grad(x: Array, t: Array, **kw: Any) -> Mapping[str, Any]:
    loss, grad = fn.cross_entropy_value_and_grad(x, t, reduction="none", **kw)
    return {"loss": loss, "grad": grad}


def _selected(x: Array, t: Array, **kw: Any) -> Mapping[str, Any]:
    return {"minus_loss": fn.selected_log_probs(x, t, **kw)}


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("logsumexp", "logsumexp", lambda x, t, **kw: {"lse": fn.logsumexp(x, **kw)}),
        Op("softmax", "softmax", lambda x, t, **kw: {"probs": fn.softmax(x, **kw)}, True),
        Op("log_softmax", "softmax", lambda x, t, **kw: {"log_probs": fn.log_softmax(x, **kw)}, True),
        Op(
            "cross_entropy",
            "cross_entropy",
            lambda x, t, **kw: {"loss": fn.cross_entropy(x, t, reduction="none", **kw)},
        ),
        Op("cross_entropy_value_and_grad", "cross_entropy", _value_and_grad, True),
        Op("selected_log_probs", "gather", _selected),
    )
}

# The dtypes of an op are the op table's, so that a dtype a kernel does not know is said there.
OP_DTYPES = [
    pytest.param(op, dtype, id=f"{op.name}-{dtype}") for op in OPS.values() for dtype in spec.OPS[op.kernel].dtypes
]


def result_dtype(quantity: str, dtype: str) -> np.dtype[Any]:
    """Return the dtype a quantity comes back in: row results are never rounded to 16 bits."""
    if quantity in ("lse", "loss", "minus_loss") and dtype != "float64":
        return DTYPES["float32"]
    return DTYPES[dtype]
