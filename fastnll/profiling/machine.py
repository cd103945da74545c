"""What machine this is: the facts that a measured limit belongs to."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Machine", "available_memory", "describe"]


@dataclass(frozen=True)
class Machine:
    """The machine as far as its limits depend on it.

    Attributes
    ----------
    cpu : str
        Model name of the processor.
    cores : int
        Cores this process may use (its affinity).
    llc_bytes : int
        Size of the last-level cache in bytes as the system reports it, 0 where it reports none. On a
        virtual machine the guests share it, and the report may be far above what one of them can get.
    system : str
        Operating system and architecture.
    """

    cpu: str
    cores: int
    llc_bytes: int
    system: str

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON values.

        Examples
        --------
        >>> Machine("some cpu", 2, 0, "Linux x86_64").to_dict()["cores"]
        2
        """
        return asdict(self)


def _cpu_name() -> str:
    """Return the model name; the family and stepping too where a hypervisor hides the real one."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    facts: dict[str, str] = {}
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    if "model name" in facts:
        numbers = "/".join(facts.get(key, "?") for key in ("cpu family", "model", "stepping"))
        return f"{facts['model name']} ({numbers})"
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine() or "unknown processor"


def _sysctl(name: str) -> str:
    import subprocess  # here: a hundredth of a second of every start of fastnll

    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _parse_size(text: str) -> int:
    """Return the bytes of a size as the kernel writes it.

    Examples
    --------
    >>> _parse_size("491520K")
    503316480
    """
    text = text.strip()
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * factor if digits.isdigit() else 0


def _llc_bytes() -> int:
    sizes = []
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            sizes.append(_parse_size(entry.read_text()))
        except OSError:
            continue
    if not sizes and platform.system() == "Darwin":
        names = ("hw.perflevel0.l2cachesize", "hw.l3cachesize", "hw.l2cachesize")
        sizes = [_parse_size(_sysctl(name)) for name in names]
    return max(sizes, default=0)


def available_memory() -> int:
    """Return the bytes of memory that can be used without swapping, 0 where the system does not say.

    Examples
    --------
    >>> available_memory() >= 0
    True
    """
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 0


def describe() -> Machine:
    """Return the facts of this machine.

    Examples
    --------
    >>> describe().cores >= 1
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(_cpu_name(), cores, _llc_bytes(), f"{platform.system()} {platform.machine()}")
