"""Several threads at once, worker processes, and PyTorch's number of threads."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch.nn import functional as F  # noqa: E402, N812

import fastnll  # noqa: E402
import fastnll.interop.torch as ours  # noqa: E402
from fastnll.interop.torch import _tensors  # noqa: E402


def test_threads_get_their_own_results():
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(600, 500, generator=g), torch.randint(500, (600,), generator=g)) for _ in range(4)]
    expected = []
    for x, t in batches:
        leaf = x.clone().requires_grad_()
        expected.append(torch.autograd.grad(F.cross_entropy(leaf, t), leaf)[0])
    wrong = []

    def work(i):
        x, t = batches[i]
        for _ in range(10):
            leaf = x.clone().requires_grad_()
            (grad,) = torch.autograd.grad(ours.cross_entropy(leaf, t), leaf)
            if not torch.allclose(grad, expected[i], atol=1e-7):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class _Losses(torch.utils.data.Dataset):
    """Computes with the kernels in the worker, which is forked after the parent has used its threads."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        x = torch.full((300, 400), 0.5)
        x[:, i] = 3.0
        return ours.cross_entropy(x, torch.full((300,), i))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # JAX's, where another test has loaded it
def test_worker_processes_compute():
    data = _Losses()
    expected = torch.stack([data[i] for i in range(6)])  # the parent's threads are running now
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=120)
    torch.testing.assert_close(torch.cat(list(loader)), expected)


def test_pytorchs_number_of_threads_holds(monkeypatch):
    monkeypatch.setattr(_tensors, "_env_threads", False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert _tensors.threads() == 1
        with fastnll.using(threads=3):
            assert _tensors.threads() is None  # fastnll's own number is asked for
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(_tensors, "_env_threads", True)
    assert _tensors.threads() is None


def test_backends_can_be_pinned():
    x, t = torch.randn(100, 60, requires_grad=True), torch.randint(60, (100,))
    with fastnll.using(backend="reference"):
        found = torch.autograd.grad(ours.cross_entropy(x, t), x)
    torch.testing.assert_close(found, torch.autograd.grad(F.cross_entropy(x, t), x))
