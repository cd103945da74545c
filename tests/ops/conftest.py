"""The engine fixture: every backend and instruction set this machine can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases import Engine, engine_params


@pytest.fixture(params=engine_params())
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn, in use for the whole test."""
    chosen: Engine = request.param
    with chosen.using():
        yield chosen
