"""The native backend: Cython over C, one table of kernels per instruction set."""

from fastnll.kernels.native._kernels import (
    cross_entropy,
    gather,
    logsumexp,
    scan_targets,
    sgd_update,
    small_cross_entropy,
    small_logsumexp,
    small_softmax,
    softmax,
    softmax_vjp,
)
from fastnll.kernels.native._linear import (
    isas,
    linear_farthest,
    linear_grads,
    linear_logits,
    linear_losses,
    linear_sizes,
    linear_slices,
    linear_spectrum,
    linear_value_sizes,
)

__all__ = [
    "cross_entropy",
    "gather",
    "isas",
    "linear_farthest",
    "linear_grads",
    "linear_logits",
    "linear_losses",
    "linear_sizes",
    "linear_slices",
    "linear_spectrum",
    "linear_value_sizes",
    "logsumexp",
    "scan_targets",
    "sgd_update",
    "small_cross_entropy",
    "small_logsumexp",
    "small_softmax",
    "softmax",
    "softmax_vjp",
]
