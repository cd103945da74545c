"""What the definitions say, longhand and in wide precision, with the error each result may have.

Nothing here is shared with the package but the op table's number of allowed eps. float64 rows are worked
out in long double, narrower ones in float64, always in a form that keeps *relative* accuracy for a
confident row: sums leave the largest term out and go through log1p, and p_t - 1 is minus the sum of the
others.

The bounds
----------
All in units of u, half an eps of the dtype computed in (float32 for 16-bit rows). With m = max x,
d = x - m, e = exp d, S = sum e:

- rounding d costs |d| u, and exp 2 ulp, so e_j has relative error (|d_j| + 4) u;
- a sum of positive terms has the relative error of its terms, averaged by their size, plus that of
  adding up: K = 4 (exp) + 12 (several accumulators a block, block sums in float64; a naive pairwise
  float32 sum is of the same order);
- log S = log1p(rest), rest = S - 1, inherits the *absolute* error rest / S * rel(rest), which for a
  confident row is a relative error of log S;
- every further operation and the final rounding cost u each.

None of the bounds contains |m|: an offset of the logits must not cost accuracy, except in logsumexp
itself, which is of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from fastnll.kernels import spec

Array = np.ndarray[Any, Any]

K_EXP = 4.0
K = K_EXP + 12.0


@dataclass(frozen=True)
class Truth:
    """Values and error bounds (in u) of every quantity of the rows.

    lse, loss, minus_loss are (N,); probs, log_probs, grad are (N, V); `units` has the same keys.
    """

    lse: Array
    loss: Array
    minus_loss: Array
    probs: Array
    log_probs: Array
    grad: Array
    units: dict[str, Array]

    def __getitem__(self, quantity: str) -> Array:
        value: Array = getattr(self, quantity)
        return value


def wide(x: Array) -> Array:
    """Return x in the precision the oracle works in for its dtype."""
    return x.astype(np.longdouble if x.dtype == np.float64 else np.float64)


def unit(dtype: Any) -> float:
    """Return u of the dtype that rows of `dtype` are computed in."""
    compute = np.dtype(dtype) if np.dtype(dtype).itemsize >= 4 else np.dtype(np.float32)
    return float(np.finfo(compute).eps) / 2


def _share(part: Array, whole: Array) -> Array:
    """Return part / whole, and 0 where there is nothing to share."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def truth_of_rows(x: Array, t: Array) -> Truth:
    """Return the truth for logits (N, V) and targets (N,), every target in 0 .. V-1."""
    z, rows = wide(x), np.arange(len(x))
    broken = np.isnan(z).any(axis=1) | (z == np.inf).any(axis=1) | (z == -np.inf).all(axis=1)
    z = np.where(broken[:, None], 0, z)
    largest = z.argmax(axis=1)
    m = z[rows, largest]
    d = z - m[:, None]
    e = np.exp(d)
    size = np.where(e > 0, -d, 0)  # |d| where it matters: 0 * inf = 0

    def without(index: Array, a: Array) -> Array:
        kept = a.copy()
        kept[rows, index] = 0
        total: Array = kept.sum(axis=1)
        return total

    rest = without(largest, e)
    s = 1 + rest
    log_s = np.log1p(rest)
    log_probs = d - log_s[:, None]
    probs = e / s[:, None]
    others = without(t, e)  # S (1 - p_t)
    grad = probs.copy()
    grad[rows, t] = -others / s
    loss = -log_probs[rows, t]

    # Relative errors of S, of its part without the maximum, and of its part without the target.
    rel_s = (probs * size).sum(axis=1) + K
    rel_rest = _share(without(largest, e * size), rest) + K
    rel_others = _share(without(t, e * size), others) + K
    # Terms below the smallest normal number may be flushed to 0, each of them.
    tiny = float(np.finfo(np.float64 if x.dtype == np.float64 else np.float32).tiny)
    flushed = (e < tiny).sum(axis=1) * (tiny / unit(x.dtype))
    err_log_s = rest / s * rel_rest + 2 * log_s + flushed
    finite_d = np.where(np.isfinite(d), -d, 0)
    rel_probs = 2 * size + (2 * log_s + rel_s + 6)[:, None]
    err_grad = probs * rel_probs
    err_grad[rows, t] = -grad[rows, t] * (rel_others + rel_s + 6) + flushed
    # Only the loss is promised relative accuracy where it is small. lse and a log-probability near 0 may be
    # wrong by what the naive formula loses when it rounds S >= 1, and the few eps that the op table allows.
    floor = {op: 2 + 2 * spec.OPS[op].eps for op in ("logsumexp", "softmax", "gather")}
    err_log_probs = finite_d + err_log_s[:, None] + 2 * np.where(np.isfinite(log_probs), -log_probs, 0)
    units = {
        "lse": err_log_s + 2 * np.abs(m + log_s) + floor["logsumexp"],
        "loss": err_log_probs[rows, t],
        "minus_loss": err_log_probs[rows, t] + floor["gather"],
        "probs": probs * rel_probs,
        "log_probs": err_log_probs + floor["softmax"],
        "grad": err_grad,
    }

    lse = m + log_s
    original = wide(x)
    lse[broken] = np.where(
        np.isnan(original[broken]).any(axis=1), np.nan, original[broken].max(axis=1, initial=-np.inf)
    )
    for a in (probs, log_probs, grad, loss):
        a[broken] = np.nan
    return Truth(lse, loss, -loss, probs, log_probs, grad, units)


def assert_within(name: str, got: Any, want: Array, units: Array | float, dtype: Any, *, factor: float = 1.0) -> None:
    """Assert |got - want| <= factor * units * u + rounding to got's dtype, and print the worst case.

    Parameters
    ----------
    name : str
        What is compared, for the message.
    got : array_like
        What fastnll returned.
    want : array
        What it should be, in wide precision, of the same shape.
    units : array or float
        Allowed error in u of the compute dtype of `dtype`.
    dtype : dtype
        Of the rows.
    factor : float
        Further factor of the bound, where two such errors meet.
    """
    got = np.asarray(got)
    want = np.asarray(want)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    if want.size == 0:
        return
    store = ml_dtypes.finfo(got.dtype)
    u = unit(dtype)
    calculated = factor * np.asarray(units) * u
    # A result below the smallest normal number may be flushed where the arithmetic is of the storage
    # dtype; a 16-bit result is converted from float32 and must round correctly down to its subnormals.
    narrow = got.dtype.itemsize < 4
    floor = float(store.smallest_subnormal) / 2 + float(np.finfo(np.float32).tiny) if narrow else float(store.tiny)
    rounding = float(store.eps) / 2 * (np.abs(want) + calculated) if narrow else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = calculated + rounding + floor
        wrong = np.abs(got.astype(want.dtype) - want)
        # Equal infinities differ by nan; a value beyond the dtype is rounded to infinity.
        same = (got == want.astype(got.dtype)) | (np.isnan(got) & np.isnan(want))
        ratio = np.where(same, 0, np.where(np.isnan(wrong), np.inf, wrong / allowed))
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    if ratio[worst] > 1:
        ulp = float(store.eps) * max(abs(float(want[worst])), float(store.tiny))
        raise AssertionError(
            f"{name}: {int((ratio > 1).sum())} of {ratio.size} outside the bound; worst at {tuple(map(int, worst))}: "
            f"got {got[worst]!r}, expected {want[worst]!r}, error {float(wrong[worst]):.3g} "
            f"({float(wrong[worst]) / ulp:.3g} eps), allowed {float(np.broadcast_to(allowed, ratio.shape)[worst]):.3g}"
        )


def assert_same_bits(name: str, got: Any, want: Any) -> None:
    """Assert that two results are the same to the last bit, signs of zero and NaN patterns aside."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    assert got.dtype == want.dtype, f"{name}: dtype {got.dtype}, expected {want.dtype}"
    differ = np.argwhere(~((got == want) | (np.isnan(got) & np.isnan(want))))
    if len(differ):
        at = tuple(map(int, differ[0]))
        raise AssertionError(
            f"{name}: {len(differ)} of {got.size} values differ, first at {at}: {got[at]!r}, {want[at]!r}"
        )
