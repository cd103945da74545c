"""What this installation is and what it chose: the text to paste into an issue."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Any

from fastnll import config
from fastnll.errors import FastnllError
from fastnll.kernels import registry

__all__ = ["Info", "info"]

_PACKAGES = ("numpy", "scipy", "numba", "cython", "torch", "jax", "scikit-learn", "mpi4py", "ml_dtypes", "matplotlib")


class Info:
    """A report that prints itself; `to_dict` has the same as plain data.

    Examples
    --------
    >>> sorted(info().to_dict())[:3]
    ['backend', 'backends', 'cores']
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict of plain data.

        Examples
        --------
        >>> info().to_dict()["python"] == __import__("platform").python_version()
        True
        """
        return dict(self._facts)

    def __repr__(self) -> str:
        f = self._facts
        lines = [
            f"fastnll {f['version']} on Python {f['python']}, {f['platform']}",
            f"processor: {f['processor']}; {f['cores']} cores for this process",
            f"backend: {f['backend']}"
            + (f", instruction set {f['isa']} of {', '.join(f['isas'])}" if f["isa"] else ""),
            f"threads: {f['threads']}",
        ]
        for name, reason in f["backends"].items():
            lines.append(f"  {name}: " + ("available" if reason is None else f"not available: {reason}"))
        lines.append("packages: " + ", ".join(f"{k} {v}" for k, v in f["packages"].items()))
        return "\n".join(lines)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def info() -> Info:
    """Return what fastnll is, runs on and has chosen here.

    Returns
    -------
    Info
        Prints as a few lines; ``info().to_dict()`` gives plain data.

    Examples
    --------
    >>> info().to_dict()["threads"] >= 1
    True
    """
    try:
        backend, isa, trouble = registry.backend_name(), registry.isa_name(), None
    except FastnllError as error:
        backend, isa, trouble = "none", None, str(error)
    facts: dict[str, Any] = {
        "version": _version("fastnll") or "not installed (run from the source tree)",
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}" + ("" if sys.maxsize > 2**32 else " 32-bit"),
        "processor": _processor(),
        "cores": config.available_cores(),
        "backend": backend if trouble is None else f"{backend}: {trouble}",
        "isa": isa,
        "isas": list(registry.available_isas()),
        "threads": config.resolve_threads(),
        "backends": registry.available_backends(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }
    return Info(facts)
