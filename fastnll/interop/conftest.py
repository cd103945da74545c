"""For pytest, which collects the doctests of every module: those of a bridge need what it leads to."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDS = {"jax": "jax", "numba": "numba", "sklearn": "sklearn", "torch": "torch"}

collect_ignore = [
    path for name, package in _NEEDS.items() if find_spec(package) is None for path in (name, f"{name}.py")
]
