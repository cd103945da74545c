"""Operators, compilers, autocast, vmap and the other transforms, other devices and tensor subclasses."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: bfloat16 takes PyTorch's own way")

from torch._subclasses import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import fastnll.interop.torch as ours  # noqa: E402
from fastnll.interop.torch import _tensors  # noqa: E402

# PyTorch's own compiler and forward-mode formulas use torch.jit, which warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

X, T, W = torch.randn(16, 32), torch.randint(32, (16,)), torch.rand(32)
H, V = torch.randn(16, 8), torch.randn(32, 8)

# What each function is asked for below: (library, a tensor of the shape of X that requires a gradient).
FUNCTIONS = {
    "mean": lambda lib, x: lib.cross_entropy(x, T),
    "none": lambda lib, x: lib.cross_entropy(x, T, W, reduction="none", label_smoothing=0.1),
    "soft": lambda lib, x: lib.cross_entropy(x, X.softmax(1)),
    "axis": lambda lib, x: lib.cross_entropy(x.view(4, 4, 32).transpose(1, 2), T.view(4, 4), ignore_index=3),
    "log_softmax": lambda lib, x: lib.log_softmax(x, 1).sin(),
    "softmax": lambda lib, x: lib.softmax(x, 0).sin(),
    "nll_loss": lambda lib, x: lib.nll_loss(lib.log_softmax(x, 1), T),
    "head": lambda lib, x: lib.linear_cross_entropy(x[:, :8], V, T, linear_bias=W),
    "head_none": lambda lib, x: lib.linear_cross_entropy(H, x[:, :8], T % 16, reduction="none"),
}


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Kernels for inputs of every size."""
    monkeypatch.setattr(_tensors, "SMALL", 0)


def pair(name, wrap=lambda f: f, x=X):
    """Return value and gradient of ours, wrapped, and of PyTorch's."""
    results = []
    for function in (wrap(lambda x: FUNCTIONS[name](ours, x * 1.5)), lambda x: FUNCTIONS[name](F, x * 1.5)):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append((y.detach(), torch.autograd.grad((y * y).sum(), leaf)[0]))
    return results


OPS = torch.ops.fastnll
OP_CALLS = {
    "cross_entropy": lambda x: (OPS.cross_entropy.default, (x, T, None, "mean", -100, 0.0)),
    "cross_entropy none": lambda x: (OPS.cross_entropy.default, (x, T, W.to(x.dtype), "none", 3, 0.1)),
    "cross_entropy soft": lambda x: (OPS.cross_entropy.default, (x, X.softmax(1).to(x.dtype), None, "sum", -100, 0.0)),
    "log_softmax": lambda x: (OPS.log_softmax.default, (x, 1)),
    "softmax": lambda x: (OPS.softmax.default, (x, 0)),
    "linear": lambda x: (
        OPS.linear_cross_entropy.default,
        (x, torch.randn(9, 32).to(x.dtype), T % 9, None, None, "mean", -100, 0.0, [True, False, False]),
    ),
    "linear none": lambda x: (
        OPS.linear_cross_entropy.default,
        (x, torch.randn(9, 32).to(x.dtype), T % 9, torch.randn(9).to(x.dtype), None, "none", -100, 0.1, [False] * 3),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OP_CALLS)
def test_operators_pass_pytorchs_own_check(name, dtype):
    op, arguments = OP_CALLS[name](X.clone().to(dtype).requires_grad_())
    checks = torch.library.opcheck(op, arguments)
    assert set(checks.values()) == {"SUCCESS"}
    strided = X.to(dtype).T.contiguous().T.requires_grad_()
    assert set(torch.library.opcheck(*OP_CALLS[name](strided)).values()) == {"SUCCESS"}


def test_operators_keep_the_strides_that_a_compiler_is_promised():
    for x in (torch.randn(3, 1, 32).expand(3, 2, 32), torch.randn(3, 2, 1)[:, :, [0]].permute(2, 1, 0), X[:, ::2], X.T):
        promised = torch.empty_like(x).stride()
        assert OPS.log_softmax(x, 1).stride() == OPS.softmax(x, 0).stride() == promised
        t = torch.zeros((x.shape[0], *x.shape[2:]), dtype=torch.int64)
        grad = OPS.cross_entropy_backward(torch.ones(()), x, t, None, "mean", -100, 0.0)
        assert grad.stride() == promised


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_compiles_without_a_break(name, dynamic):
    torch._dynamo.reset()
    found, expected = pair(name, lambda f: torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager"))
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_the_compiler_that_generates_code_too():
    torch._dynamo.reset()
    for name in ("mean", "head"):
        found, expected = pair(name, lambda f: torch.compile(f, fullgraph=True))
        torch.testing.assert_close(found, expected)


def test_a_compiled_call_is_our_operator():
    graph = make_fx(lambda x: FUNCTIONS["mean"](ours, x))(X)
    assert "fastnll.cross_entropy" in graph.code
    torch.testing.assert_close(graph(2 * X), F.cross_entropy(2 * X, T))  # nothing was baked in
    exported = torch.export.export(_Module(), (X, T))
    assert "fastnll.cross_entropy" in exported.graph_module.code
    torch.testing.assert_close(exported.module()(3 * X, T), F.cross_entropy(3 * X, T))


class _Module(torch.nn.Module):
    def forward(self, x, t):
        return ours.cross_entropy(x, t)


def test_fake_tensors_have_the_right_shapes_and_dtypes():
    with FakeTensorMode() as mode:
        x = torch.empty(4, 5, 6, dtype=torch.bfloat16)
        t = torch.empty(4, 6, dtype=torch.int64)
        assert ours.cross_entropy(x, t).dtype == torch.bfloat16
        assert ours.cross_entropy(x, t, reduction="none").shape == (4, 6)
        assert ours.log_softmax(x, 1, dtype=torch.float32).dtype == torch.float32
        with pytest.raises((ValueError, RuntimeError)):
            ours.cross_entropy(x, t[:3])
        assert mode is not None


def test_a_trace_records_pytorchs_operator():
    traced = torch.jit.trace(lambda x: ours.cross_entropy(x, T), X)
    torch.testing.assert_close(traced(2 * X), F.cross_entropy(2 * X, T))


@pytest.mark.parametrize("name", ["mean", "log_softmax", "softmax", "nll_loss", "head"])
def test_transforms_give_what_pytorchs_own_gives(name):
    def both(transform):
        return [transform(lambda x, lib=lib: FUNCTIONS[name](lib, x).sum()) for lib in (ours, F)]

    torch.testing.assert_close(*both(lambda f: torch.func.grad(f)(X)))
    torch.testing.assert_close(*both(lambda f: torch.func.jvp(f, (X,), (X.sin(),))))
    torch.testing.assert_close(*both(lambda f: torch.vmap(f)(torch.stack([X, 2 * X]))))
    torch.testing.assert_close(*both(lambda f: torch.vmap(torch.func.grad(f))(torch.stack([X, 2 * X]))))
    small = X[:2, :4]

    def few(lib):
        return lambda x: lib.cross_entropy(x, T[:2] % 4)

    torch.testing.assert_close(torch.func.hessian(few(ours))(small), torch.func.hessian(few(F))(small))
    torch.testing.assert_close(
        torch.autograd.functional.hessian(few(ours), small), torch.autograd.functional.hessian(few(F), small)
    )


def test_dual_tensors_keep_their_tangents():
    """Ordinary tensors to look at: a kernel would return the value and forget the derivative."""
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        for name in ("mean", "log_softmax", "softmax", "nll_loss", "head"):
            dual = forward_ad.make_dual(X, X.cos())
            tangents = [forward_ad.unpack_dual(FUNCTIONS[name](lib, dual)).tangent for lib in (ours, F)]
            assert tangents[0] is not None
            torch.testing.assert_close(*tangents)


def test_per_sample_gradients():
    def loss(lib):
        return lambda w, h, t: lib.cross_entropy(h @ w.T, t)

    found, expected = (torch.vmap(torch.func.grad(loss(lib)), (None, 0, 0))(V, H, T) for lib in (ours, F))
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_a_compiled_vmap_is_pytorchs():
    torch._dynamo.reset()
    f = torch.compile(torch.vmap(ours.cross_entropy), fullgraph=True, backend="aot_eager")
    x, t = X.view(4, 4, 32), T.view(4, 4)
    torch.testing.assert_close(f(x, t), torch.vmap(F.cross_entropy)(x, t))


@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_changes_dtypes_as_pytorchs_does(name, dtype, to):
    def run(lib):
        x = X.clone().to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=to):
            y = CAST[name](lib, x)
        y.sum().backward()
        return y, x.grad

    CAST = {
        **FUNCTIONS,
        "none": lambda lib, x: lib.cross_entropy(x, T, W.to(x.dtype), reduction="none"),
        "soft": lambda lib, x: lib.cross_entropy(x, X.softmax(1).to(x.dtype)),
        "head": lambda lib, x: lib.linear_cross_entropy(x[:, :8], V.to(x.dtype), T),
        "head_none": lambda lib, x: lib.linear_cross_entropy(H.to(x.dtype), x[:, :8], T % 16, reduction="none"),
    }
    (y, grad), (theirs, their_grad) = run(ours), run(F)
    assert (y.dtype, grad.dtype) == (theirs.dtype, their_grad.dtype)
    bound = 4e-2 if dtype == torch.bfloat16 or (name.startswith("head") and to == torch.bfloat16) else 5e-3
    bound = bound if dtype.itemsize == 2 or name.startswith("head") else 1e-5
    torch.testing.assert_close(y, theirs, rtol=bound, atol=bound)
    torch.testing.assert_close(grad, their_grad, rtol=bound, atol=bound)


def test_autocast_takes_a_mixed_head():
    """As models have it: hidden states of 16 bits beside a float32 weight."""
    weight = V.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ours.linear_cross_entropy(H.bfloat16(), weight, T)
    loss.backward()
    assert loss.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(loss, F.linear_cross_entropy(H.bfloat16().float(), weight, T))


def test_float32_class_weights_beside_sixteen_bits_under_autocast():
    for lib in (ours, F):
        with pytest.raises(RuntimeError):
            lib.cross_entropy(X.bfloat16(), T, W)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = (lib.cross_entropy(X.bfloat16(), T, W) for lib in (ours, F))
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_other_devices_are_pytorchs():
    x, t = X.to("meta"), T.to("meta")
    assert ours.cross_entropy(x, t).device.type == "meta"
    assert ours.log_softmax(x, 1).device.type == "meta"
    assert ours.nll_loss(x, t).device.type == "meta"
    assert ours.linear_cross_entropy(H.to("meta"), V.to("meta"), t).device.type == "meta"
    with pytest.raises(RuntimeError):
        ours.cross_entropy(X, t)


class _Named(torch.Tensor):
    """A tensor class that looks at the functions it is given to."""

    seen: list = []  # noqa: RUF012 - shared on purpose

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_tensor_subclasses_see_pytorchs_functions():
    x = X.as_subclass(_Named)
    assert isinstance(ours.cross_entropy(x, T), _Named)
    assert isinstance(ours.softmax(x, 1), _Named)
    ours.nll_loss(x, T)
    ours.linear_cross_entropy(H.as_subclass(_Named), V, T)
    assert {F.cross_entropy, F.softmax, F.nll_loss, F.linear_cross_entropy} <= set(_Named.seen)


def test_a_default_device_does_not_cost_the_kernels(monkeypatch):
    expected = F.cross_entropy(X, T), F.softmax(X, 1)
    monkeypatch.setattr(F, "cross_entropy", None)
    monkeypatch.setattr(F, "softmax", None)
    with torch.device("cpu"):
        torch.testing.assert_close((ours.cross_entropy(X, T), ours.softmax(X, 1)), expected)


def test_the_profiler_sees_the_kernels():
    x = X.clone().requires_grad_()
    with torch.autograd.profiler.profile() as profile:
        ours.cross_entropy(x, T, reduction="none").sum().backward()
        ours.log_softmax(x, 1)
    names = {event.name for event in profile.function_events}
    assert {"fastnll::cross_entropy", "fastnll::cross_entropy_backward", "fastnll::log_softmax"} <= names
