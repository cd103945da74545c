"""The options that tests walk: each alone, and every two together."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
N, V = 6, 11
OFFSETS = (0, 2, 2, 6)  # the second sequence is empty


def classes(v: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([v, seed])


def option_table(n: int = N, v: int = V) -> dict[str, dict[str, Any]]:
    """Return options of each kind; two of different names can be merged into one call."""
    offsets = np.array(OFFSETS) * (n // 6)
    offsets[-1] = n
    mask = np.ones(n, bool)
    mask[[1, n - 1]] = False
    class_mask = classes(v, 1).random(v) < 0.7
    class_mask[:3] = True
    token = classes(v, 2).uniform(0.2, 2.0, n)
    token[2] = -0.7
    token[3] = 0.0
    class_weight = classes(v, 3).uniform(0.1, 3.0, v)
    class_weight[1] = 0.0
    return {
        "plain": {},
        "reduction=sum": {"reduction": "sum"},
        "reduction=none": {"reduction": "none"},
        "reduction=sequence_sum": {"reduction": "sequence_sum", "offsets": offsets},
        "reduction=sequence_mean": {"reduction": "sequence_mean", "offsets": offsets},
        "ignore_index=several": {"ignore_index": (0, -100)},
        "ignore_index=none": {"ignore_index": None},
        "mask": {"mask": mask},
        "token_weight": {"token_weight": token},
        "weight": {"weight": class_weight},
        "label_smoothing": {"label_smoothing": 0.15},
        "label_smoothing=1": {"label_smoothing": 1.0},
        "z_loss": {"z_loss": 0.03},
        "softcap": {"softcap": 2.5},
        "temperature": {"temperature": 0.6},
        "valid_classes": {"valid_classes": v - 3},
        "class_mask": {"class_mask": class_mask},
        "class_mask by row": {"class_mask": _by_row(n, v)},
        "normalizer": {"normalizer": 7.5},
        "offsets": {"offsets": offsets},
        "shift": {"shift": 1},
        "shift by document": {"shift": 1, "offsets": offsets},
        "empty=zero": {"empty": "zero"},
        "threads": {"threads": 2},
        "validate=off": {"validate": "off"},
        "nonfinite=raise": {"nonfinite": "raise"},
        "verify": {"verify": 1.0},
    }


def _by_row(n: int, v: int) -> Array:
    mask = classes(v, 4).random((n, v)) < 0.75
    mask[:, :3] = True
    return mask


def batch(n: int = N, v: int = V, seed: int = 0) -> tuple[Array, Array]:
    """Return float64 logits and targets; every option finds something: an ignored row, targets that are kept."""
    rng = np.random.default_rng([n, v, seed])
    x = 2.0 * rng.standard_normal((n, v))
    t = rng.integers(0, 3, n)  # kept by every mask, and below valid_classes
    t[:2] = 2
    return x, t


def soft_targets(n: int = N, v: int = V, k: int = 4, seed: int = 0) -> tuple[Array, tuple[Array, Array]]:
    """Return the same targets dense (N, V) and sparse ((N, K) ids with one twice, (N, K) probs)."""
    rng = np.random.default_rng([n, v, k, seed])
    ids = np.stack([rng.choice(np.arange(3), k) for _ in range(n)])
    probs = rng.dirichlet(np.ones(k), n)
    probs[1] *= 0.8  # a teacher's tail cut off
    dense = np.zeros((n, v))
    np.add.at(dense, (np.arange(n)[:, None], ids), probs)
    return dense, (ids, probs)


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any] | None:
    """Return both together, or None where they set one option differently or exclude each other."""
    if any(k in a and k in b and a[k] is not b[k] for k in b):
        return None
    both = {**a, **b}
    if "normalizer" in both and both.get("reduction", "mean") not in ("mean", "sum"):
        return None  # refused, which test_messages holds
    return both


def pairs(table: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return every option alone and every two of them."""
    names = list(table)
    found = [(name, table[name]) for name in names]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = merged(table[a], table[b])
            if both is not None and "plain" not in (a, b):
                found.append((f"{a} and {b}", both))
    return found
