"""fastnll's functions inside ``@numba.njit``: nothing to import, Numba finds `init` by the entry point.

``fn.logsumexp``, ``fn.softmax``, ``fn.log_softmax``, ``fn.softmax_vjp``, ``fn.log_softmax_vjp``, ``fn.nll_loss``,
``fn.selected_log_probs``, ``fn.selected_log_probs_vjp``, ``fn.cross_entropy``, ``fn.cross_entropy_value_and_grad``,
``fn.cross_entropy_details``, ``fn.linear_cross_entropy``, ``fn.linear_cross_entropy_value_and_grad`` and
``fn.sgd_update`` compile to the kernels of the Numba backend, on the calling thread; functions that use them can be
cached (``cache=True``). They take

- float64, float32 and integer arrays of any strides and number of axes (``out=`` and ``sgd_update``: floats);
- ``axis``; ``out`` where the function has it, separate from the inputs or the logits themselves;
- of the options of the loss: ``reduction`` "mean", "sum" or "none" as a literal, ``ignore_index`` as one integer or
  None, ``mask``, ``token_weight`` of the targets' shape, ``weight``, ``label_smoothing``, ``z_loss``, ``softcap``,
  ``temperature``; and for gradients ``grad_output``. Targets are class ids.

Errors are those of the functions themselves. Numba keys its cache by the caller's source alone: after an upgrade of
fastnll, cached callers keep the kernels they were compiled with until their cache is cleared.
"""

from fastnll.interop.numba._register import init

__all__ = ["init"]
