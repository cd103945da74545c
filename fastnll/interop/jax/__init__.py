"""optax's softmax cross-entropies and `jax.nn.log_softmax` under their own signatures, computed by fastnll on CPUs.

``from fastnll.interop.jax import softmax_cross_entropy_with_integer_labels`` in place of ``from optax import ...``
changes the speed and nothing else: shapes, axes, masks, dtypes and the meaning of odd labels are optax's, which need
not be installed. All functions work under ``jit``, ``grad``, ``vmap``, ``scan`` and in second reverse derivatives;
forward mode (``jvp``, ``jacfwd``, ``hessian``) JAX refuses, as for every function with a gradient of its own: use
``jacrev(jacrev(f))``.

The kernels are reached through XLA's foreign function interface. XLA hands over its own buffers, which are read and
written in place: nothing is copied, and no JAX array is made that a callback could wait for, which is what makes
`jax.pure_callback` hang on CPUs. Nothing is compiled against a jaxlib either (tested with JAX
0.10). Small
arrays, for which a call would cost more than it saves, and other devices than CPUs get XLA's own operations.

A process may end while results are being computed: what is under way is finished, what nobody waits for any more is
cancelled. Where fastnll was built without a compiler it may hang then: wait for results (``jax.block_until_ready``)
before the end.
"""

from fastnll.interop.jax._head import linear_cross_entropy
from fastnll.interop.jax._losses import (
    log_softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

__all__ = [
    "linear_cross_entropy",
    "log_softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]
