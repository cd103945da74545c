"""linear_cross_entropy against PyTorch's own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: bfloat16 takes PyTorch's own way")
if not hasattr(torch.nn.functional, "linear_cross_entropy"):
    pytest.skip("this PyTorch has no linear_cross_entropy", allow_module_level=True)

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import fastnll.interop.torch as ours  # noqa: E402
from fastnll.errors import LabelError  # noqa: E402
from fastnll.interop.torch import _tensors  # noqa: E402
from tests.interop.torch.cases import DTYPES, same  # noqa: E402


@pytest.fixture(params=[0, _tensors.SMALL], ids=["kernels", "as-shipped"])
def small(request, monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", request.param)
    return request.param


def head(function, tensors, dtype, needed, upstream, **options):
    """Return the loss and the gradients of a head, computed in `dtype`."""
    h, w, t, b, cw = (x if x is None or not x.is_floating_point() else x.to(dtype) for x in tensors)
    leaves = [None if x is None else x.detach().requires_grad_(n) for x, n in zip((h, w, b), needed, strict=True)]
    loss = function(leaves[0], leaves[1], t, linear_bias=leaves[2], weight=cw, **options)
    if loss.requires_grad:
        loss.backward(torch.linspace(1, upstream, max(1, loss.numel()), dtype=loss.dtype).reshape(loss.shape))
    return loss.detach(), [None if x is None else x.grad for x in leaves]


@given(data=st.data())
def test_values_and_gradients(small, data):
    draw = data.draw
    dtype, n, v, d = draw(st.sampled_from(DTYPES)), draw(st.integers(1, 70)), draw(st.integers(2, 40)), 6
    g = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    lead = () if draw(st.integers(0, 4)) == 0 else (n,)
    h, w = torch.randn(*lead, d, generator=g).to(dtype), torch.randn(v, d, generator=g).to(dtype)
    if draw(st.booleans()):
        w = w.T.contiguous().T
    b = torch.randn(v, generator=g).to(dtype) if draw(st.booleans()) else None
    options = {"reduction": draw(st.sampled_from(("mean", "sum", "none")))}
    options["label_smoothing"] = draw(st.sampled_from((0.0, 0.2)))
    cw = torch.rand(v, generator=g).to(dtype) if draw(st.booleans()) else None
    if draw(st.integers(0, 3)) == 0:
        t = torch.rand(*lead, v, generator=g, dtype=torch.float64).to(dtype)
        cw = None if dtype.itemsize == 2 else cw
    else:
        t = torch.randint(v, lead, generator=g)
        if draw(st.booleans()):
            options["ignore_index"] = 1
    needed = [draw(st.booleans()) for _ in range(3)]
    if draw(st.booleans()):
        options["options"] = None
    tensors, upstream = (h, w, t, b, cw), draw(st.sampled_from((1.0, -2.5)))
    loss, grads = head(ours.linear_cross_entropy, tensors, dtype, needed, upstream, **options)
    theirs, their_grads = head(F.linear_cross_entropy, tensors, dtype, needed, upstream, **options)
    exact, exact_grads = head(F.linear_cross_entropy, tensors, torch.float64, needed, upstream, **options)
    assert (loss.dtype, loss.shape) == (theirs.dtype, theirs.shape)
    same(loss, exact, dtype)
    for found, their, expected in zip(grads, their_grads, exact_grads, strict=True):
        assert (found is None) == (their is None)
        if found is not None:
            assert (found.dtype, found.shape) == (their.dtype, their.shape)
            same(found, expected, dtype)


def test_the_kernels_are_what_is_tested(monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", 0)
    monkeypatch.setattr(F, "linear_cross_entropy", None)
    h, w, t = torch.randn(9, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True), torch.arange(9) % 7
    for options in (
        {},
        {"reduction": "none"},
        {"label_smoothing": 0.1, "ignore_index": 3},
        {"options": torch.nn.LinearCrossEntropyOptions()},
        {"weight": torch.rand(7), "linear_bias": torch.randn(7)},
    ):
        ours.linear_cross_entropy(h, w, t, **options).sum().backward()


def test_heads_with_further_axes_are_pytorchs(small):
    h, w, t = torch.randn(9, 4), torch.randn(7, 3, 4), torch.randint(7, (9, 3))
    torch.testing.assert_close(ours.linear_cross_entropy(h, w, t), F.linear_cross_entropy(h, w, t))


def test_errors_are_pytorchs(small):
    h, w, t, b = torch.randn(9, 4), torch.randn(7, 4), torch.arange(9) % 7, torch.randn(7)
    for arguments, options in (
        ((h, w.T, t), {}),
        ((h[None], w, t), {}),
        ((h, w[0], t), {}),
        ((h, w, t[:5]), {}),
        ((h, w, t.int()), {}),
        ((h, w, t + 1), {}),
        ((h, w.double(), t), {}),
        ((h, w, t), {"linear_bias": b[:3]}),
        ((h, w, t), {"weight": b[:3]}),
        ((h, w, t), {"reduction": "total"}),
        ((h, w, torch.rand(9, 7)), {"ignore_index": 2}),
        ((h, w, torch.rand(9, 7)), {"ignore_index": -100}),
        ((h.tolist(), w, t), {}),
        ((h, w, None), {}),
    ):
        with pytest.raises(Exception) as theirs:
            F.linear_cross_entropy(*arguments, **options)
        with pytest.raises(theirs.type):
            ours.linear_cross_entropy(*arguments, **options)
    if not small:
        with pytest.raises(LabelError, match="position 6"):
            ours.linear_cross_entropy(h, w, t + 1)


def test_a_loss_scale_reaches_gradients_before_they_are_rounded(monkeypatch):
    """Of float16: gradients that would be 0 on their own come out scaled."""
    monkeypatch.setattr(_tensors, "SMALL", 0)
    h = (1e-3 * torch.randn(64, 4)).half()
    w = torch.randn(50, 4).half().requires_grad_()
    (1e-4 * ours.linear_cross_entropy(h, w, torch.arange(64) % 50).float() * 65536.0).backward()
    expected = w.detach().double().requires_grad_()
    (1e-4 * F.linear_cross_entropy(h.double(), expected, torch.arange(64) % 50) * 65536.0).backward()
    same(w.grad, expected.grad, torch.float16)
    there = expected.grad.abs() > 2.0**-24  # the least that float16 has
    assert there.double().mean() > 0.9
    assert (w.grad[there] != 0).all()
