"""The engine fixture: every backend and instruction set this machine can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases import ENGINES, Engine, engine_params, missing


def pytest_report_header() -> list[str]:
    """Say at the top which implementations the tests will run, and why others are left out."""
    return [f"fastnll engine {engine.name}: {missing(engine) or 'runs'}" for engine in ENGINES]


@pytest.fixture(params=engine_params())
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn, in use for the whole test."""
    chosen: Engine = request.param
    with chosen.using():
        yield chosen
