"""SGD against torch.optim.SGD, step by step; state, groups, closures, schedules, what goes to PyTorch's own code."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: bfloat16 takes PyTorch's own way")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fastnll.interop.torch import SGD, _sgd  # noqa: E402


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Kernels for parameters of every size."""
    monkeypatch.setattr(_sgd, "_SMALL", 1)


def params_of(dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((3, 4), (70,), (), (0,), (2, 3, 5))
    made = [torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes]
    made.append(torch.randn(6, 4, generator=g, dtype=torch.float64).to(dtype).T)  # not contiguous
    return [torch.nn.Parameter(p) for p in made]


def set_grads(params, step, seed=1):
    g = torch.Generator().manual_seed(100 * seed + step)
    for i, p in enumerate(params):
        p.grad = None if (i + step) % 5 == 4 else torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)


options_of = st.fixed_dictionaries(
    {
        "lr": st.sampled_from((0.0, 0.1, 1.5)),
        "momentum": st.sampled_from((0.0, 0.9)),
        "dampening": st.sampled_from((0.0, 0.3)),
        "weight_decay": st.sampled_from((0.0, 0.01)),
        "maximize": st.booleans(),
        "nesterov": st.booleans(),
        "foreach": st.sampled_from((None, True, False)),
    }
)


@given(options=options_of, dtype=st.sampled_from((torch.float64, torch.float32, torch.bfloat16, torch.float16)))
def test_steps_are_pytorchs(options, dtype):
    options["nesterov"] = options["nesterov"] and options["momentum"] > 0 and options["dampening"] == 0
    mine, theirs = params_of(dtype), params_of(torch.float64)
    with torch.no_grad():
        for a, b in zip(mine, theirs, strict=True):
            b.copy_(a)
    ours, pytorchs = SGD(mine, **options), torch.optim.SGD(theirs, **options)
    eps = torch.finfo(dtype).eps
    for step in range(5):
        set_grads(mine, step)
        for a, b in zip(mine, theirs, strict=True):
            b.grad = None if a.grad is None else a.grad.double()
        ours.step()
        pytorchs.step()
        for a, b in zip(mine, theirs, strict=True):
            # Against float64, with the rounding of each step so far; a 16-bit buffer is rounded every time, too.
            bound = 8 * (step + 1) * eps * max(1.0, options["lr"] * 4)
            torch.testing.assert_close(a.double(), b, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [None, True])
def test_sixteen_bit_parameters_move(dtype, fused):
    """PyTorch 2.13's fused step leaves full vectors of them as they were."""
    p = torch.nn.Parameter(torch.ones(4096, dtype=dtype))
    p.grad = torch.ones_like(p)
    SGD([p], lr=0.5, fused=fused).step()
    assert (p == 0.5).all()


def test_the_kernels_are_what_is_tested(monkeypatch):
    monkeypatch.setattr(_sgd, "sgd", None)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        p = torch.nn.Parameter(torch.ones(8, dtype=dtype))
        p.grad = torch.ones_like(p)
        optimizer = SGD([p], lr=0.5, momentum=0.9)
        optimizer.step()
        optimizer.step()
        assert p.sum() < 0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_states_are_exchanged_both_ways(momentum):
    make = {
        "ours": lambda p: SGD(p, lr=0.1, momentum=momentum),
        "theirs": lambda p: torch.optim.SGD(p, lr=0.1, momentum=momentum),
    }
    for first, second in (("ours", "theirs"), ("theirs", "ours")):
        a = params_of(torch.float64)
        one = make[first](a)
        for step in range(3):
            set_grads(a, step)
            one.step()
        b = copy.deepcopy(a)
        two, same = make[second](b), make[first](copy.deepcopy(a))
        two.load_state_dict(copy.deepcopy(one.state_dict()))
        same.load_state_dict(copy.deepcopy(one.state_dict()))
        assert one.state_dict().keys() == two.state_dict().keys()
        assert one.state_dict()["param_groups"] == two.state_dict()["param_groups"]
        c = same.param_groups[0]["params"]
        for step in range(3, 6):
            for group in (b, c):
                set_grads(group, step)
            two.step()
            same.step()
        for p, q in zip(b, c, strict=True):
            torch.testing.assert_close(p, q)


def test_groups_closures_hooks_and_schedules():
    seen, results = [], []
    for kind in (SGD, torch.optim.SGD):
        params = params_of(torch.float64)
        optimizer = kind([{"params": params[:2], "lr": 0.5}, {"params": params[2:], "momentum": 0.9}], lr=0.01)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
        optimizer.register_step_post_hook(lambda *_, kind=kind: seen.append(kind))
        for _ in range(4):

            def closure(params=params, optimizer=optimizer):
                optimizer.zero_grad()
                loss = sum((p**2).sum() for p in params)
                loss.backward()
                return loss

            loss = optimizer.step(closure)
            assert loss.requires_grad
            schedule.step()
        results.append([p.detach() for p in params] + [torch.tensor([g["lr"] for g in optimizer.param_groups])])
    torch.testing.assert_close(*results)
    assert seen == [SGD] * 4 + [torch.optim.SGD] * 4


def test_values_saved_for_a_backward_pass_are_known_to_have_changed():
    w = torch.nn.Parameter(torch.ones(3))
    loss = (w * w).sum()
    w.grad = torch.ones(3)
    SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_has_no_kernel_goes_to_pytorchs_code():
    embedding = torch.nn.Embedding(10, 4, sparse=True)
    before = embedding.weight.detach().clone()
    embedding(torch.tensor([1, 3])).sum().backward()
    assert embedding.weight.grad.is_sparse
    SGD(embedding.parameters(), lr=0.5).step()
    expected = before.clone()
    expected[[1, 3]] -= 0.5
    torch.testing.assert_close(embedding.weight.detach(), expected)
    z = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    SGD([z], lr=0.5).step()
    torch.testing.assert_close(z.detach(), torch.full((3,), 0.5, dtype=torch.complex64))
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = p.detach()  # overlapping memory
    SGD([p], lr=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((4,), 0.5))


def test_tensor_rates_and_differentiable_steps():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    SGD([p], lr=torch.tensor(0.25)).step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.75))
    rate = torch.tensor(0.5, requires_grad=True)
    start = torch.ones(3, requires_grad=True)
    q = start.clone()
    q.grad = torch.full((3,), 2.0)
    SGD([q], lr=rate, differentiable=True).step()
    (slope,) = torch.autograd.grad(q.sum(), rate)
    assert slope == -6.0


def test_a_gradient_scaler_unscales_and_skips():
    """As with PyTorch's fused step: the optimizer is handed the scale and whether a gradient overflowed."""
    p = torch.nn.Parameter(torch.ones(3000))
    optimizer = SGD([p], lr=0.5, fused=True)
    assert optimizer._step_supports_amp_scaling
    p.grad = torch.full((3000,), 1024.0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    optimizer.step()
    assert (p == 0.5).all() and (p.grad == 1.0).all()
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert (p == 0.5).all()


@pytest.mark.parametrize(
    "options",
    [{"lr": -1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}, {"nesterov": True}, {"fused": True, "foreach": True}],
)
def test_refusals_are_pytorchs(options):
    p = [torch.nn.Parameter(torch.ones(3))]
    with pytest.raises(Exception) as theirs:
        torch.optim.SGD(p, **{"lr": 0.1, **options})
    with pytest.raises(theirs.type, match="^" + str(theirs.value).split("`")[0][:20].replace("(", r"\(")):
        SGD(p, **{"lr": 0.1, **options})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_step():
    torch._dynamo.reset()
    p = torch.nn.Parameter(torch.ones(5000))
    p.grad = torch.ones(5000)
    optimizer = SGD([p], lr=0.5, momentum=0.9)
    torch.compile(optimizer.step, backend="eager")()
    assert (p == 0.5).all()
