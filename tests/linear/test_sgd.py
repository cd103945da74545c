"""SGD while the gradient is made is SGD's own step with that gradient."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from fastnll.ops._linear_sgd import GROUP
from tests.cases import DTYPES, Engine
from tests.linear.problems import make_head, smallest_bound

Array = np.ndarray[Any, Any]
STEPS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.3},
    "momentum": {"lr": 0.3, "momentum": 0.9, "dampening": 0.2},
    "first step": {"lr": 0.3, "momentum": 0.9, "first_step": True},
    "nesterov": {"lr": 0.3, "momentum": 0.9, "nesterov": True},
    "decay": {"lr": 0.3, "weight_decay": 0.1, "maximize": True},
}
TOLERANCE = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 1e-2}


def step_of(name: str, weight: Array) -> dict[str, Any]:
    step = dict(STEPS[name])
    if "momentum" in step:
        rng = np.random.default_rng(1)
        step["momentum_buffer"] = (0.01 * rng.standard_normal(weight.shape)).astype(weight.dtype)
    return step


def check(head: Any, name: str, dtype: str, *, max_memory: int | None = None, columns: int = 0, **o: Any) -> None:
    arguments = (head.targets, head.bias)
    loss, grads = fn.linear_cross_entropy_value_and_grad(head.hidden, head.weight, *arguments, **o)
    assert grads.weight is not None
    want, step = head.weight.copy(), step_of(name, head.weight)
    buffer = step.pop("momentum_buffer", None)
    fn.sgd_update(want, grads.weight.astype(want.dtype), buffer, **step)
    found, step = head.weight.copy(), step_of(name, head.weight)
    other, rest = fn.linear_cross_entropy_value_and_grad(
        head.hidden, found, *arguments, sgd=step, max_memory=max_memory, **o
    )
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(other, loss, rtol={"float64": 1e-12, "float32": 1e-6}.get(dtype, 1e-5))
    assert rest.weight is None
    moved = np.abs(want.astype(float) - head.weight.astype(float)).max()
    assert moved > 0
    gap = np.abs(found.astype(float) - want.astype(float)).max()
    assert gap <= tolerance * (moved + np.abs(want.astype(float)).max())
    if buffer is not None:
        np.testing.assert_allclose(
            step["momentum_buffer"].astype(float), buffer.astype(float), rtol=tolerance, atol=tolerance * moved
        )
    for a, b in ((rest.hidden, grads.hidden), (rest.bias, grads.bias)):
        if b is not None:
            assert a is not None
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=max(TOLERANCE[dtype] / 10, 1e-14) * np.abs(b).max())


FULL = ("float64", "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_the_step_of_sgd(engine: Engine, name: str, dtype: str) -> None:
    """All logits are held: small batch."""
    check(make_head(60, 9, 300, dtype), name, dtype)


SLICED: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum", "grad_output": 0.01},
    "each": {"reduction": "none", "grad_output": 0.1},
    "z_loss": {"z_loss": 0.02},
    "temperature": {"temperature": 0.7},
    "class weights": {"class_weight": np.linspace(0.1, 2.0, 2 * GROUP + 300)},
    "class mask": {"class_mask": np.arange(2 * GROUP + 300) % 3 > 0},
    "padding": {"valid_classes": 2 * GROUP + 100},
    "mask": {"mask": np.arange(40) % 4 > 0},
}


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("name", SLICED)
def test_several_groups_of_classes(engine: Engine, name: str, dtype: str) -> None:
    """The logits do not fit: two sweeps, in which the other groups are one class."""
    v = 2 * GROUP + 300
    head = make_head(40, 6, v, dtype)
    targets = head.targets.copy()
    live = targets >= 0
    targets[live] = np.array([1, GROUP - 1, GROUP + 1, 2 * GROUP + 1])[np.arange(live.sum()) % 4]
    if name == "class mask":
        targets[live] -= targets[live] % 3 == 0
        targets[live] += targets[live] % 3 == 0
    head = head._replace(targets=targets)
    if engine.backend == "reference":
        bound = 12 << 20
    else:
        with_sgd = {"hidden": head.hidden, "weight": head.weight, "sgd": True}
        bound = smallest_bound(**with_sgd)
    assert bound < 40 * v * 8 + (20 << 20)
    with pytest.MonkeyPatch.context() as patch:
        calls = counting(patch, head)
        check(head, "momentum", dtype, max_memory=bound, **SLICED[name])
        if engine.backend != "reference":
            assert calls, "the two sweeps ran"


def counting(patch: pytest.MonkeyPatch, head: Any) -> list[int]:
    """Note each call of the first sweep."""
    from fastnll.ops import _linear_sgd

    calls: list[int] = []
    original = _linear_sgd._Sweeps._others

    def noted(self: Any) -> Array:
        calls.append(1)
        return original(self)

    patch.setattr(_linear_sgd._Sweeps, "_others", noted)
    return calls


def test_options_that_see_every_class_need_the_logits() -> None:
    head = make_head(40, 6, 2 * GROUP + 300)
    weight = head.weight.copy()
    bound = smallest_bound(hidden=head.hidden, weight=weight, sgd=True)
    arguments = (head.hidden, weight, head.targets, head.bias)
    for o in ({"label_smoothing": 0.1}, {"softcap": 5.0}):
        with pytest.raises(fn.OptionError, match="sgd: expected class ids, without label_smoothing, softcap"):
            fn.linear_cross_entropy_value_and_grad(*arguments, sgd={"lr": 0.1}, max_memory=bound, **o)
        np.testing.assert_array_equal(weight, head.weight)  # nothing was updated
        check(head, "plain", "float64", **o)


def test_the_gradient_of_the_weight_is_never_held() -> None:
    head = make_head(64, 64, 40000, "float32")
    weight = head.weight.copy()
    arguments = (head.hidden, weight, head.targets, head.bias)
    bound = smallest_bound(hidden=head.hidden, weight=weight, sgd=True)

    def call() -> None:
        fn.linear_cross_entropy_value_and_grad(*arguments, sgd={"lr": 0.1}, max_memory=bound)

    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weight.nbytes
    assert peak < bound + (1 << 20)


def test_padded_classes_decay() -> None:
    head = make_head(20, 6, 100)
    weight = head.weight.copy()
    fn.linear_cross_entropy_value_and_grad(
        head.hidden, weight, head.targets % 50, head.bias, valid_classes=50, sgd={"lr": 0.1, "weight_decay": 0.5}
    )
    np.testing.assert_allclose(weight[50:], 0.95 * head.weight[50:], rtol=1e-14)
