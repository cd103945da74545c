"""What a call of a given size runs on: the backend module and how many threads.

The loop a native kernel takes (rows, rows in lanes, a split of few long rows) follows from shape and
strides alone and is chosen beside the loops, in ``kernels/native``: it must not depend on the number of
threads or rows, or results would.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, SupportsIndex

from fastnll import config
from fastnll.kernels import registry

__all__ = ["Plan", "make_plan"]


class Plan(NamedTuple):
    """The choices for one call.

    Attributes
    ----------
    backend : module
        Has one function per name in `fastnll.kernels.spec.OPS`.
    threads : int
        Threads the kernel runs on.
    """

    backend: ModuleType
    threads: int


def make_plan(n_elements: int, threads: SupportsIndex | None = None) -> Plan:
    """Return the plan for a call over `n_elements` logits.

    Parameters
    ----------
    n_elements : int
        Elements of the largest array the kernel walks.
    threads : int, optional
        The call's own ``threads=`` argument.

    Raises
    ------
    BackendError, OptionError
        As `fastnll.kernels.registry.backend` and `fastnll.config.resolve_threads` do.

    Examples
    --------
    >>> make_plan(80, threads=4).threads
    1
    """
    return Plan(registry.backend(), config.threads_for(n_elements, threads))
