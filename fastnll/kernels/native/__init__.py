"""The native backend: Cython over C, one table of kernels per instruction set."""

from fastnll.kernels.native._kernels import (
    cross_entropy,
    gather,
    isas,
    logsumexp,
    scan_targets,
    sgd_update,
    small_cross_entropy,
    softmax,
    softmax_vjp,
)

__all__ = [
    "cross_entropy",
    "gather",
    "isas",
    "logsumexp",
    "scan_targets",
    "sgd_update",
    "small_cross_entropy",
    "softmax",
    "softmax_vjp",
]
