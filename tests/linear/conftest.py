"""The engine fixture of the op tests, and AMX and AVX-512 for bfloat16, which have matrix products of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases import AMX, BF16, Engine, engine_params


@pytest.fixture(params=engine_params(BF16, AMX))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn, in use for the whole test."""
    chosen: Engine = request.param
    with chosen.using():
        yield chosen
