"""The operations on arrays: checks, one kernel call, the result."""

from fastnll.ops.cross_entropy import (
    CrossEntropyDetails,
    cross_entropy,
    cross_entropy_details,
    cross_entropy_value_and_grad,
)
from fastnll.ops.gather import nll_loss, selected_log_probs, selected_log_probs_vjp
from fastnll.ops.linear import (
    FilterReport,
    LinearGrads,
    MemoryPlan,
    linear_cross_entropy,
    linear_cross_entropy_value_and_grad,
    memory_plan,
)
from fastnll.ops.softmax import log_softmax, log_softmax_vjp, logsumexp, softmax, softmax_vjp
from fastnll.ops.update import sgd_update

__all__ = [
    "CrossEntropyDetails",
    "FilterReport",
    "LinearGrads",
    "MemoryPlan",
    "cross_entropy",
    "cross_entropy_details",
    "cross_entropy_value_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "memory_plan",
    "nll_loss",
    "selected_log_probs",
    "selected_log_probs_vjp",
    "sgd_update",
    "softmax",
    "softmax_vjp",
]
