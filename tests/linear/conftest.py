"""The engine fixture of the op tests."""

from tests.ops.conftest import engine

__all__ = ["engine"]
