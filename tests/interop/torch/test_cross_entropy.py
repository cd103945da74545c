"""cross_entropy against PyTorch's own, over its arguments: values, gradients, dtypes, shapes, strides, errors."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: bfloat16 takes PyTorch's own way")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import fastnll.interop.torch as ours  # noqa: E402
from fastnll.errors import LabelError  # noqa: E402
from fastnll.interop.torch import _loss, _tensors  # noqa: E402
from tests.interop.torch.cases import Case, calls, outcome, same  # noqa: E402


@pytest.fixture(params=[0, _tensors.SMALL], ids=["kernels", "as-shipped"])
def small(request, monkeypatch):
    """Kernels for inputs of every size, then with small ones left to PyTorch."""
    monkeypatch.setattr(_tensors, "SMALL", request.param)
    return request.param


@given(case=calls())
def test_it_is_pytorchs_loss_and_gradient(small, case):
    try:
        theirs, their_grad = outcome(F.cross_entropy, case)
    except RuntimeError as error:  # uint8 targets in some of PyTorch's paths
        with pytest.raises(type(error), match=r"Byte|index"):
            outcome(ours.cross_entropy, case)
        return
    loss, grad = outcome(ours.cross_entropy, case)
    exact, exact_grad = outcome(F.cross_entropy, case, torch.float64)
    assert (loss.dtype, loss.shape) == (theirs.dtype, theirs.shape)
    assert (grad.dtype, grad.shape) == (their_grad.dtype, their_grad.shape)
    same(loss, exact, case.input.dtype)
    same(grad, exact_grad, case.input.dtype)


def test_the_kernels_are_what_is_tested(monkeypatch):
    """Nothing above may silently be PyTorch against PyTorch."""
    monkeypatch.setattr(_tensors, "SMALL", 0)
    monkeypatch.setattr(F, "cross_entropy", None)
    x, t = torch.randn(5, 7, requires_grad=True), torch.tensor([0, 6, 1, -100, 2])
    for options in ({}, {"reduction": "none"}, {"label_smoothing": 0.1}, {"weight": torch.rand(7)}):
        ours.cross_entropy(x, t, **options).sum().backward()
    ours.cross_entropy(x.T[None], torch.randint(7, (1, 5)), reduction="sum").backward()
    ours.cross_entropy(x.bfloat16(), torch.rand(5, 7).bfloat16()).backward()


def test_few_logits_are_pytorchs(monkeypatch):
    """Their limit depends on whether a gradient is wanted."""
    made = []
    inner = _loss.checked
    monkeypatch.setattr(_loss, "checked", lambda *a: made.append(1) or inner(*a))
    t = torch.zeros(64, dtype=torch.int64)
    for classes, gradient, kernel in ((500, True, False), (600, True, True), (600, False, False), (2100, False, True)):
        made.clear()
        ours.cross_entropy(torch.zeros(64, classes, requires_grad=gradient), t)
        assert bool(made) == kernel


def test_gradients_are_laid_out_as_the_logits(monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", 0)
    x = torch.randn(2, 6, 9).transpose(1, 2).requires_grad_()
    (grad,) = torch.autograd.grad(ours.cross_entropy(x, torch.randint(9, (2, 6))), x)
    assert grad.stride() == x.stride()
    one = torch.randn(1, 9, requires_grad=True)
    (grad,) = torch.autograd.grad(ours.cross_entropy(one.expand(4, 9), torch.randint(9, (4,))), one)
    assert grad.shape == (1, 9)


T, X = torch.tensor([0, 4, 2, 1]), torch.randn(4, 5)
SOFT = torch.softmax(X, 1)
BAD = {
    "too few targets": (X, T[:3], {}),
    "a class axis too many": (X, T[:, None], {}),
    "class axis last": (torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64), {}),
    "int32 targets": (X, T.int(), {}),
    "uint16 targets": (X, T.to(torch.uint16), {}),
    "bool targets": (X, T > 1, {}),
    "float targets": (X, T.float(), {}),
    "targets beyond the classes": (X, T + 1, {}),
    "negative targets": (X, T - 1, {}),
    "targets out of range under smoothing": (X, T + 9, {"label_smoothing": 0.1}),
    "an unknown reduction": (X, T, {"reduction": "total"}),
    "a smoothing above 1": (X, T, {"label_smoothing": 1.5}),
    "a smoothing that is text": (X, T, {"label_smoothing": "0.1"}),
    "an ignore_index that is no integer": (X, T, {"ignore_index": 1.5}),
    "ignored probabilities": (X, SOFT, {"ignore_index": 2}),
    "weights for other classes": (X, T, {"weight": torch.ones(4)}),
    "weights with two axes": (X, T, {"weight": torch.ones(5, 1)}),
    "weights of another dtype": (X, T, {"weight": torch.ones(5, dtype=torch.float64)}),
    "integer logits": (X.int(), T, {}),
    "complex logits": (X.to(torch.complex64), T, {}),
    "a list": (X.tolist(), T, {}),
    "no input": (None, T, {}),
    "a list of targets": (X, T.tolist(), {}),
    "no classes": (X[:, :0], T, {}),
    "a scalar": (X[0, 0], T[0], {}),
    "a weight that is text": (X, T, {"weight": "balanced"}),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_pytorchs(small, name):
    x, t, options = BAD[name]
    with pytest.raises(Exception) as theirs:
        F.cross_entropy(x, t, **options)
    with pytest.raises(theirs.type):
        ours.cross_entropy(x, t, **options)


def test_a_bad_target_is_located(small):
    with (
        pytest.raises(LabelError, match=r"got 5 at position 2 \(1 of 4 out of range\)")
        if not small
        else (pytest.raises(IndexError))
    ):
        ours.cross_entropy(X, torch.tensor([0, -100, 5, 2]))


@pytest.mark.parametrize("legacy", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}])
def test_deprecated_reductions_warn_and_work(small, legacy):
    with pytest.warns(UserWarning, match="reduction"):
        expected = F.cross_entropy(X, T, **legacy)
    with pytest.warns(UserWarning, match="reduction"):
        found = ours.cross_entropy(X, T, **legacy)
    torch.testing.assert_close(found, expected)


def test_positional_arguments_mean_what_they_mean_there(small):
    weight = torch.rand(5)
    expected = F.cross_entropy(X, T, weight, None, 2, None, "sum", 0.1)
    torch.testing.assert_close(ours.cross_entropy(X, T, weight, None, 2, None, "sum", 0.1), expected)


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1}])
def test_empty_batches_and_batches_of_ignored_rows(small, options):
    for x, t in ((X[:0], T[:0]), (X, torch.full((4,), -100))):
        found, expected = (outcome(f, Case(x, t, None, options)) for f in (ours.cross_entropy, F.cross_entropy))
        torch.testing.assert_close(found[0], expected[0], equal_nan=True)
        torch.testing.assert_close(found[1], expected[1], equal_nan=True)


def test_weights_that_sum_to_nothing(small):
    found, expected = (outcome(f, Case(X, T, torch.zeros(5), {})) for f in (ours.cross_entropy, F.cross_entropy))
    assert found[0].isnan() and expected[0].isnan()
    assert found[1].isnan().any() == expected[1].isnan().any()


def test_targets_that_are_no_distribution(monkeypatch):
    """PyTorch takes any numbers as probabilities; so do policy gradients."""
    monkeypatch.setattr(_tensors, "SMALL", 0)
    case = Case(X.double(), torch.randn(4, 5, dtype=torch.float64), None, {})
    assert (case.target < 0).any()
    theirs = outcome(F.cross_entropy, case)
    monkeypatch.setattr(F, "cross_entropy", None)  # no way out
    for found, expected in zip(outcome(ours.cross_entropy, case), theirs, strict=True):
        same(found, expected, torch.float64)


def test_targets_of_another_float_dtype_promote(small):
    found, expected = (f(X, SOFT.double()) for f in (ours.cross_entropy, F.cross_entropy))
    assert found.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(found, expected)


def test_negative_class_weights_are_pytorchs_business(small):
    weight = torch.tensor([1.0, -0.5, 1.0, 2.0, 1.0])
    torch.testing.assert_close(ours.cross_entropy(X, T, weight), F.cross_entropy(X, T, weight))


def test_what_an_ignored_row_holds_does_not_leak(monkeypatch):
    """The documented difference: PyTorch's gradient is NaN there."""
    monkeypatch.setattr(_tensors, "SMALL", 0)
    x = X.clone()
    x[1] = float("nan")
    x.requires_grad_()
    loss = ours.cross_entropy(x, torch.tensor([0, -100, 2, 1]))
    loss.backward()
    assert loss.isfinite() and (x.grad[1] == 0).all() and x.grad[[0, 2, 3]].isfinite().all()


@given(value=st.floats(width=32, allow_nan=False), dtype=st.sampled_from((torch.float32, torch.float64, torch.float16)))
def test_scalars_overflow_to_infinity(value, dtype):
    expected = torch.tensor(value, dtype=torch.float64).to(dtype)
    assert _tensors.scalar(value, dtype) == expected


def test_a_half_sum_overflows_as_pytorchs(monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", 0)
    x, t = torch.zeros(40000, 8, dtype=torch.float16), torch.zeros(40000, dtype=torch.int64)
    assert ours.cross_entropy(x, t, reduction="sum").isinf()
    # The mean does not, though its sum would: PyTorch's is inf.
    assert abs(ours.cross_entropy(x, t).item() - np.log(8)) < 1e-3


def test_options_are_checked_once(monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", 0)
    monkeypatch.setattr(_loss, "_checked", {})
    for _ in range(3):
        ours.cross_entropy(X, T, reduction="sum")
    assert len(_loss._checked) == 1


def test_weights_are_read_at_every_call(monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", 0)
    weight = torch.ones(5)
    before = ours.cross_entropy(X, T, weight)
    weight[T[0]] = 50.0
    torch.testing.assert_close(ours.cross_entropy(X, T, weight), F.cross_entropy(X, T, weight))
    assert before != ours.cross_entropy(X, T, weight)
