"""Every module of doctests is collected: the one of shared cases needs PyTorch."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["cases.py"]
