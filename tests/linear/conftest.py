"""The engine fixture of the op tests, and AMX, which has matrix products of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases import AMX, Engine, engine_params


@pytest.fixture(params=engine_params(AMX))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn, in use for the whole test."""
    chosen: Engine = request.param
    with chosen.using():
        yield chosen
