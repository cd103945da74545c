"""The public names: signatures, docstrings that run, `using`, and what importing costs."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.kernels import registry, spec
from tests.cases import AMX, BF16, DTYPES, ENGINES, OPS, Engine, frozen, make_case, missing
from tests.ops.alone import run_alone

# Positional parameters, then keyword-only ones with their defaults; `...` has no default. A trailing "**"
# says that further loss options are taken.
SIGNATURES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "logsumexp": ({"x": ..., "axis": -1}, {"keepdims": False, "out": None, "threads": None}, False),
    "softmax": ({"x": ..., "axis": -1}, {"out": None, "threads": None}, False),
    "log_softmax": ({"x": ..., "axis": -1}, {"out": None, "threads": None}, False),
    "log_softmax_vjp": ({"log_probs": ..., "grad": ..., "axis": -1}, {"out": None, "threads": None}, False),
    "softmax_vjp": ({"probs": ..., "grad": ..., "axis": -1}, {"out": None, "threads": None}, False),
    "nll_loss": ({"log_probs": ..., "targets": ...}, {}, True),
    "selected_log_probs": ({"logits": ..., "ids": ...}, {"axis": -1, "threads": None}, False),
    "cross_entropy": ({"logits": ..., "targets": ...}, {}, True),
    "cross_entropy_value_and_grad": ({"logits": ..., "targets": ...}, {"grad_output": None, "out": None}, True),
    "sgd_update": (
        {"param": ..., "grad": ..., "momentum_buffer": None},
        {
            "lr": ..., "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0,
            "maximize": False, "grad_scale": 1.0, "first_step": False, "threads": None,
        },
        False,
    ),
}  # fmt: skip
OPTIONS = {"reduction": "mean", "ignore_index": -100, "axis": -1, "threads": None, "empty": "nan"}
PUBLIC = sorted(fn.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    positional, keywords, options = SIGNATURES[name]
    signature = inspect.signature(getattr(fn, name))
    empty = inspect.Parameter.empty

    def defaults(*kinds: Any) -> dict[str, Any]:
        found = {p.name: p.default for p in signature.parameters.values() if p.kind in kinds}
        return {k: ... if v is empty else v for k, v in found.items()}

    assert defaults(inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY) == positional
    found = defaults(inspect.Parameter.KEYWORD_ONLY)
    assert list(found)[: len(keywords)] == list(keywords) or not options
    assert {k: found[k] for k in keywords} == keywords
    takes_any = bool(defaults(inspect.Parameter.VAR_KEYWORD))
    if not options:
        assert found == keywords
        assert not takes_any
        return
    for option, default in OPTIONS.items():
        assert takes_any or found[option] == default


@pytest.mark.parametrize("option", OPTIONS)
def test_defaults_of_the_options(option: str) -> None:
    """Written out, a default changes nothing."""
    case = make_case(5, 7, "float64")
    given = {option: OPTIONS[option]}
    assert fn.cross_entropy(case.x, case.t, **given) == fn.cross_entropy(case.x, case.t)
    assert fn.nll_loss(case.x, case.t, **given) == fn.nll_loss(case.x, case.t)
    assert fn.CrossEntropy(**given)(case.x, case.t) == fn.CrossEntropy()(case.x, case.t)


def test_the_class_is_the_functions(engine: Engine) -> None:
    case = make_case(70, 33, "float32")
    t = case.t.copy()
    t[3] = 5
    loss = fn.CrossEntropy(reduction="sum", ignore_index=5)
    options = {"reduction": "sum", "ignore_index": 5}
    assert loss(case.x, t) == fn.cross_entropy(case.x, t, **options)
    assert loss.nll(case.x, t) == fn.nll_loss(case.x, t, **options)
    value, grad = loss.value_and_grad(case.x, t)
    want = fn.cross_entropy_value_and_grad(case.x, t, **options)
    assert value == want[0]
    assert np.array_equal(grad, want[1])


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_runs(name: str) -> None:
    """Every public function and class has a docstring whose examples hold; methods' examples too."""
    public = getattr(fn, name)
    tests = [t for t in doctest.DocTestFinder().find(public, name, globs={}) if t.examples]
    is_error = inspect.isclass(public) and issubclass(public, BaseException)
    assert inspect.getdoc(public), f"{name} has no docstring"
    assert tests or is_error, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in tests:
        test.globs = {**vars(inspect.getmodule(public)), "fn": fn, "np": np}
        runner.run(test, out=said.append, clear_globs=False)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_docstring_has_the_sections(name: str) -> None:
    doc = inspect.getdoc(getattr(fn, name)) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        if section == "Returns" and name == "sgd_update":
            continue  # works in place
        assert f"{section}\n{'-' * len(section)}" in doc, f"{name}: no {section} section"
    for parameter in [p for group in SIGNATURES[name][:2] for p in group]:
        assert parameter in doc, f"{name}: parameter {parameter} is not described"


def test_the_op_table_names_public_functions() -> None:
    for line in spec.OPS.values():
        for name in line.public:
            assert name in fn.__all__
        assert set(line.dtypes) <= set(DTYPES)
    for op in OPS.values():
        assert op.name in spec.OPS[op.kernel].public


# ---- engines -----------------------------------------------------------------------------------------


def test_the_engine_asked_for_is_the_one_that_runs(engine: Engine) -> None:
    said = fn.info().to_dict()
    assert said["backend"] == engine.backend
    if engine.isa:
        assert said["isa"] == engine.isa
    assert engine.backend in str(fn.info())


def test_at_least_the_reference_runs() -> None:
    backends = registry.available_backends()
    assert set(backends) == {"native", "numba", "reference"}
    assert backends["reference"] is None
    assert {e.backend for e in ENGINES} == set(backends)
    assert "baseline" in registry.available_isas() or backends["native"] is not None
    assert set(registry.available_isas()) <= {e.isa for e in ENGINES} | {AMX.isa, BF16.isa}


def test_using_nests_and_ends() -> None:
    def now() -> tuple[Any, Any]:
        said = fn.info().to_dict()
        return said["backend"], said["threads"]

    outside = now()
    with fn.using(backend="reference", threads=3):
        assert now() == ("reference", 3)
        with fn.using(threads=2):
            assert now() == ("reference", 2)
        with pytest.raises(ZeroDivisionError), fn.using(threads=5):
            raise ZeroDivisionError
        assert now() == ("reference", 3)
    assert now() == outside


def test_using_stays_in_its_thread() -> None:
    seen: list[Any] = []
    with fn.using(backend="reference", threads=5):
        other = threading.Thread(target=lambda: seen.append(fn.info().to_dict()["threads"]))
        other.start()
        other.join(timeout=30)
        assert fn.info().to_dict()["threads"] == 5
    assert seen
    assert seen[0] != 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend": "cuda"}, "backend.*cuda"),
        ({"isa": "sse9"}, "isa.*sse9"),
        ({"threads": 0}, "threads.*0"),
        ({"threads": -1}, "threads.*-1"),
        ({"threads": 2.5}, "threads.*2.5"),
    ],
    ids=str,
)
def test_using_what_does_not_exist(options: dict[str, Any], says: str) -> None:
    with pytest.raises((fn.errors.FastnllError, TypeError), match=says), fn.using(**options):
        fn.softmax(np.zeros(3))


@pytest.mark.parametrize("engine", [e for e in ENGINES if missing(e)], ids=lambda e: e.name)
def test_an_engine_that_is_missing_says_so(engine: Engine) -> None:
    with pytest.raises(fn.errors.BackendError), engine.using():
        fn.softmax(np.zeros(3))


def test_environment_pins_the_engine(engine: Engine) -> None:
    said = run_alone("import fastnll as fn; d = fn.info().to_dict(); print(d['backend'], d['isa'])", engine)
    assert said.split()[0] == engine.backend
    assert engine.isa is None or said.split()[1] == engine.isa


# ---- cost --------------------------------------------------------------------------------------------


def test_import_loads_nothing_heavy() -> None:
    heavy = ("numba", "torch", "jax", "matplotlib", "mpi4py", "pyarrow", "tokenizers", "safetensors", "tqdm", "sklearn")
    program = f"import sys, fastnll; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def peak(call: Callable[[], Any]) -> int:
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", ["rows", "columns", "every-second", "middle"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_copy_of_the_logits(engine: Engine, dtype: str, layout: str) -> None:
    """Values, gradients into `out` and in place allocate nothing of the size of the logits, for any strides."""
    if engine.backend == "reference":
        pytest.skip("the reference is for reading: it holds float64 copies")
    case = make_case(600, 501, dtype)
    x, t, axis = case.x, frozen(case.t.astype(np.uint16))[0], -1
    if layout == "columns":
        x, axis = np.ascontiguousarray(x.T), 0
    elif layout == "every-second":
        x = np.repeat(x, 2, axis=1)[:, ::2]
    elif layout == "middle":
        x, t, axis = np.ascontiguousarray(x.reshape(20, 30, 501).swapaxes(1, 2)), t.reshape(20, 30), 1
    out = np.empty(x.shape, x.dtype)
    allowed = x.size * x.itemsize // 4
    calls: dict[str, Callable[[], Any]] = {
        "logsumexp": lambda: fn.logsumexp(x, axis),
        "cross_entropy": lambda: fn.cross_entropy(x, t, axis=axis),
        "selected": lambda: fn.selected_log_probs(x, t, axis=axis),
        "softmax": lambda: fn.softmax(x, axis, out=out),
        "log_softmax": lambda: fn.log_softmax(x, axis, out=out),
        "value_and_grad": lambda: fn.cross_entropy_value_and_grad(x, t, axis=axis, out=out),
        "value_and_grad in place": lambda: fn.cross_entropy_value_and_grad(out, t, axis=axis, out=out),
    }
    for name, call in calls.items():
        assert peak(call) < allowed, f"{name} of a {layout} array allocates {peak(call)} bytes"
