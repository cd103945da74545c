"""What this installation is and what it chose: the text to paste into an issue."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from fastnll import config
from fastnll.errors import FastnllError
from fastnll.kernels import registry

__all__ = ["Info", "info"]

_PACKAGES = (
    "numpy", "scipy", "numba", "llvmlite", "threadpoolctl", "torch", "jax", "scikit-learn", "mpi4py", "ml_dtypes",
    "pyarrow", "tokenizers", "safetensors", "matplotlib",
)  # fmt: skip
# Variables that change what is chosen, how many threads there are or which BLAS kernels run.
_VARIABLES = ("FASTNLL_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "NUMBA_")


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
        lines += [f"  {library}" for library in f["thread_pools"]]
        lines.append(f"memory: {f['memory_bytes'] / 2**30:.1f} GB" if f["memory_bytes"] else "memory: not reported")
        lines.append("environment: " + (", ".join(f"{k}={v}" for k, v in f["environment"].items()) or "nothing set"))
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
    # Imported here: it brings the email and socket modules, a tenth of what `import fastnll` takes.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _pools() -> list[str]:
    """Return the thread pools in this process that are not ours: two that spin at each other cost half the speed."""
    from threadpoolctl import threadpool_info

    pools = [
        f"{pool['internal_api']} {pool.get('version') or ''}".strip()
        + f": {pool['num_threads']} threads"
        + (f", {pool['architecture']}" if pool.get("architecture") else "")
        for pool in threadpool_info()
    ]
    return sorted(set(pools))


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
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}"
        + ("" if sys.maxsize > 2**32 else " 32-bit"),
        "processor": _processor(),
        "cores": config.available_cores(),
        "backend": backend if trouble is None else f"{backend}: {trouble}",
        "isa": isa,
        "isas": list(registry.available_isas()),
        "threads": config.resolve_threads(),
        "backends": registry.available_backends(),
        "thread_pools": _pools(),
        "memory_bytes": _memory(),
        "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_VARIABLES)},
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }
    return Info(facts)
