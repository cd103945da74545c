"""The modules: PyTorch's own classes, with the functions of this package in `forward`."""

from __future__ import annotations

from typing import Any

import torch

from fastnll.interop.torch._cross_entropy import cross_entropy
from fastnll.interop.torch._linear import linear_cross_entropy
from fastnll.interop.torch._nll import nll_loss
from fastnll.interop.torch._softmax import log_softmax, softmax

__all__ = ["CrossEntropyLoss", "LinearCrossEntropyLoss", "LogSoftmax", "NLLLoss", "Softmax"]

Tensor = torch.Tensor


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` on the kernels of fastnll: same arguments, same state, same results.

    Examples
    --------
    >>> loss = CrossEntropyLoss(label_smoothing=0.1)
    >>> loss
    CrossEntropyLoss()
    >>> round(loss(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 6)
    1.386294
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `cross_entropy`."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(torch.nn.NLLLoss):
    """`torch.nn.NLLLoss` on the kernels of fastnll: same arguments, same state, same results.

    Examples
    --------
    >>> NLLLoss(reduction="sum")(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0]))
    tensor(1.3863)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `nll_loss`."""
        return nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class LogSoftmax(torch.nn.LogSoftmax):
    """`torch.nn.LogSoftmax` on the kernels of fastnll.

    Examples
    --------
    >>> LogSoftmax(dim=0)(torch.tensor([1.0, 3.0]).log()).exp()
    tensor([0.2500, 0.7500])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the log-probabilities; see `log_softmax`."""
        return log_softmax(input, self.dim, _stacklevel=5)


class Softmax(torch.nn.Softmax):
    """`torch.nn.Softmax` on the kernels of fastnll.

    Examples
    --------
    >>> Softmax(dim=0)(torch.tensor([1.0, 3.0]).log())
    tensor([0.2500, 0.7500])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the probabilities; see `softmax`."""
        return softmax(input, self.dim, _stacklevel=5)


class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):
    """`torch.nn.LinearCrossEntropyLoss` on the kernels of fastnll: same arguments, same state, same results.

    Examples
    --------
    >>> head = LinearCrossEntropyLoss(16, 1000, bias=True)
    >>> head(torch.zeros(4, 16), torch.tensor([1, 2, 3, 4])).shape
    torch.Size([])
    >>> sorted(head.state_dict())
    ['linear.bias', 'linear.weight']
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `linear_cross_entropy`."""
        rows: tuple[Any, ...] = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return linear_cross_entropy(
            input,
            self.linear.weight.reshape(*rows, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(rows),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )
