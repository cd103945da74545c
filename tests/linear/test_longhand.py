"""Every option alone, and many pairs, in every engine, against the loss written out and its central differences."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.cases import Engine
from tests.linear.problems import Truth, assert_grads, make_head, truth
from tests.loss import longhand
from tests.loss.tables import batch, option_table, pairs, soft_targets

Array = np.ndarray[Any, Any]
N, D, V = 6, 5, 11
OPTIONS = option_table(N, V)
KINDS = ("ids", "dense", "sparse")


def renamed(o: dict[str, Any]) -> dict[str, Any]:
    return {("class_weight" if k == "weight" else k): a for k, a in o.items()}


def targets_of(kind: str, n: int, v: int) -> Any:
    dense, sparse = soft_targets(n, v)
    return {"ids": batch(n, v)[1], "dense": dense, "sparse": sparse}[kind]


@cache
def expected(name: str, kind: str) -> Truth:
    head, o, t = make_head(N, D, V), OPTIONS[name], targets_of(kind, N, V)
    x = head.logits
    g = longhand.numeric_gradient(lambda z: float(np.nansum(longhand.loss(z, t, o))), x)
    return Truth(longhand.loss(x, t, o), g @ head.weight, g.T @ head.hidden, g.sum(axis=0), g)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_option_longhand(engine: Engine, kind: str, name: str) -> None:
    o = OPTIONS[name]
    head, t = make_head(N, D, V), targets_of(kind, N, V)
    if kind != "ids" and "shift" in o:
        with pytest.raises(fn.OptionError, match="shift"):
            fn.linear_cross_entropy(*head[:2], t, **renamed(o))
        return
    want = expected(name, kind)
    loss, grads = fn.linear_cross_entropy_value_and_grad(head.hidden, head.weight, t, head.bias, **renamed(o))
    np.testing.assert_allclose(loss, want.loss, rtol=1e-11, atol=1e-13)
    value = fn.linear_cross_entropy(head.hidden, head.weight, t, head.bias, **renamed(o))
    np.testing.assert_allclose(value, want.loss, rtol=1e-11, atol=1e-13)
    for found, right in zip(grads, want[1:4], strict=True):
        assert found is not None
        np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-8)


def test_every_pair_of_options(engine: Engine) -> None:
    """Against the loss' own ops, which hold every pair to the longhand formula."""
    n, v = 30, 47
    head = make_head(n, D, v)
    table = pairs(option_table(n, v))
    for kind in KINDS:
        t = targets_of(kind, n, v)
        for name, o in table[:: 1 if engine.backend == "native" else 7]:
            if kind != "ids" and "shift" in o:
                continue
            want = truth(head, t, **renamed(o))
            loss, grads = fn.linear_cross_entropy_value_and_grad(head.hidden, head.weight, t, head.bias, **renamed(o))
            np.testing.assert_allclose(loss, want.loss, rtol=1e-11, atol=1e-13, err_msg=f"{kind} {name}")
            assert_grads(grads, want, context=f"{kind} {name}")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "sequence_sum", "sequence_mean"])
def test_upstream_gradients(engine: Engine, reduction: str) -> None:
    head = make_head(24, D, V)
    o: dict[str, Any] = {"reduction": reduction}
    if "sequence" in reduction:
        o["offsets"] = [0, 5, 5, 24]
    shape = {"none": (24,), "sequence_sum": (3,), "sequence_mean": (3,)}.get(reduction, ())
    up = np.random.default_rng(1).standard_normal(shape) if shape else 0.7
    want = truth(head, grad_output=up, **o)
    _, grads = fn.linear_cross_entropy_value_and_grad(*head[:2], head.targets, head.bias, grad_output=up, **o)
    assert_grads(grads, want)


def test_the_class_is_the_functions() -> None:
    head = make_head(24, D, V)
    loss = fn.CrossEntropy(weight=np.arange(1.0, V + 1), label_smoothing=0.1)
    o: dict[str, Any] = {"class_weight": np.arange(1.0, V + 1), "label_smoothing": 0.1}
    arguments = (*head[:2], head.targets, head.bias)
    assert loss.linear(*arguments) == fn.linear_cross_entropy(*arguments, **o)
    assert loss.linear(*arguments, class_weight=None) == fn.linear_cross_entropy(*arguments, label_smoothing=0.1)
    value, grads = loss.linear_value_and_grad(*arguments, wrt="weight")
    want, right = fn.linear_cross_entropy_value_and_grad(*arguments, **o)
    assert value == want
    assert grads.hidden is None
    np.testing.assert_array_equal(grads.weight, right.weight)
