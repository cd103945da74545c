"""softmax, log_softmax and nll_loss against PyTorch's own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: bfloat16 takes PyTorch's own way")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import fastnll.interop.torch as ours  # noqa: E402
from fastnll.interop.torch import _tensors  # noqa: E402
from tests.interop.torch.cases import DTYPES, calls, layouts, outcome, same  # noqa: E402

NAMES = ("softmax", "log_softmax")


@pytest.fixture(params=[0, _tensors.SMALL], ids=["kernels", "as-shipped"])
def small(request, monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", request.param)
    return request.param


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_values_gradients_and_layouts(small, name, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    x = data.draw(layouts(dtype))
    dim = data.draw(st.integers(-x.dim(), x.dim() - 1))
    cast = data.draw(st.sampled_from((None, *DTYPES)))
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for function, kind in (
        (getattr(ours, name), None),
        (getattr(F, name), None),
        (getattr(F, name), torch.float64),
    ):
        leaf = x.detach().to(kind or dtype).requires_grad_()
        y = function(leaf, dim, dtype=kind or cast)
        y.backward(upstream.to(y.dtype))
        results.append((y.detach(), leaf.grad))
    (y, grad), (theirs, their_grad), (exact, exact_grad) = results
    assert (y.dtype, y.shape, grad.dtype) == (theirs.dtype, theirs.shape, their_grad.dtype)
    worst = dtype if cast is None or cast.itemsize > dtype.itemsize else cast
    same(y, exact, worst)
    same(grad, exact_grad, worst)


def test_the_kernels_are_what_is_tested(monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", 0)
    for name in (*NAMES, "nll_loss"):
        monkeypatch.setattr(F, name, None)
    x = torch.randn(4, 5, requires_grad=True)
    for name in NAMES:
        for dim in (0, 1, -1):
            getattr(ours, name)(x, dim).sum().backward()
            getattr(ours, name)(x.bfloat16(), dim, dtype=torch.float32).sum().backward()
    ours.nll_loss(ours.log_softmax(x, 1), torch.tensor([0, 1, 2, 3])).backward()


@pytest.mark.parametrize("name", NAMES)
def test_a_dim_that_is_left_out_is_guessed_with_a_warning_at_the_caller(small, name):
    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="Implicit dimension") as found:
        y = getattr(ours, name)(x)
    assert found[0].filename == __file__
    with pytest.warns(UserWarning, match="Implicit dimension"):
        torch.testing.assert_close(y, getattr(F, name)(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("x", "arguments"),
    [
        (torch.zeros(2, 3), {"dim": 2}),
        (torch.zeros(2, 3), {"dim": -3}),
        (torch.zeros(2, 3), {"dim": "1"}),
        (torch.zeros(2, 3), {"dim": 1.0}),
        (torch.zeros(2, 3), {"dim": True}),
        (torch.zeros(2, 3), {"dim": 1, "dtype": "float32"}),
        (torch.zeros(2, 3, dtype=torch.int64), {"dim": 1}),
        ([[1.0, 2.0]], {"dim": 1}),
    ],
)
def test_errors_are_pytorchs(small, name, x, arguments):
    with pytest.raises(Exception) as theirs:
        getattr(F, name)(x, **arguments)
    with pytest.raises(theirs.type):
        getattr(ours, name)(x, **arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.zeros(0, 3), torch.zeros(3, 0), torch.tensor([[1, 2, 3]])])
def test_scalars_empty_tensors_and_integers(small, name, x):
    dtype = None if x.is_floating_point() else torch.float32
    torch.testing.assert_close(getattr(ours, name)(x, -1, dtype=dtype), getattr(F, name)(x, -1, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
def test_infinities_and_nan(small, name):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[0.0, -inf, 1.0], [-inf, -inf, -inf], [inf, 0.0, 1.0], [nan, 0.0, 1.0], [1e30, -1e30, 1e30]])
    torch.testing.assert_close(getattr(ours, name)(x, 1), getattr(F, name)(x, 1), equal_nan=True)


@given(case=calls(soft=False, smoothing=False))
def test_nll_loss_is_pytorchs(small, case):
    case.input = torch.log_softmax(case.input.double(), 0 if case.input.dim() == 1 else 1).to(case.input.dtype)
    try:
        theirs, their_grad = outcome(F.nll_loss, case)
    except RuntimeError as error:
        with pytest.raises(type(error)):
            outcome(ours.nll_loss, case)
        return
    loss, grad = outcome(ours.nll_loss, case)
    exact, exact_grad = outcome(F.nll_loss, case, torch.float64)
    assert (loss.dtype, loss.shape) == (theirs.dtype, theirs.shape)
    assert (grad.dtype, grad.shape) == (their_grad.dtype, their_grad.shape)
    same(loss, exact, case.input.dtype)
    same(grad, exact_grad, case.input.dtype)


def test_nll_loss_refuses_what_pytorch_refuses(small):
    x, t = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    for target, options in (
        (t + 3, {}),
        (t[:3], {}),
        (t.int(), {}),
        (x.softmax(1), {}),
        (t, {"reduction": "total"}),
        (t, {"weight": torch.ones(3)}),
    ):
        with pytest.raises(Exception) as theirs:
            F.nll_loss(x, target, **options)
        with pytest.raises(theirs.type):
            ours.nll_loss(x, target, **options)


def test_a_mean_of_sixteen_bits_is_summed_in_sixty_four(monkeypatch):
    """PyTorch adds float16 losses in float16: their sum overflows."""
    monkeypatch.setattr(_tensors, "SMALL", 0)
    x, t = torch.full((20000, 2), -8.0, dtype=torch.float16), torch.zeros(20000, dtype=torch.int64)
    assert ours.nll_loss(x, t).item() == 8.0
