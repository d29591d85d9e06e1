"""Services as processes, and models to publish into their stores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from publishing import publish
from served import Served

AGAIN = ("test_clients", "test_shutdown", "test_versions")
"""Files whose tests, where they do not count their rounds themselves, are repeated as a whole."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rounds = int(metafunc.config.getoption("--fault-rounds"))
    if rounds > 1 and metafunc.module.__name__.rpartition(".")[2] in AGAIN and "rounds" not in metafunc.fixturenames:
        metafunc.fixturenames.append("again")
        metafunc.parametrize("again", range(1, rounds + 1))


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often each fault is injected: once in ``make test``, more often in ``make test-faults``."""
    return int(request.config.getoption("--fault-rounds"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one version of ``wine``."""
    publish(tmp_path / "store", 1)
    return tmp_path / "store"


Serve = Callable[..., Served]


@pytest.fixture
def serve(store: Path) -> Iterator[Serve]:
    """Starts services over the store."""
    started: list[Served] = []

    def begin(engine: str = "inprocess", **settings: object) -> Served:
        started.append(Served(store, engine, **settings))
        return started[-1]

    yield begin
    for served in started:
        served.close()
