"""The Numba backend: serial kernels over ranges of rows, compiled when first used."""

from fastnll.kernels.jit.ops import (
    cross_entropy,
    gather,
    logsumexp,
    scan_targets,
    sgd_update,
    softmax,
    softmax_vjp,
)

__all__ = ["cross_entropy", "gather", "logsumexp", "scan_targets", "sgd_update", "softmax", "softmax_vjp"]
