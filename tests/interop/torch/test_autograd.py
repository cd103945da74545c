"""What a graph is put through: second passes, second derivatives, scaling, hooks, changed inputs, kept gradients."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: bfloat16 takes PyTorch's own way")

from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastnll.interop.torch as ours  # noqa: E402
from fastnll.interop.torch import _loss, _tensors  # noqa: E402

# PyTorch's own forward-mode formulas are scripted on first use, which warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

T = torch.tensor([0, 4, -100, 2])
H = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
W = torch.tensor([0.5, 1.0, 2.0, 1.5, 0.25], dtype=torch.float64)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Kernels for inputs of every size."""
    monkeypatch.setattr(_tensors, "SMALL", 0)


@pytest.fixture
def x():
    return torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)


FUNCTIONS = {
    "mean": lambda lib, x: lib.cross_entropy(x, T),
    "sum": lambda lib, x: lib.cross_entropy(x, T, W, reduction="sum", label_smoothing=0.1),
    "none": lambda lib, x: lib.cross_entropy(x, T, W, reduction="none"),
    "soft": lambda lib, x: lib.cross_entropy(x, torch.linspace(0, 1, 20, dtype=torch.float64).view(4, 5)),
    "axis": lambda lib, x: lib.cross_entropy(x.T[None], torch.tensor([[3, 1, 0, 4]]), reduction="none"),
    "log_softmax": lambda lib, x: lib.log_softmax(x, 0),
    "softmax": lambda lib, x: lib.softmax(x, 1),
    "nll_loss": lambda lib, x: lib.nll_loss(x, T, W),
    "nll_none": lambda lib, x: lib.nll_loss(x, T, reduction="none"),
    "head": lambda lib, x: lib.linear_cross_entropy(x, H[:3], T.clamp(0, 2)),
    "head_weight": lambda lib, x: lib.linear_cross_entropy(H, x, torch.tensor([0, 1, 3, -100])),
    "head_none": lambda lib, x: lib.linear_cross_entropy(x, x + 1, T.clamp(-100, 3), reduction="none"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_both_orders_batched_and_forward(name, x):
    def function(x):
        return FUNCTIONS[name](ours, x)

    assert torch.autograd.gradcheck(function, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, (x,))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_second_pass_over_a_retained_graph_gives_the_same(name, x):
    loss = FUNCTIONS[name](ours, x * 1.5).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, x, retain_graph=True)
    (third,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(second, 3 * first)
    torch.testing.assert_close(third, first)
    assert torch.equal(first, kept)  # the later passes wrote elsewhere


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_second_pass_over_a_freed_graph_is_refused(name, x):
    loss = FUNCTIONS[name](ours, x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_add_up_in_leaves(name, x):
    for _ in range(3):
        FUNCTIONS[name](ours, x).sum().backward()
    (once,) = torch.autograd.grad(FUNCTIONS[name](F, x).sum(), x)
    torch.testing.assert_close(x.grad, 3 * once)


def test_a_gradient_that_is_kept_is_not_written_again():
    x = torch.randn(1024, 512, requires_grad=True)  # large enough for the pool
    t = torch.randint(512, (1024,))
    kept = []
    for _ in range(4):
        x.grad = None
        ours.cross_entropy(x, t).backward()
        kept.append((x.grad, x.grad.clone()))
        with torch.no_grad():
            x.add_(1e-2 * torch.randn_like(x))
    assert all(torch.equal(grad, copy) for grad, copy in kept)
    assert len({grad.data_ptr() for grad, _ in kept}) == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1.0, 0.25, 3.0, 65536.0, 0.0, float("inf")])
def test_upstream_gradients_are_rounded_once(dtype, factor):
    x = torch.randn(40, 30, dtype=torch.float64).to(dtype).requires_grad_()
    t = torch.randint(30, (40,))
    (grad,) = torch.autograd.grad(ours.cross_entropy(x, t), x, torch.tensor(factor).to(dtype))
    exact = x.detach().double().requires_grad_()
    upstream = torch.tensor(factor, dtype=torch.float64).to(dtype).double()
    (expected,) = torch.autograd.grad(F.cross_entropy(exact, t), exact, upstream)
    eps = torch.finfo(dtype).eps
    if factor == float("inf"):  # PyTorch has NaN at the target, of inf - inf
        assert torch.equal(grad.isfinite(), expected.isfinite()) and not grad.isfinite().any()
        return
    if dtype.itemsize > 2:
        torch.testing.assert_close(
            grad.double(), expected, rtol=8 * eps, atol=1e-30 + 8 * eps * factor / 40, equal_nan=True
        )
    else:
        # Half an ulp of rounding, and what float32 arithmetic does to p - 1 before.
        bound = (0.51 * eps * expected.abs()).clamp(min=torch.finfo(dtype).smallest_normal * eps)
        assert ((grad.double() - expected).abs() <= bound + 1e-6 * abs(factor) / 40)[expected.isfinite()].all()


def test_logits_changed_after_the_loss_do_not_matter_until_they_are_needed(x):
    """As in PyTorch, whose node does not look at the logits again; a second pass does, and says so."""
    y = x * 1.0
    loss = ours.cross_entropy(y, T)
    (expected,) = torch.autograd.grad(F.cross_entropy(x, T), x)
    with torch.no_grad():
        y.zero_()
    (found,) = torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x)


def test_a_loss_per_row_needs_its_logits_unchanged(x):
    y = x * 1.0
    loss = ours.cross_entropy(y, T, reduction="none")
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


def test_nothing_large_is_kept_beside_a_checkpoint(x, monkeypatch):
    made = []
    inner = _loss.value_and_gradient
    monkeypatch.setattr(_loss, "value_and_gradient", lambda *a: made.append(1) or inner(*a))
    loss = checkpoint(lambda x: ours.cross_entropy(x.exp(), T), x, use_reentrant=False)
    assert not made
    (found,) = torch.autograd.grad(loss, x)
    (expected,) = torch.autograd.grad(F.cross_entropy(x.exp(), T), x)
    torch.testing.assert_close(found, expected)
    ours.cross_entropy(x, T)
    assert made


def test_saved_tensors_go_through_hooks(x):
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t.numpy(), torch.from_numpy):
        loss = ours.cross_entropy(x, T)
    loss.backward()
    assert (4, 5) in packed
    torch.testing.assert_close(x.grad, torch.autograd.grad(F.cross_entropy(x, T), x)[0])


def test_no_graph_where_none_is_asked_for(x):
    with torch.no_grad():
        assert not ours.cross_entropy(x, T).requires_grad
    with torch.inference_mode():
        ours.cross_entropy(x, T)
        ours.cross_entropy(x * 2, T, reduction="none")
        ours.linear_cross_entropy(x * 2, x * 2, T.clamp(max=3))
    assert not ours.cross_entropy(x.detach(), T).requires_grad


def test_targets_and_weights_that_require_gradients_get_pytorchs(x):
    q = torch.softmax(x.detach() * 2, 1).requires_grad_()
    found = torch.autograd.grad(ours.cross_entropy(x, q), (x, q))
    torch.testing.assert_close(found, torch.autograd.grad(F.cross_entropy(x, q), (x, q)))
    weight = W.clone().requires_grad_()
    for lib in (ours, F):  # PyTorch has no such derivative where targets are ids
        with pytest.raises(RuntimeError, match=r"not (implemented|differentiable)"):
            torch.autograd.grad(lib.cross_entropy(x, T, weight), weight)


def test_negated_views_are_read_right():
    z = torch.randn(6, 5, dtype=torch.complex64).conj()
    y = z.imag
    assert y.is_neg()
    torch.testing.assert_close(
        ours.cross_entropy(y, T.clamp(0).repeat(2)[:6]), F.cross_entropy(y, T.clamp(0).repeat(2)[:6])
    )
    torch.testing.assert_close(ours.log_softmax(y, 1), F.log_softmax(y, 1))
