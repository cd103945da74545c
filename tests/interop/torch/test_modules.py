"""The modules: PyTorch's classes, arguments, text and state."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastnll.interop.torch as ours  # noqa: E402
from fastnll.interop.torch import _tensors  # noqa: E402

X, T = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 6
MODULES = {
    "CrossEntropyLoss": [{}, {"weight": torch.rand(6), "ignore_index": 2, "reduction": "sum", "label_smoothing": 0.1}],
    "NLLLoss": [{}, {"weight": torch.rand(6), "ignore_index": 2, "reduction": "none"}],
    "LogSoftmax": [{"dim": 0}, {"dim": -1}],
    "Softmax": [{"dim": 0}, {"dim": -1}],
}
CALLS = [(name, options) for name, several in MODULES.items() for options in several]


@pytest.fixture(params=[0, _tensors.SMALL], ids=["kernels", "as-shipped"], autouse=True)
def small(request, monkeypatch):
    monkeypatch.setattr(_tensors, "SMALL", request.param)


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_a_module_is_pytorchs(name, options):
    mine, theirs = getattr(ours, name)(**options), getattr(torch.nn, name)(**options)
    assert isinstance(mine, type(theirs)) and repr(mine) == repr(theirs)
    arguments = (X,) if "oftmax" in name else (X, T)
    torch.testing.assert_close(mine(*arguments), theirs(*arguments))
    mine.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(mine.state_dict())
    for clone in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        torch.testing.assert_close(clone(*arguments), theirs(*arguments))
    assert mine.double().forward(X.double(), *arguments[1:]).dtype == torch.float64


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_a_dim_that_is_left_out_warns_where_pytorchs_does(name):
    found = []
    for lib in (ours, torch.nn):
        with pytest.warns(UserWarning, match="Implicit dimension") as record:
            getattr(lib, name)()(X)
        found.append((record[0].filename, record[0].lineno))
    assert found[0] == found[1]


@pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyLoss"), reason="this PyTorch has no such module")
@pytest.mark.parametrize("options", [{}, {"bias": True, "label_smoothing": 0.1}, {"out_features": (2,), "bias": True}])
def test_the_linear_head(options):
    mine, theirs = ours.LinearCrossEntropyLoss(6, 8, **options), torch.nn.LinearCrossEntropyLoss(6, 8, **options)
    assert repr(mine) == repr(theirs)
    mine.load_state_dict(theirs.state_dict())
    target = torch.stack([T, T], 1) if "out_features" in options else T
    results = []
    for module in (mine, theirs):
        loss = module(X, target)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*results)
    assert len(results[0]) == 2 + bool(options.get("bias"))
