"""Tests that need gigabytes run when they are asked for."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `large`, unless ``-m large`` (or any other expression that names it) asks for it."""
    if "large" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("large"):
            item.add_marker(pytest.mark.skip(reason="needs 6 GB of disk and minutes: python -m pytest -m large"))
