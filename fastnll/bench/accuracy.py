"""The accuracy table: worst and root-mean-square error in ulp, fastnll and its peers on the same inputs.

Every library gets the same float32 logits and is compared with the same truth in float64 (`fastnll.bench.oracle`), in
units in the last place of float32. Losses are per row, gradients those of the sum of the losses, so that no averaging
hides an error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnll.bench.oracle import Error, row_truth, ulp_error

__all__ = ["INPUTS", "LIBRARIES", "QUANTITIES", "AccuracyRow", "accuracy_inputs", "measure_accuracy"]

Array = npt.NDArray[Any]

QUANTITIES = ("loss", "log_softmax", "softmax", "gradient")
INPUTS = {
    "normal": "1024 x 1000, standard deviation 1",
    "wide": "1024 x 1000, standard deviation 20",
    "confident": "1024 x 1000, target 12 to 30 above the rest: losses of 1e-2 to 1e-10",
    "V = 256k": "8 x 262144, standard deviation 3",
}


class Results(NamedTuple):
    """What one library computed: per-row losses (N,), and arrays (N, V)."""

    loss: Array
    log_softmax: Array
    softmax: Array
    gradient: Array


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the table: the errors of every library in one quantity on one input, and who failed and how."""

    inputs: str
    quantity: str
    errors: dict[str, Error]
    left_out: dict[str, str]


def accuracy_inputs(name: str, *, quick: bool = False) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return float32 logits (N, V) and targets (N,).

    Parameters
    ----------
    name : str
        Key of `INPUTS`.
    quick : bool
        A sixteenth of the rows, at least two.

    Examples
    --------
    >>> accuracy_inputs("V = 256k", quick=True)[0].shape
    (2, 262144)
    """
    rng = np.random.default_rng(20261122)
    n, v = (8, 262144) if name == "V = 256k" else (1024, 1000)
    n = max(2, n // 16) if quick else n
    deviation = {"normal": 1, "wide": 20, "confident": 1, "V = 256k": 3}[name]
    x = rng.standard_normal((n, v), dtype=np.float32) * np.float32(deviation)
    targets = rng.integers(0, v, size=n)
    if name == "confident":
        x[np.arange(n), targets] = x.max(axis=1) + np.linspace(12, 30, n, dtype=np.float32)
    return x, targets


def _fastnll(backend: str) -> Callable[[Array, Array], Results]:
    def run(x: Array, targets: Array) -> Results:
        import fastnll as fn

        with fn.using(backend=backend):
            loss, grad = fn.cross_entropy_value_and_grad(x, targets, reduction="none")
            return Results(loss, fn.log_softmax(x), fn.softmax(x), grad)

    return run


def _torch(x: Array, targets: Array) -> Results:
    import torch
    from torch.nn import functional

    logits = torch.from_numpy(x).clone().requires_grad_()
    loss = functional.cross_entropy(logits, torch.from_numpy(targets), reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    with torch.no_grad():
        arrays = (loss, torch.log_softmax(logits, 1), torch.softmax(logits, 1), grad)
        return Results(*(a.detach().numpy() for a in arrays))


def _jax(x: Array, targets: Array) -> Results:
    import jax
    import jax.numpy as jnp

    ids = jnp.asarray(targets.astype(np.int32))

    @jax.jit
    def losses(logits: Any) -> Any:
        picked = jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - picked

    logits = jnp.asarray(x)
    grad = jax.jit(jax.grad(lambda z: losses(z).sum()))(logits)
    arrays = (losses(logits), jax.jit(jax.nn.log_softmax)(logits), jax.jit(jax.nn.softmax)(logits), grad)
    return Results(*(np.asarray(a) for a in arrays))


def _scipy(x: Array, targets: Array) -> Results:
    from scipy import special

    rows = np.arange(x.shape[0])
    log_probs, probs = special.log_softmax(x, axis=1), special.softmax(x, axis=1)
    grad = probs.copy()
    grad[rows, targets] -= 1
    return Results(-log_probs[rows, targets], log_probs, probs, grad)


# name -> (modules it needs, function); fastnll's backends by their own test of availability
LIBRARIES: dict[str, tuple[tuple[str, ...], Callable[[Array, Array], Results]]] = {
    "native": ((), _fastnll("native")),
    "numba": (("numba",), _fastnll("numba")),
    "torch": (("torch",), _torch),
    "jax": (("jax",), _jax),
    "scipy": (("scipy",), _scipy),
}


def _installed(name: str) -> bool:
    from fastnll.kernels import registry

    if name in ("native", "numba"):
        return registry.available_backends()[name] is None
    return all(importlib.util.find_spec(module) is not None for module in LIBRARIES[name][0])


def measure_accuracy(*, quick: bool = False, libraries: tuple[str, ...] | None = None) -> Iterator[AccuracyRow]:
    """Yield the lines of the table.

    Parameters
    ----------
    quick : bool
        Fewer rows.
    libraries : tuple of str, optional
        Keys of `LIBRARIES`; those that are not installed are passed over. None takes all.

    Examples
    --------
    >>> row = next(measure_accuracy(quick=True, libraries=("scipy",)))
    >>> row.inputs, row.quantity, list(row.errors)
    ('normal', 'loss', ['scipy'])
    """
    names = [name for name in (libraries or tuple(LIBRARIES)) if _installed(name)]
    for inputs in INPUTS:
        x, targets = accuracy_inputs(inputs, quick=quick)
        results, left_out = {}, {}
        for name in names:
            try:
                results[name] = LIBRARIES[name][1](x, targets)
            except Exception as error:  # whatever a library raises, the others are still compared
                left_out[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        rows = row_truth(x.astype(np.float64), targets)
        truth = {"loss": rows.loss, "log_softmax": rows.log_probs, "softmax": rows.probs, "gradient": rows.grad}
        for quantity in QUANTITIES:
            errors = {
                name: ulp_error(getattr(result, quantity), truth[quantity], np.float32)
                for name, result in results.items()
            }
            yield AccuracyRow(inputs, quantity, errors, left_out)
