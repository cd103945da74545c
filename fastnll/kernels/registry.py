"""Which backends there are, which one a call gets, and why.

The order of preference is native (compiled), numba, reference. A backend is imported when it is first
chosen, so ``import fastnll`` pays for none of them but the compiled one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fastnll import config, events
from fastnll.errors import BackendError
from fastnll.kernels.observed import observed

__all__ = ["available_backends", "available_isas", "backend", "backend_name", "isa_name", "short_cut"]

_MODULES = {
    "native": "fastnll.kernels.native",
    "numba": "fastnll.kernels.jit",
    "reference": "fastnll.kernels.reference",
}


@functools.cache
def _load(name: str) -> ModuleType:
    return importlib.import_module(_MODULES[name])


@functools.cache
def _missing(name: str) -> str | None:
    """Return why a backend cannot be used, or None."""
    try:
        if name == "numba":
            # Found, not imported: numba takes most of a second, and nobody may need it.
            return None if importlib.util.find_spec("numba") else "numba is not installed: pip install numba"
        _load(name)
    except ImportError as error:
        if name == "native":
            return (
                f"the compiled extension is not there ({error}): fastnll was installed where no C compiler was "
                "found; install one and reinstall fastnll"
            )
        return str(error)
    return None


def available_backends() -> dict[str, str | None]:
    """Return each backend's name with None, or with the reason why it cannot be used.

    Examples
    --------
    >>> available_backends()["reference"] is None
    True
    """
    return {name: _missing(name) for name in config.BACKENDS}


def available_isas() -> tuple[str, ...]:
    """Return the tables of the native backend that this machine can run, the best last.

    Examples
    --------
    >>> isinstance(available_isas(), tuple)
    True
    """
    return tuple(_load("native").isas()) if _missing("native") is None else ()


@functools.cache
def _choose(pinned: str | None) -> str:
    if pinned is not None:
        reason = _missing(pinned)
        if reason is not None:
            raise BackendError(f"backend: expected one that is available, got {pinned!r}: {reason}")
        return pinned
    return next(name for name in config.BACKENDS if _missing(name) is None)


def backend_name() -> str:
    """Return the name of the backend that a call made here would use.

    Raises
    ------
    BackendError
        If the pinned backend is not available; the message says why.

    Examples
    --------
    >>> with config.using(backend="reference"):
    ...     backend_name()
    'reference'
    """
    return _choose(config.pinned_backend())


def backend() -> ModuleType:
    """Return the backend module that a call made here would use.

    Examples
    --------
    >>> with config.using(backend="reference"):
    ...     backend().__name__
    'fastnll.kernels.reference'
    """
    module = _load(backend_name())
    if events.active is not None:
        recording: ModuleType = observed(module)
        return recording
    return module


def short_cut(name: str) -> Callable[..., Any] | None:
    """Return a function that only the native backend has, or None where that is not available.

    Examples
    --------
    >>> short_cut("no_such_function") is None
    True
    """
    return getattr(_load("native"), name, None) if _missing("native") is None else None


def isa_name() -> str | None:
    """Return the native table a call made here would use, or None for another backend.

    Raises
    ------
    BackendError
        If the pinned instruction set is not one this machine can run.

    Examples
    --------
    >>> with config.using(backend="reference"):
    ...     isa_name() is None
    True
    """
    if backend_name() != "native":
        return None
    return _checked_isa(config.pinned_isa())


@functools.cache
def _checked_isa(pinned: str | None) -> str:
    isas = available_isas()
    if pinned is None:
        return isas[-1]
    if pinned not in isas:
        raise BackendError(f"isa: expected one this machine can run ({', '.join(isas)}), got {pinned!r}")
    return pinned


def _default_isa() -> str | None:
    return _checked_isa(config._env_name("FASTNLL_ISA", config.ISAS)) if _missing("native") is None else None


# What a profile says about this installation.
events.facts.update(
    backend=backend_name,
    backends=available_backends,
    isa=_default_isa,
    isas=available_isas,
    threads=config.resolve_threads,
    cores=config.available_cores,
)
