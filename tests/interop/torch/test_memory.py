"""Memory that is used again: never while anybody holds it, and at once when nobody does."""

from __future__ import annotations

import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastnll.interop.torch as ours  # noqa: E402
from fastnll import buffers  # noqa: E402
from fastnll.interop.torch import _tensors  # noqa: E402

LARGE = (512, 1024)


@pytest.fixture
def pool(monkeypatch):
    """A pool of its own for the test."""
    new = buffers.Pool(keep=2)
    monkeypatch.setattr(_tensors, "pool", new)
    return new


def test_a_block_comes_back_when_the_last_holder_of_its_memory_is_gone(pool):
    _, tensor = _tensors.uninitialised(LARGE, torch.float32)
    del _
    address = tensor.data_ptr()
    holders = [tensor.view(-1)[5:], tensor.numpy(), np.from_dlpack(tensor.view(2, -1)), tensor.untyped_storage()]
    del tensor
    while holders:
        assert pool.free_bytes == 0
        holders.pop(0)
    gc.collect()
    assert pool.free_bytes == 4 * 512 * 1024
    assert _tensors.uninitialised(LARGE, torch.float32)[1].data_ptr() == address


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_and_layout_is_held(pool, dtype):
    if dtype is torch.bfloat16:
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x = _tensors.array_of(torch.zeros(8, 600, 512).to(dtype).transpose(1, 2))
    array, tensor = _tensors.result_like(x)
    array[...] = 1.0
    del array
    other = [_tensors.result_like(x) for _ in range(3)]
    for again, _ in other:
        again[...] = 2.0
    assert (tensor == 1.0).all() and tensor.stride() == (600 * 512, 1, 512)
    del tensor, other, again, _
    gc.collect()
    assert pool.free_bytes == 2 * 8 * 600 * 512 * dtype.itemsize


def test_training_steps_use_the_same_memory():
    ours.empty_cache()
    hidden, weight = torch.randn(512, 8), torch.randn(2048, 8, requires_grad=True)
    t, addresses = torch.randint(2048, (512,)), []
    for _ in range(4):
        weight.grad = None
        logits = hidden @ weight.T
        logits.register_hook(lambda grad: addresses.append(grad.data_ptr()))
        ours.cross_entropy(logits, t).backward()
        del logits
    assert len(addresses) == 4 and len(set(addresses)) == 1
    assert buffers.pool.free_bytes >= 4 * 512 * 2048
    ours.empty_cache()
    assert buffers.pool.free_bytes == 0
