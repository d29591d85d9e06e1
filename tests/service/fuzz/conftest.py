"""How many cases each kind of fuzzing gets, a service to try them on, and what it must not have done at the end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Loop, Running, running

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "web"))


@pytest.fixture(scope="session")
def share(request: pytest.FixtureRequest) -> Callable[[float], int]:
    """So much of all cases, and some at least."""
    whole = request.config.getoption("--fuzz-cases")
    return lambda part: max(20, round(part * whole))


@pytest.fixture(scope="module")
def target(loop: Loop, published: Path) -> Iterator[Running]:
    """A service whose limits keep one case short."""
    limits = {"max_samples_per_request": 1000, "max_rows_per_request": 1000, "max_request_bytes": 64 * 1024}
    with running(loop, published, **limits) as service:
        yield service


@pytest.fixture(autouse=True)
def _nothing_failed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No case made the service log an error, as it does for each one that it did not foresee."""
    caplog.set_level(logging.ERROR)
    yield
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors
