"""The one table of benchmark cases.

A case is an op on a shape, a dtype and a mode; the full shape is the one that is measured, the quick one is small
enough to check every contender on it in a moment. The bytes of a case are those of its model: every array crosses
the memory bus once (`fastnll.kernels.spec`); nothing is counted that a better kernel need not do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fastnll.errors import OptionError
from fastnll.kernels.spec import OPS

__all__ = ["CASES", "GROUPS", "ITEMSIZES", "MODES", "Case", "Traffic", "select_cases"]

ITEMSIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

# mode -> the kind of memory traffic that bounds it, as `fastnll.profiling` names them
MODES = {"value": "read", "inplace": "update", "out": "copy", "fresh": "copy"}
GROUPS = {
    "large": "value and gradient, from V = 256 to 262144",
    "softmax": "logsumexp, softmax, log_softmax and their vector-Jacobian products",
    "small-v": "2 to 32 classes, a million rows",
    "16-bit": "bfloat16 and float16 logits, gradient in the same dtype",
    "few-rows": "1, 2 and 3 rows of 128256 classes",
    "mid-axis": "the class axis in the middle: (N, V, T)",
    "linear": "the linear head, hidden states in: value, value and gradients; N x V logits of D features",
    "call": "the cost of a call from Python",
    "f64": "float64",
    "isa": "each instruction set against a scalar loop",
    "other": "losses from log-probabilities, gathers, SGD",
}
# Kernel that carries each public op (the key of the spec table).
_KERNEL = {public: spec.name for spec in OPS.values() for public in spec.public}


@dataclass(frozen=True)
class Traffic:
    """What an ideal kernel moves and computes in one call: bytes read and written, and exps."""

    kind: str
    read: int
    written: int
    exps: int


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes
    ----------
    group : str
        Key of `GROUPS`.
    op : str
        Public function of fastnll.
    shape : tuple of int
        Shape of the logits; the flat length of the parameter for ``sgd_update``.
    quick_shape : tuple of int
        The small stand-in.
    dtype : str
        Of the logits: "float64", "float32", "bfloat16" or "float16".
    mode : str
        "value" (nothing of the logits' size is written), "inplace", "out" (an array that exists and is
        warm) or "fresh" (an array of the library's own; page faults included, where it does not use
        the memory of earlier results again).
    axis : int
        The class axis.
    features : int
        D of a linear head, whose logits nobody gives; 0 elsewhere.
    """

    group: str
    op: str
    shape: tuple[int, ...]
    quick_shape: tuple[int, ...]
    dtype: str = "float32"
    mode: str = "value"
    axis: int = -1
    features: int = 0

    @property
    def name(self) -> str:
        """Name of the case, unique in the table.

        Examples
        --------
        >>> Case("large", "cross_entropy", (8, 10), (8, 10)).name
        'cross_entropy-8x10-float32-value'
        """
        sizes = (*self.shape, *([f"d{self.features}"] if self.features else []))
        return f"{self.op}-{'x'.join(map(str, sizes))}-{self.dtype}-{self.mode}"

    @property
    def classes(self) -> int:
        """V; 1 for an op without classes."""
        return 1 if self.op == "sgd_update" else self.shape[self.axis]

    @property
    def rows(self) -> int:
        """N, the product of all other axes."""
        return math.prod(self.shape) // self.classes

    @property
    def itemsize(self) -> int:
        """Bytes of one logit."""
        return ITEMSIZES[self.dtype]

    @property
    def grad_output(self) -> float:
        """The upstream gradient of the mean loss.

        N for 16-bit logits, as a loss scaler would give: the gradient of the mean itself (p / N) is below the
        smallest float16 and every contender would be right to return zeros.
        """
        return float(self.rows) if self.itemsize == 2 else 1.0

    def quick(self) -> Case:
        """Return the case with its quick shape."""
        return replace(self, shape=self.quick_shape, features=min(self.features, 40))

    def traffic(self) -> Traffic:
        """Return the bytes and exps of the model (`fastnll.kernels.spec`, split in what is read and written).

        Examples
        --------
        >>> Case("large", "cross_entropy", (2, 8), (2, 8)).traffic()
        Traffic(kind='read', read=80, written=0, exps=16)
        """
        if self.op in ("nll_loss", "selected_log_probs"):
            mode = "normalised" if self.op == "nll_loss" else "value"
        elif self.op == "sgd_update":
            mode = "momentum"
        else:
            mode = "out" if self.mode == "fresh" else self.mode
        n, v = self.rows, self.classes
        total = OPS[_KERNEL[self.op]].model_bytes(n, v, self.itemsize, mode)
        written = 0 if self.mode == "value" else n * v * self.itemsize * (2 if self.op == "sgd_update" else 1)
        exps = 0 if self.op in ("nll_loss", "sgd_update", "softmax_vjp") else n * v
        return Traffic(MODES[self.mode], total - written, written, exps)

    def memory(self) -> int:
        """Return roughly the bytes that measuring the case with every contender takes."""
        if self.features:  # logits and gradients of the largest contender, and of the limit; six arrays of weights
            return 6 * (self.rows + self.features) * self.classes * max(self.itemsize, 4)
        return 14 * math.prod(self.shape) * max(self.itemsize, 4)


def _large() -> Iterator[Case]:
    """64 million logits whatever V is: 262 MB in float32, beyond any private cache; 257 is every byte and an end."""
    shapes = [(65536, 256), (65536, 257), (65536, 1000), (16384, 4096)]
    shapes += [(2048, 32000), (2048, 32003), (512, 128256), (256, 262144)]
    for shape in shapes:
        quick = (max(2, 60000 // shape[1]), shape[1])
        yield Case("large", "cross_entropy", shape, quick)
        for mode in ("inplace", "out"):
            yield Case("large", "cross_entropy_value_and_grad", shape, quick, mode=mode)
        if shape in ((65536, 256), (2048, 32000)):
            yield Case("large", "cross_entropy_value_and_grad", shape, quick, mode="fresh")


def _softmax() -> Iterator[Case]:
    shapes = [(65536, 256), (16384, 4096), (2048, 32000), (512, 128256)]
    for shape in shapes:
        quick = (max(2, 60000 // shape[1]), shape[1])
        yield Case("softmax", "logsumexp", shape, quick)
        for op in ("softmax", "log_softmax"):
            yield Case("softmax", op, shape, quick, mode="out")
    yield Case("softmax", "softmax", (2048, 32000), (3, 32000), mode="inplace")
    for op in ("softmax_vjp", "log_softmax_vjp"):
        yield Case("softmax", op, (2048, 32000), (3, 32000), mode="out")


def _small_v() -> Iterator[Case]:
    for v in (2, 3, 5, 8, 10, 16, 32):
        for op, mode in (("cross_entropy", "value"), ("cross_entropy_value_and_grad", "out")):
            yield Case("small-v", op, (1_000_000, v), (1003, v), mode=mode)


def _sixteen_bit() -> Iterator[Case]:
    for dtype in ("bfloat16", "float16"):
        for shape, quick in (((32768, 256), (64, 256)), ((2048, 32000), (3, 32000))):
            yield Case("16-bit", "cross_entropy", shape, quick, dtype)
            for mode in ("inplace", "out", "fresh"):
                yield Case("16-bit", "cross_entropy_value_and_grad", shape, quick, dtype, mode)


def _linear() -> Iterator[Case]:
    """The softmax head of language models; f32 and 16-bit, value and all gradients."""
    value, grad = "linear_cross_entropy", "linear_cross_entropy_value_and_grad"
    shapes = ((2048, 512, 32000, 70), (4096, 256, 50257, 80), (1024, 768, 128256, 60))
    for n, d, v, few in shapes:
        yield Case("linear", value, (n, v), (few, 900), features=d)
        yield Case("linear", grad, (n, v), (few, 900), mode="out", features=d)
        yield Case("linear", grad, (n, v), (few, 900), "bfloat16", "out", features=d)


def _rest() -> Iterator[Case]:
    value, grad = "cross_entropy", "cross_entropy_value_and_grad"
    for n in (1, 2, 3):
        for op, mode in ((value, "value"), (grad, "out")):
            yield Case("few-rows", op, (n, 128256), (n, 128256), mode=mode)
    middle = (((16, 1000, 4096), (2, 1000, 33)), ((8, 32000, 256), (2, 3200, 16)), ((64, 10, 65536), (3, 10, 999)))
    for shape, quick in middle:
        for op, mode in ((value, "value"), (grad, "out")):
            yield Case("mid-axis", op, shape, quick, mode=mode, axis=1)
    for op, mode in ((value, "value"), (grad, "fresh"), (grad, "out"), ("log_softmax", "out")):
        yield Case("call", op, (8, 10), (8, 10), mode=mode)
    for op, mode in ((value, "value"), (grad, "fresh")):  # a classifier's batch
        yield Case("call", op, (256, 10), (256, 10), mode=mode)
    for n, v, few in ((65536, 256, 64), (1024, 32000, 3)):
        for op, mode in ((value, "value"), (grad, "inplace"), (grad, "out"), ("log_softmax", "out")):
            yield Case("f64", op, (n, v), (few, v), "float64", mode)
    yield Case("isa", "cross_entropy", (8192, 4096), (8, 4097))
    yield Case("isa", "cross_entropy_value_and_grad", (8192, 4096), (8, 4097), mode="inplace")
    yield Case("other", "nll_loss", (65536, 1000), (64, 1000))
    yield Case("other", "selected_log_probs", (2048, 32000), (3, 32000))
    yield Case("other", "sgd_update", (2**26,), (100_003,), mode="inplace")


CASES: tuple[Case, ...] = (*_large(), *_softmax(), *_small_v(), *_sixteen_bit(), *_linear(), *_rest())

# The lines that a user who asks for none gets: what most people compute, in about ten minutes with every peer.
_HEADLINE = (
    "cross_entropy-65536x256-float32-value",
    "cross_entropy-2048x32000-float32-value",
    "cross_entropy-256x262144-float32-value",
    "cross_entropy_value_and_grad-2048x32000-float32-inplace",
    "cross_entropy_value_and_grad-2048x32000-float32-out",
    "cross_entropy_value_and_grad-2048x32000-float32-fresh",
    "log_softmax-2048x32000-float32-out",
    "cross_entropy_value_and_grad-1000000x10-float32-out",
    "cross_entropy_value_and_grad-2048x32000-bfloat16-fresh",
    "cross_entropy_value_and_grad-1x128256-float32-out",
    "cross_entropy_value_and_grad-16x1000x4096-float32-out",
    "cross_entropy_value_and_grad-8x10-float32-fresh",
    "cross_entropy-1024x32000-float64-value",
    "sgd_update-67108864-float32-inplace",
)


def select_cases(
    *,
    words: Iterable[str] = (),
    groups: Iterable[str] = (),
    dtypes: Iterable[str] = (),
    quick: bool = False,
    headline: bool = False,
) -> list[Case]:
    """Return the cases that match all that is asked.

    Parameters
    ----------
    words : iterable of str
        Keep a case whose name contains one of these: an op, a shape such as ``2048x32000``, a mode.
    groups, dtypes : iterable of str
        Keep these groups and dtypes.
    quick : bool
        Return them with their quick shapes.
    headline : bool
        Keep the lines that stand for the rest.

    Raises
    ------
    OptionError
        If nothing is left.

    Examples
    --------
    >>> [case.mode for case in select_cases(words=["8x10"], quick=True)]
    ['value', 'fresh', 'out', 'out']
    """
    words, groups, dtypes = list(words), list(groups), list(dtypes)
    kept = [
        case
        for case in CASES
        if (not words or any(word in case.name.split("-") or word == case.name for word in words))
        and (not groups or case.group in groups)
        and (not dtypes or case.dtype in dtypes)
        and (not headline or case.name in _HEADLINE)
    ]
    if not kept:
        raise OptionError(
            f"cases: expected ops, shapes, modes, groups or dtypes of the table, got {words + groups + dtypes}; "
            f"groups are {', '.join(GROUPS)}; ops are {', '.join(sorted({case.op for case in CASES}))}"
        )
    return [case.quick() for case in kept] if quick else kept
