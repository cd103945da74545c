"""The Numba backend: serial kernels over ranges of rows, compiled when first used."""

from fastnll.kernels.blocked import linear_grads, linear_logits
from fastnll.kernels.jit.ops import (
    cross_entropy,
    gather,
    logsumexp,
    scan_targets,
    sgd_update,
    softmax,
    softmax_vjp,
)

__all__ = [
    "cross_entropy",
    "gather",
    "linear_grads",
    "linear_logits",
    "logsumexp",
    "scan_targets",
    "sgd_update",
    "softmax",
    "softmax_vjp",
]
