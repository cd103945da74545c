"""SGD against torch.optim.SGD, step by step, over the grid of options; groups, states and errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fastnll.clipping import DivergenceError
from fastnll.errors import DataError, DTypeError, OptionError, ShapeError
from fastnll.optim import SGD

Array = np.ndarray[Any, Any]
STEPS = 5
SHAPES = {"w": (7, 5), "b": (33,), "s": ()}
# Units in the last place of the largest number in the update: PyTorch rounds after every operation, we round less.
ULPS = 8

MOMENTA = [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.3, False), (0.9, 0.0, True)]
GRID = [
    {"momentum": m, "dampening": d, "nesterov": n, "weight_decay": w, "maximize": x}
    for (m, d, n), w, x in itertools.product(MOMENTA, (0.0, 0.1), (False, True))
]


def arrays(seed: int, dtype: str, scale: float = 1.0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(scale * rng.standard_normal(shape), dtype=dtype) for name, shape in SHAPES.items()}


def assert_close(got: Array, expected: Array) -> None:
    assert got.dtype == expected.dtype
    tolerance = ULPS * np.finfo(got.dtype).eps * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def torch_twin(params: dict[str, Array], groups: list[list[str]], options: list[dict[str, Any]]) -> Any:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    listed = [{"params": [tensors[n] for n in names], **opts} for names, opts in zip(groups, options, strict=True)]
    # The unfused update: the fused one leaves 16-bit parameters unchanged in torch 2.13.
    return tensors, torch.optim.SGD(listed, lr=0.1, foreach=False, fused=False)


def torch_step(tensors: Any, optimizer: Any, grads: dict[str, Array], max_norm: float | None = None) -> None:
    import torch

    for name, grad in grads.items():
        tensors[name].grad = torch.tensor(grad)
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(list(tensors.values()), max_norm)
    optimizer.step()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", GRID, ids=lambda o: "-".join(f"{k[:3]}{v:g}" for k, v in o.items()))
def test_same_as_torch(options: dict[str, Any], dtype: str) -> None:
    params = arrays(0, dtype)
    before = {name: array.copy() for name, array in params.items()}
    tensors, twin = torch_twin(params, [list(SHAPES)], [{"lr": 0.1, **options}])
    sgd = SGD(params, lr=0.1, **options)
    for step in range(STEPS):
        grads = arrays(100 + step, dtype)
        sgd.step(grads)
        torch_step(tensors, twin, grads)
        for name, param in params.items():
            assert_close(param, tensors[name].detach().numpy())
    assert all(np.abs(params[name] - before[name]).max() > 1e-3 for name in params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clipping_same_as_torch(max_norm: float, dtype: str) -> None:
    options = {"momentum": 0.9, "weight_decay": 0.1}
    params = arrays(1, dtype)
    tensors, twin = torch_twin(params, [list(SHAPES)], [{"lr": 0.1, **options}])
    sgd = SGD(params, lr=0.1, max_norm=max_norm, **options)
    for step in range(STEPS):
        grads = arrays(200 + step, dtype, scale=3.0)
        untouched = {name: grad.copy() for name, grad in grads.items()}
        norm = sgd.step(grads)
        assert norm == pytest.approx(np.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in grads.values())))
        assert all(np.array_equal(grads[name], untouched[name]) for name in grads)
        torch_step(tensors, twin, grads, max_norm)
        for name, param in params.items():
            assert_close(param, tensors[name].detach().numpy())


def test_groups_same_as_torch() -> None:
    params = arrays(2, "float64")
    names = [["w"], ["b", "s"]]
    options = [{"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr": 0.02, "weight_decay": 0.3}]
    tensors, twin = torch_twin(params, names, options)
    groups = [{"params": {n: params[n] for n in group}, **opts} for group, opts in zip(names, options, strict=True)]
    sgd = SGD(groups, lr=0.1)
    for step in range(STEPS):
        # A schedule that halves the rate halves that of every group.
        sgd.lr = 0.1 * 0.5**step
        for group, opts in zip(twin.param_groups, options, strict=True):
            group["lr"] = opts["lr"] * 0.5**step
        grads = arrays(300 + step, "float64")
        sgd.step(grads)
        torch_step(tensors, twin, grads)
        for name, param in params.items():
            assert_close(param, tensors[name].detach().numpy())


def test_no_gradient_leaves_parameter_and_momentum() -> None:
    params = arrays(3, "float64")
    tensors, twin = torch_twin(params, [list(SHAPES)], [{"lr": 0.1, "momentum": 0.9, "dampening": 0.2}])
    sgd = SGD(params, lr=0.1, momentum=0.9, dampening=0.2)
    for step in range(STEPS):
        grads: dict[str, Any] = dict(arrays(400 + step, "float64"))
        if step in (0, 3):
            grads["b"] = None
        sgd.step(grads)
        for tensor in tensors.values():
            tensor.grad = None
        torch_step(tensors, twin, {name: grad for name, grad in grads.items() if grad is not None})
        for name, param in params.items():
            assert_close(param, tensors[name].detach().numpy())


@pytest.mark.parametrize("at", [0, 2])
def test_state_round_trip(at: int) -> None:
    options = {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01, "max_norm": 2.0}
    params = arrays(4, "float32")
    sgd = SGD(params, lr=0.1, **options)
    for step in range(at):
        sgd.step(arrays(500 + step, "float32"))
    copies = {name: array.copy() for name, array in params.items()}
    other = SGD(copies, lr=99.0)
    other.load_state_dict(sgd.state_dict())
    for step in range(3):
        sgd.lr = other.lr = 0.1 / (1 + step)
        grads = arrays(600 + step, "float32")
        assert sgd.step(grads) == other.step(grads)
    assert all(params[name].tobytes() == copies[name].tobytes() for name in params)
    # The state was copied: stepping one optimiser does not move the other's momentum.
    assert not np.shares_memory(
        sgd.state_dict()["state"]["w"]["momentum_buffer"], other.state_dict()["state"]["w"]["momentum_buffer"]
    )


def test_lists_are_named_by_position() -> None:
    first, second = np.ones(3), np.ones(2)
    sgd = SGD([first, second], lr=1.0)
    sgd.step([np.full(3, 0.25), np.full(2, 0.5)])
    sgd.step({"0": np.zeros(3), "1": np.full(2, 0.5)})
    assert first.tolist() == [0.75] * 3
    assert second.tolist() == [0.0] * 2


def test_scale_is_the_gradient_times_a_number() -> None:
    params, others = arrays(5, "float64"), arrays(5, "float64")
    grads = arrays(6, "float64")
    SGD(params, 0.1, max_norm=0.3).step(grads, scale=0.25)
    SGD(others, 0.1, max_norm=0.3).step({name: 0.25 * grad for name, grad in grads.items()})
    for name, param in params.items():
        assert_close(param, others[name])


def test_strided_gradients() -> None:
    param, other = np.zeros((4, 6)), np.zeros((4, 6))
    grad = np.arange(48.0).reshape(8, 6)[::2]
    SGD([param], 1.0).step([grad])
    SGD([other], 1.0).step([grad.copy()])
    assert np.array_equal(param, other)
    assert np.array_equal(param, -grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr: expected a finite number of at least 0, got -1"),
        ({"lr": float("nan")}, "lr: expected a finite number"),
        ({"lr": True}, "lr: expected a number"),
        ({"lr": 0.1, "momentum": -0.5}, "momentum: expected"),
        ({"lr": 0.1, "weight_decay": -1e-9}, "weight_decay: expected"),
        ({"lr": 0.1, "nesterov": True}, "nesterov: expected momentum above 0"),
        ({"lr": 0.1, "nesterov": True, "momentum": 0.9, "dampening": 0.5}, "dampening=0.5"),
        ({"lr": 0.1, "max_norm": 0.0}, "max_norm: expected a number above 0"),
        ({"lr": 0.1, "max_norm": -1.0}, "max_norm: expected"),
    ],
)
def test_option_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SGD({"w": np.zeros(3)}, **options)


def test_lr_is_checked_when_set() -> None:
    sgd = SGD({"w": np.zeros(3)}, lr=0.1)
    with pytest.raises(OptionError, match="lr: expected"):
        sgd.lr = -0.1
    assert sgd.lr == 0.1


def test_parameter_errors() -> None:
    buffer = np.zeros(10)
    with pytest.raises(DTypeError, match=r"params\['w'\]: expected an array of float64, .*, got int64"):
        SGD({"w": np.arange(3)}, 0.1)
    with pytest.raises(DTypeError, match=r"params\['0'\]: .* got a strided one"):
        SGD([np.zeros((4, 4))[:, ::2]], 0.1)
    buffer.flags.writeable = False
    with pytest.raises(DTypeError, match="read-only"):
        SGD([buffer], 0.1)
    whole = np.zeros(10)
    with pytest.raises(OptionError, match="'a' and 'b' in the same memory"):
        SGD({"a": whole[:6], "b": whole[5:]}, 0.1)
    with pytest.raises(OptionError, match="got 'w' twice"):
        SGD([{"params": {"w": np.zeros(2)}}, {"params": {"w": np.zeros(2)}}], 0.1)
    with pytest.raises(OptionError, match="unknown option 'betas'"):
        SGD([{"params": {"w": np.zeros(2)}, "betas": 1}], 0.1)
    with pytest.raises(OptionError, match="at least one array"):
        SGD({}, 0.1)
    with pytest.raises(OptionError, match="put it in a list"):
        SGD({"params": [np.zeros(2)]}, 0.1)


@pytest.mark.parametrize(
    ("grads", "kind", "message"),
    [
        ({"w": np.zeros(3)}, OptionError, "got no 'b'"),
        ({"w": np.zeros(3), "b": np.zeros(2), "c": np.zeros(2)}, OptionError, "got unknown 'c'"),
        ({"w": np.zeros(4), "b": np.zeros(2)}, ShapeError, r"grads\['w'\]: expected shape \(3,\).* got \(4,\)"),
        ({"w": np.zeros(3, "f4"), "b": np.zeros(2)}, DTypeError, "expected dtype float64 .* got float32"),
        ({"w": [0.0, 0.0, 0.0], "b": np.zeros(2)}, DTypeError, "expected a numpy array, got list"),
        ([np.zeros(3)], ShapeError, "expected 2 arrays"),
    ],
)
def test_gradient_errors_update_nothing(grads: Any, kind: type[Exception], message: str) -> None:
    params = {"w": np.ones(3), "b": np.ones(2)}
    with pytest.raises(kind, match=message):
        SGD(params, 0.1).step(grads)
    assert all((array == 1).all() for array in params.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite(bad: float) -> None:
    params = {"w": np.ones((2, 3)), "b": np.ones(2)}
    grads = {"w": np.zeros((2, 3)), "b": np.zeros(2)}
    grads["w"][1, 2] = bad
    with pytest.raises(DivergenceError, match=r"grads\['w'\]: expected finite numbers, got .* at \(1, 2\); 1 of 6"):
        SGD(params, 0.1, max_norm=1.0).step(grads)
    assert all((array == 1).all() for array in params.values())


def test_a_state_of_other_parameters() -> None:
    sgd = SGD({"w": np.ones(3)}, 0.1, momentum=0.9)
    sgd.step({"w": np.ones(3)})
    with pytest.raises(DataError, match=r"state: expected that of the parameter groups \[\['v'\]\], got \[\['w'\]\]"):
        SGD({"v": np.ones(3)}, 0.1).load_state_dict(sgd.state_dict())
    with pytest.raises(ShapeError, match=r"momentum_buffer of 'w': expected shape \(4,\), got \(3,\)"):
        SGD({"w": np.ones(4)}, 0.1).load_state_dict(sgd.state_dict())
    with pytest.raises(DTypeError, match="expected dtype float32, got float64"):
        SGD({"w": np.ones(3, "f4")}, 0.1).load_state_dict(sgd.state_dict())
