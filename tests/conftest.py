"""What all tests share: hypothesis' settings, and the report of what runs here."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Kernels are compiled on first use (numba) and machines are shared: a deadline would test the machine.
# An engine is a fixture that lasts for all examples of a property, which is what is meant there.
settings.register_profile(
    "fastnll",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("fastnll")


def pytest_configure() -> None:
    """Take Ctrl-C back: what a shell starts in its background ignores it, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Say at the top which implementations the tests will run, and why others are left out."""
    from tests.cases import ENGINES, missing

    return [f"fastnll engine {engine.name}: {missing(engine) or 'runs'}" for engine in ENGINES]
