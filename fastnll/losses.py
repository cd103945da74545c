"""The loss as an object: options checked once, used for any number of batches."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from fastnll.ops.cross_entropy import CrossEntropyDetails, details_with, value_and_grad_with, value_with
from fastnll.ops.gather import nll_with
from fastnll.ops.linear import LinearGrads, linear_value_and_grad_with, linear_value_with, own_names
from fastnll.options import LossOptions

__all__ = ["CrossEntropy"]


class CrossEntropy:
    """Cross-entropy with its options checked once.

    Parameters
    ----------
    **options
        As `fastnll.options.LossOptions` lists them.

    Raises
    ------
    OptionError, ShapeError
        For an option whose value means nothing.
    TypeError
        For an option that does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> loss = CrossEntropy(reduction="sum", label_smoothing=0.1)
    >>> loss
    CrossEntropy(reduction='sum', label_smoothing=0.1)
    >>> round(loss(np.zeros((2, 4)), [0, 3]), 6)
    2.772589
    """

    __slots__ = ("_given", "options")

    def __init__(self, **options: Any) -> None:
        self.options = LossOptions.make(options)
        self._given = options

    def __repr__(self) -> str:
        return f"CrossEntropy({', '.join(f'{k}={v!r}' for k, v in self._given.items())})"

    def _with(self, changes: dict[str, Any]) -> LossOptions:
        return self.options.replace(changes) if changes else self.options

    def replace(self, **changes: Any) -> CrossEntropy:
        """Return a loss with some options changed.

        Examples
        --------
        >>> CrossEntropy(reduction="sum").replace(reduction="none")
        CrossEntropy(reduction='none')
        """
        return CrossEntropy(**{**self._given, **changes})

    def __call__(self, logits: npt.ArrayLike, targets: Any, **per_call: Any) -> Any:
        """Return `fastnll.cross_entropy` under these options; keywords change some for this call.

        Examples
        --------
        >>> import numpy as np
        >>> CrossEntropy()(np.zeros((1, 2)), [1], reduction="none").round(6).tolist()
        [0.693147]
        """
        return value_with(self._with(per_call), logits, targets)

    def value_and_grad(
        self,
        logits: npt.ArrayLike,
        targets: Any,
        *,
        grad_output: Any = None,
        out: npt.NDArray[Any] | None = None,
        **per_call: Any,
    ) -> tuple[Any, npt.NDArray[Any]]:
        """Return `fastnll.cross_entropy_value_and_grad` under these options.

        Examples
        --------
        >>> import numpy as np
        >>> CrossEntropy().value_and_grad(np.zeros((1, 2)), [1])[1].tolist()
        [[0.5, -0.5]]
        """
        return value_and_grad_with(self._with(per_call), logits, targets, grad_output, out)

    def details(self, logits: npt.ArrayLike, targets: Any, **per_call: Any) -> CrossEntropyDetails:
        """Return `fastnll.cross_entropy_details` under these options.

        Examples
        --------
        >>> import numpy as np
        >>> CrossEntropy().details(np.zeros((1, 2)), [1]).entropy.round(6).tolist()
        [0.693147]
        """
        return details_with(self._with(per_call), logits, targets)

    def nll(self, log_probs: npt.ArrayLike, targets: Any, **per_call: Any) -> Any:
        """Return `fastnll.nll_loss` of given log-probabilities under these options.

        Examples
        --------
        >>> import numpy as np
        >>> round(CrossEntropy().nll(np.log([[0.5, 0.5]]), [1]), 6)
        0.693147
        """
        return nll_with(self._with(per_call), log_probs, targets)

    def linear(
        self,
        hidden: npt.ArrayLike,
        weight: npt.ArrayLike,
        targets: Any,
        bias: npt.ArrayLike | None = None,
        *,
        max_memory: int | None = None,
        **per_call: Any,
    ) -> Any:
        """Return `fastnll.linear_cross_entropy` under these options; the logits are never held.

        Examples
        --------
        >>> import numpy as np
        >>> round(CrossEntropy().linear(np.ones((3, 2)), np.zeros((4, 2)), [0, 1, 2]), 6)
        1.386294
        """
        o = self._with(own_names(per_call))
        return linear_value_with(o, hidden, weight, targets, bias, max_memory=max_memory)

    def linear_value_and_grad(
        self,
        hidden: npt.ArrayLike,
        weight: npt.ArrayLike,
        targets: Any,
        bias: npt.ArrayLike | None = None,
        *,
        max_memory: int | None = None,
        grad_output: Any = None,
        out: Any = None,
        accumulate: bool = False,
        wrt: Any = ("hidden", "weight", "bias"),
        grad_dtype: Any = None,
        filter: float | None = None,
        sgd: Any = None,
        **per_call: Any,
    ) -> tuple[Any, LinearGrads]:
        """Return `fastnll.linear_cross_entropy_value_and_grad` under these options.

        Examples
        --------
        >>> import numpy as np
        >>> loss, grads = CrossEntropy().linear_value_and_grad(np.ones((1, 1)), np.zeros((2, 1)), [0])
        >>> grads.weight.tolist()
        [[-0.5], [0.5]]
        """
        return linear_value_and_grad_with(
            self._with(own_names(per_call)),
            hidden,
            weight,
            targets,
            bias,
            max_memory=max_memory,
            grad_output=grad_output,
            out=out,
            accumulate=accumulate,
            wrt=wrt,
            grad_dtype=grad_dtype,
            filter=filter,
            sgd=sgd,
        )
