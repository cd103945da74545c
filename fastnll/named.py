"""Objectives by the names they have in papers: a few lines each, over the one loss.

Every ``*_loss`` returns ``(value, gradient with respect to the logits)``. Options of `fastnll.cross_entropy`
that are not fixed by the objective can be passed on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.errors import ShapeError
from fastnll.ops import cross_entropy, cross_entropy_value_and_grad
from fastnll.options import LossOptions
from fastnll.plan import make_plan
from fastnll.weights import row_weights

__all__ = [
    "Preference",
    "bradley_terry_loss",
    "causal_lm_loss",
    "conditional_lm_loss",
    "dpo_loss",
    "masked_lm_loss",
    "policy_gradient_loss",
    "sequence_log_probs",
]

Array = npt.NDArray[Any]


def causal_lm_loss(logits: npt.ArrayLike, tokens: Any, **options: Any) -> tuple[Any, Array]:
    r"""Return :math:`-\frac1n \sum_i \log p(x_{i+1} \mid x_{\le i})`, the next-token loss, and its gradient.

    Parameters
    ----------
    logits : array_like (..., T, V)
    tokens : integer array (..., T)
        The input tokens themselves, not shifted; with ``offsets`` packed documents.
    **options
        As for `fastnll.cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> round(causal_lm_loss(np.zeros((3, 4)), [1, 2, 3])[0], 6)
    1.386294
    """
    return cross_entropy_value_and_grad(logits, tokens, **{"shift": 1, **options})


def conditional_lm_loss(logits: npt.ArrayLike, tokens: Any, prompt: Any, **options: Any) -> tuple[Any, Array]:
    r"""Return :math:`-\frac1n \sum_{i \ge P} \log p(x_i \mid x_{<i})` over the answer alone, and its gradient.

    Parameters
    ----------
    logits : array_like (..., T, V)
    tokens : integer array (..., T)
        Prompt and answer, not shifted.
    prompt : integer array (...) or bool array (..., T)
        The prompt's length P in each sequence, or True at each of its tokens.
    **options
        As for `fastnll.cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> loss, grad = conditional_lm_loss(np.zeros((4, 2)), [0, 1, 1, 0], 3)
    >>> grad.tolist()
    [[0.0, 0.0], [0.0, 0.0], [-0.5, 0.5], [0.0, 0.0]]
    """
    ids, given = np.asarray(tokens), np.asarray(prompt)
    if given.dtype != bool:
        given = np.arange(ids.shape[-1]) < given[..., None]
    if given.shape[-1:] != ids.shape[-1:]:
        raise ShapeError(f"prompt: expected lengths {ids.shape[:-1]} or a mask {ids.shape}, got {given.shape}")
    answer = np.broadcast_to(~given, ids.shape)
    # Row i predicts token i + 1, so it counts where that token is of the answer.
    predicts = np.zeros(ids.shape, bool)
    predicts[..., :-1] = answer[..., 1:]
    return cross_entropy_value_and_grad(logits, ids, **{**options, "shift": 1, "mask": predicts})


def masked_lm_loss(logits: npt.ArrayLike, tokens: Any, masked: Any, **options: Any) -> tuple[Any, Array]:
    r"""Return :math:`-\frac{1}{|M|} \sum_{i \in M} \log p(x_i \mid x_{\setminus M})` and its gradient.

    Parameters
    ----------
    logits : array_like (..., T, V)
    tokens : integer array (..., T)
        The original tokens.
    masked : bool array (..., T)
        True at the positions that were hidden from the model (J. Devlin et al., 2019).
    **options
        As for `fastnll.cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> masked_lm_loss(np.zeros((2, 2)), [0, 1], np.array([False, True]))[1].tolist()
    [[0.0, 0.0], [0.5, -0.5]]
    """
    return cross_entropy_value_and_grad(logits, tokens, **{**options, "mask": masked})


def policy_gradient_loss(logits: npt.ArrayLike, actions: Any, advantages: Any, **options: Any) -> tuple[Any, Array]:
    r"""Return :math:`-\frac1n \sum_i A_i \log \pi(a_i \mid s_i)` and its gradient (R. J. Williams, 1992).

    Parameters
    ----------
    logits : array_like (..., V)
    actions : integer array (...)
    advantages : float array, broadcast to (...)
        Of any sign. The sum is divided by the number n of actions that count, or by ``normalizer``.
    **options
        As for `fastnll.cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> policy_gradient_loss(np.zeros((2, 2)), [0, 1], [1.0, -1.0])[1].tolist()
    [[-0.25, 0.25], [-0.25, 0.25]]
    """
    fixed: dict[str, Any] = {"token_weight": advantages}
    if options.get("reduction", "mean") == "mean" and options.get("normalizer") is None:
        # Advantages sum to about 0: the mean is over actions, not over their weights.
        fixed["normalizer"] = max(float(_count(actions, options)), 1.0)
    return cross_entropy_value_and_grad(logits, actions, **{**options, **fixed})


def _count(actions: Any, options: dict[str, Any]) -> int:
    """Return the number of actions that count under the options on rows."""
    names = ("ignore_index", "mask", "offsets", "shift")
    rows = LossOptions.make({name: options[name] for name in names if name in options})
    ids = np.asarray(actions)
    return row_weights(rows.replace({"validate": "off"}), ids, 1, make_plan(ids.size)).n_live


def sequence_log_probs(logits: npt.ArrayLike, tokens: Any, **options: Any) -> Array:
    r"""Return :math:`\log p(x) = \sum_i \log p(x_i \mid x_{<i})` of each sequence.

    Parameters
    ----------
    logits : array_like (..., T, V)
    tokens : integer array (..., T)
        Aligned with the logits; pass ``shift=1`` where logits at i predict token i + 1, ``mask`` to leave out
        prompts and padding, ``offsets`` for packed sequences.
    **options
        As for `fastnll.cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> sequence_log_probs(np.zeros((2, 3, 2)), np.zeros((2, 3), int)).round(6).tolist()
    [-2.079442, -2.079442]
    """
    return -np.asarray(cross_entropy(logits, tokens, **{**options, "reduction": "sequence_sum"}))


class Preference(NamedTuple):
    """A pairwise loss and its gradients.

    Attributes
    ----------
    loss : float
        Mean over the pairs, in nats.
    chosen, rejected : ndarray
        Gradient with respect to the chosen and the rejected logits (or rewards).
    """

    loss: float
    chosen: Array
    rejected: Array


def _pairs(margin: Array) -> tuple[float, Array]:
    """Return the mean of -log sigmoid(margin) and its derivative by the margin."""
    # exp of a number that is never above 0: no overflow, and small losses keep their accuracy.
    e = np.exp(-np.abs(margin))
    losses = np.maximum(-margin, 0.0) + np.log1p(e)
    slope = -np.where(margin > 0, e, 1.0) / (1.0 + e)
    return float(losses.mean()), slope / margin.size


def bradley_terry_loss(chosen: npt.ArrayLike, rejected: npt.ArrayLike) -> Preference:
    r"""Return :math:`-\frac1B \sum_b \log \sigma(r^+_b - r^-_b)`, the reward model's loss, and its gradients.

    It is the cross-entropy of two classes with the rewards as logits (R. A. Bradley and M. E. Terry, 1952).

    Parameters
    ----------
    chosen, rejected : array_like (B,)
        Rewards of the preferred and of the other answer.

    Raises
    ------
    ShapeError
        If the two differ in shape or hold no pair.

    Examples
    --------
    >>> bradley_terry_loss([0.0], [0.0]).chosen.tolist()
    [-0.5]
    """
    plus, minus = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    if plus.shape != minus.shape or plus.size == 0:
        raise ShapeError(f"rejected: expected shape {plus.shape} with at least one pair, got {minus.shape}")
    loss, slope = _pairs(plus - minus)
    return Preference(loss, slope, -slope)


def dpo_loss(
    chosen_logits: npt.ArrayLike,
    chosen_tokens: Any,
    rejected_logits: npt.ArrayLike,
    rejected_tokens: Any,
    *,
    reference: tuple[npt.ArrayLike, npt.ArrayLike],
    beta: float = 0.1,
    chosen_options: dict[str, Any] | None = None,
    rejected_options: dict[str, Any] | None = None,
) -> Preference:
    r"""Return the direct preference loss and its gradients with respect to both logits.

    .. math:: -\frac1B \sum_b \log \sigma\bigl(\beta [\log\pi(y^+_b) - \log\pi_0(y^+_b)
              - \log\pi(y^-_b) + \log\pi_0(y^-_b)]\bigr)

    (R. Rafailov et al., 2023), with the sequences' log-probabilities as `sequence_log_probs` returns them.

    Parameters
    ----------
    chosen_logits, rejected_logits : array_like (B, T, V)
        T may differ between the two.
    chosen_tokens, rejected_tokens : integer array (B, T)
    reference : tuple of two (B,) arrays
        `sequence_log_probs` of the reference model for chosen and rejected answers.
    beta : float
    chosen_options, rejected_options : dict, optional
        Options of `fastnll.cross_entropy` for each side: ``shift``, ``mask``, ``offsets``, ...

    Raises
    ------
    ShapeError
        If the sides do not hold the same number of sequences.

    Examples
    --------
    >>> import numpy as np
    >>> x, t = np.zeros((1, 1, 2)), np.zeros((1, 1), int)
    >>> round(dpo_loss(x, t, x, t + 1, reference=([0.0], [0.0])).loss, 6)
    0.693147
    """
    plus_options, minus_options = chosen_options or {}, rejected_options or {}
    plus = sequence_log_probs(chosen_logits, chosen_tokens, **plus_options).astype(np.float64)
    minus = sequence_log_probs(rejected_logits, rejected_tokens, **minus_options).astype(np.float64)
    plus_0, minus_0 = (np.asarray(r, np.float64) for r in reference)
    if not plus.shape == minus.shape == plus_0.shape == minus_0.shape or plus.size == 0:
        raise ShapeError(
            f"reference: expected one log-probability a sequence on both sides, got {plus_0.shape} and {minus_0.shape} "
            f"for {plus.shape} chosen and {minus.shape} rejected"
        )
    loss, slope = _pairs(beta * ((plus - plus_0) - (minus - minus_0)))
    # The loss of a sequence is minus its log-probability.
    _, grad_plus = cross_entropy_value_and_grad(
        chosen_logits, chosen_tokens, grad_output=-beta * slope, **{**plus_options, "reduction": "sequence_sum"}
    )
    _, grad_minus = cross_entropy_value_and_grad(
        rejected_logits, rejected_tokens, grad_output=beta * slope, **{**minus_options, "reduction": "sequence_sum"}
    )
    return Preference(loss, grad_plus, grad_minus)
