"""fastnll: the negative log-likelihood, its gradient and its minimum, fast on CPUs."""

from fastnll.accumulate import Accumulator, VocabularyShard, merge_shards, shard_state
from fastnll.buffers import empty_cache
from fastnll.config import using
from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import (
    BackendError,
    DataError,
    DTypeError,
    FastnllError,
    LabelError,
    OptionError,
    ShapeError,
    VerificationError,
)
from fastnll.losses import CrossEntropy
from fastnll.objective import Objective
from fastnll.ops import (
    CrossEntropyDetails,
    FilterReport,
    LinearGrads,
    MemoryPlan,
    cross_entropy,
    cross_entropy_details,
    cross_entropy_value_and_grad,
    linear_cross_entropy,
    linear_cross_entropy_value_and_grad,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    memory_plan,
    nll_loss,
    selected_log_probs,
    selected_log_probs_vjp,
    sgd_update,
    softmax,
    softmax_vjp,
)
from fastnll.optim import SGD
from fastnll.profiling import profile, record_function, schedule
from fastnll.system import info
from fastnll.training import fit

__all__ = [
    "SGD",
    "Accumulator",
    "BackendError",
    "CrossEntropy",
    "CrossEntropyDetails",
    "DTypeError",
    "DataError",
    "FastnllError",
    "FeatureDataset",
    "FilterReport",
    "LabelError",
    "LinearGrads",
    "MemoryPlan",
    "Objective",
    "OptionError",
    "SequenceDataset",
    "ShapeError",
    "VerificationError",
    "VocabularyShard",
    "cross_entropy",
    "cross_entropy_details",
    "cross_entropy_value_and_grad",
    "empty_cache",
    "fit",
    "info",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "memory_plan",
    "merge_shards",
    "nll_loss",
    "profile",
    "record_function",
    "schedule",
    "selected_log_probs",
    "selected_log_probs_vjp",
    "sgd_update",
    "shard_state",
    "softmax",
    "softmax_vjp",
    "using",
]
