"""Options and data shared by the benchmark suite."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from fastnll.bench.cases import CASES, Case
from fastnll.bench.contenders import CONTENDERS
from fastnll.bench.data import make_data
from fastnll.bench.measure import make_oracle


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastnll")
    group.addoption("--threads", type=int, default=None, help="threads of every contender")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its cases, and its contenders if it asks for them; small shapes where nothing is timed."""
    options = metafunc.config.option
    small = options.benchmark_disable and not options.benchmark_enable
    cases = [(case.name, case.quick() if small else case) for case in CASES]
    if "contender" not in metafunc.fixturenames:
        metafunc.parametrize("case", [pytest.param(case, id=name) for name, case in cases])
        return
    # The case varies slowest: its arrays are made once, and the contenders of a group run side by side.
    params = [
        pytest.param(case, contender.name, id=f"{name}-{contender.name}")
        for name, case in cases
        for contender in CONTENDERS.values()
        if not (contender.compiled and small)
        and not (contender.quick_only and not small)
        and (not contender.groups or case.group in contender.groups)
    ]
    metafunc.parametrize(("case", "contender"), params)


@pytest.fixture(scope="session")
def threads(pytestconfig: pytest.Config) -> int:
    from fastnll.config import resolve_threads

    return resolve_threads(pytestconfig.getoption("--threads"))


@functools.lru_cache(maxsize=1)
def _oracle(case: Case) -> Any:
    """The arrays and the truth of one case at a time: some take half a gigabyte."""
    return make_oracle(make_data(case))


@pytest.fixture
def oracle(case: Case) -> Any:
    if case.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return _oracle(case)
