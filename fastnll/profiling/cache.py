"""The measured limits, kept in the user's cache folder: one small JSON file for each machine and thread count."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from fastnll.profiling.machine import Machine, describe
from fastnll.profiling.measuring import measure
from fastnll.profiling.roofline import Roofline

__all__ = ["cache_path", "load", "load_or_measure", "store"]

# Raised whenever a probe changes what it measures: older files are then measured again.
_VERSION = 1


def cache_path(threads: int, machine: Machine | None = None) -> Path:
    """Return where the limits for that many threads are kept.

    Parameters
    ----------
    threads : int
    machine : Machine, optional
        This one where not given.

    Returns
    -------
    Path
        Below ``$XDG_CACHE_HOME`` or ``~/.cache``; the folder may not exist yet.

    Examples
    --------
    >>> cache_path(2, Machine("a cpu", 4, 0, "Linux x86_64")).name
    'roofline-1457a81b-4-cores-2-threads.json'
    """
    machine = machine or describe()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastnll"
    digest = hashlib.sha256(f"{machine.cpu}|{machine.llc_bytes}|{machine.system}".encode()).hexdigest()[:8]
    return folder / f"roofline-{digest}-{machine.cores}-cores-{threads}-threads.json"


def load(threads: int) -> Roofline | None:
    """Return the limits kept for this machine, or None if there are none that can be read.

    Examples
    --------
    >>> limits = load(1)
    >>> limits is None or limits.threads == 1
    True
    """
    machine = describe()
    try:
        values = json.loads(cache_path(threads, machine).read_text())
        limits = Roofline.from_dict(values["roofline"]) if values["version"] == _VERSION else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, torn, or of another version: it is only a cache, the caller measures again
    return limits if limits is not None and limits.machine == machine else None


def store(limits: Roofline, threads: int) -> Path:
    """Keep the limits; written beside the file and renamed, so that a reader never sees half of it.

    Parameters
    ----------
    limits : Roofline
    threads : int
        The thread count that was asked for (what ran may be fewer).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    path = cache_path(threads, limits.machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"version": _VERSION, "roofline": limits.to_dict()}, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def load_or_measure(threads: int, *, refresh: bool = False) -> Roofline:
    """Return the limits of this machine, measured once and kept.

    Parameters
    ----------
    threads : int
        At least 1.
    refresh : bool
        Measure again even if there are kept ones.

    Raises
    ------
    ValueError
        For a thread count below 1.
    """
    limits = None if refresh else load(threads)
    if limits is None:
        limits = measure(threads)
        try:
            store(limits, threads)
        except OSError as error:
            limits.notes.append(f"not kept: {error}")
    return limits
