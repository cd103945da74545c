"""The one table of contenders: name -> how to set one up for a case.

Setting up gives a `Run`: a call with no arguments that does the whole work, and what is needed to check and time it
fairly. A contender that has no such op, dtype or thread count raises `NotOfferedError`; one that fails or is wrong is
left out by `fastnll.bench.measure.admit`, with the reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from fastnll.bench.data import Data
from fastnll.errors import OptionError

__all__ = ["CONTENDERS", "OURS", "Contender", "NotOfferedError", "Run", "select_contenders"]


class NotOfferedError(Exception):
    """A contender has nothing for this case; says why.

    Attributes
    ----------
    shown : bool
        Whether a report has to say so: it has the op, but cannot take part in this run.
    """

    def __init__(self, reason: str, *, shown: bool = False) -> None:
        super().__init__(reason)
        self.shown = shown


@dataclass
class Run:
    """One contender, ready to run one case.

    Attributes
    ----------
    call : callable
        Does the work and returns the raw result.
    outputs : callable
        Turns the raw result into arrays for `fastnll.bench.oracle.Oracle.check`.
    mode : str
        What it does with memory (`fastnll.bench.cases.MODES`): a peer that cannot write into a given array
        runs as "fresh", and tables mark it.
    before : callable, optional
        Restores what the call overwrites; not timed.
    context : callable
        Gives the context manager in which the call has to run (threads, backend).
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], dict[str, Any]]
    mode: str
    before: Callable[[], None] | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes
    ----------
    name : str
    title : str
        What runs.
    needs : tuple of str
        Modules that must be installed.
    build : str
        ``module:function`` of the function from (data, threads) to a `Run`; imported when it is used.
    compiled : bool
        Compiles each case for seconds before the first call: built in the full mode only.
    quick_only : bool
        Too slow for the full shapes to be worth waiting for: it is there to be checked.
    groups : tuple of str
        The groups of cases it is asked for; empty for all.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    build: str
    compiled: bool = False
    quick_only: bool = False
    groups: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Return what is not installed, or None.

        Examples
        --------
        >>> CONTENDERS["numpy"].missing() is None
        True
        """
        absent = [module for module in self.needs if importlib.util.find_spec(module) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    def setup(self, data: Data, threads: int) -> Run:
        """Build the run of one case.

        Raises
        ------
        NotOfferedError
            If there is nothing to run; anything else that a library may raise is passed on.
        """
        if self.groups and data.case.group not in self.groups:
            raise NotOfferedError(f"only for the groups {', '.join(self.groups)}")
        if data.case.features:
            linear = importlib.import_module("fastnll.bench.linear")
            head: Run = linear.setup(self.name, data, threads)
            return head
        module, _, function = self.build.partition(":")
        run: Run = getattr(importlib.import_module(f"fastnll.bench.{module}"), function)(data, threads)
        return run


OURS = ("native", "numba", "reference", "native-1t", "native-baseline", "native-avx2", "scalar")
CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender("native", "fastnll, compiled kernels", (), "ours:native"),
        Contender("native-1t", "fastnll, one thread", (), "ours:native_one_thread", groups=("few-rows",)),
        Contender("native-baseline", "fastnll, the baseline table", (), "ours:native_baseline", groups=("isa",)),
        Contender("native-avx2", "fastnll, the AVX2 table", (), "ours:native_avx2", groups=("isa",)),
        Contender("scalar", "one logit at a time, C", ("fastnll.profiling._probes",), "ours:scalar", groups=("isa",)),
        Contender("numba", "fastnll, Numba kernels", ("numba",), "ours:numba"),
        Contender("reference", "fastnll, the NumPy reference", (), "ours:reference", quick_only=True),
        Contender("numpy", "the formula in NumPy", (), "peers_numpy:numpy_run"),
        Contender("scipy", "scipy.special", ("scipy",), "peers_numpy:scipy_run"),
        Contender("sklearn", "scikit-learn's HalfMultinomialLoss", ("sklearn",), "peers_numpy:sklearn_run"),
        Contender("torch", "PyTorch, eager", ("torch",), "peers_torch:eager"),
        Contender(
            "torch.linear", "PyTorch, linear_cross_entropy in chunks", ("torch",), "linear:setup", groups=("linear",)
        ),
        Contender("torch.compile", "PyTorch, torch.compile", ("torch",), "peers_torch:compiled", compiled=True),
        Contender("jax", "JAX, jax.jit", ("jax",), "peers_jax:jit", compiled=True),
    )
}


def select_contenders(names: Iterable[str] | None = None, *, quick: bool = False) -> tuple[list[str], dict[str, str]]:
    """Return the contenders to run, ours first, and why the others are not.

    Parameters
    ----------
    names : iterable of str, optional
        Peers asked for; fastnll's own are always there. None takes all.
    quick : bool
        Leave out those that compile for seconds, unless they are named.

    Returns
    -------
    chosen : list of str
    reasons : dict of str to str

    Raises
    ------
    OptionError
        For a name that is not in the table.

    Examples
    --------
    >>> select_contenders(["numpy"], quick=True)[0][-1]
    'numpy'
    """
    asked = None if names is None else set(names)
    unknown = sorted((asked or set()) - CONTENDERS.keys())
    if unknown:
        raise OptionError(f"peers: expected some of {', '.join(CONTENDERS)}, got {', '.join(unknown)}")
    chosen, reasons = [], {}
    for name, contender in CONTENDERS.items():
        if asked is not None and name not in asked and name not in OURS:
            continue
        reason = contender.missing()
        if contender.quick_only and not quick and (asked is None or name not in asked):
            continue
        if reason is None and quick and contender.compiled and asked is None:
            reason = "compiles every case for seconds: built in the full mode, or when it is named"
        if reason is None:
            chosen.append(name)
        else:
            reasons[name] = reason
    return chosen, reasons
