"""PyTorch's losses and SGD under PyTorch's names and signatures, computed by fastnll on CPUs.

``import fastnll.interop.torch as F`` in place of ``import torch.nn.functional as F`` changes the speed of what is
named below and nothing else: signatures, defaults, shapes, dtypes and errors are PyTorch's, whose own functions do
whatever has no kernel here.
"""

from fastnll.buffers import empty_cache
from fastnll.interop.torch import _ops as _ops
from fastnll.interop.torch._cross_entropy import cross_entropy
from fastnll.interop.torch._linear import linear_cross_entropy
from fastnll.interop.torch._modules import CrossEntropyLoss, LinearCrossEntropyLoss, LogSoftmax, NLLLoss, Softmax
from fastnll.interop.torch._nll import nll_loss
from fastnll.interop.torch._sgd import SGD
from fastnll.interop.torch._softmax import log_softmax, softmax

__all__ = [
    "SGD",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "LogSoftmax",
    "NLLLoss",
    "Softmax",
    "cross_entropy",
    "empty_cache",
    "linear_cross_entropy",
    "log_softmax",
    "nll_loss",
    "softmax",
]
