"""What every test shares: a fixed seed, one thread each, and the tests' own folder on the import path."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Read when torch is imported. Tests compute with small tensors, for which a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_FOLDER = Path(__file__).parent
sys.path.insert(0, str(_FOLDER / "flowmodel"))
sys.path.insert(0, str(_FOLDER / "oracles"))

_ROOT = _FOLDER.parent

_OF_TRITON = (
    "flowmodel/kernel/cuda/fused_flow.py",
    "flowmodel/kernel/cuda/scalars.py",
    "flowmodel/kernel/cuda/walk.py",
    "tests/flowmodel/kernel/cuda/compiled.py",
)
"""What is searched for examples and cannot be imported where there is no Triton, which is made for Linux alone."""

_OF_SERVERS = (
    "tests/benchmarks/test_service.py",
    "tests/faults/",
    "tests/service/engines/",
    "tests/service/security/test_logs.py",
    "tests/service/test_command.py",
    "tests/service/test_swaps.py",
    "tests/service/web/test_formats.py",
    "tests/test_first_five_minutes.py",
)
"""What starts TorchServe, or services as programs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long to fuzz, and how often to break things: a few seconds unless asked for more, as the Makefile does."""
    parser.addoption("--fuzz-cases", type=int, default=3000, help="cases of all kinds of fuzzing together")
    parser.addoption("--fault-rounds", type=int, default=1, help="how often tests/faults injects each fault")


def pytest_configure(config: pytest.Config) -> None:
    """Leave out what cannot be imported here, and nothing else: a dependency that a test lacks is an error."""
    if importlib.util.find_spec("triton") is None:
        config.option.ignore = [*(config.option.ignore or ()), *(str(_ROOT / path) for path in _OF_TRITON)]


class _Rooms(LoadScopeScheduling):  # type: ignore[misc]
    """What starts servers goes to one process, and early; everything else file by file to whoever is free.

    Programs of one test are thus never beside those of another. A service within the test's own process takes a port
    that the system gives it, and bears company.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "servers" if file.startswith(_OF_SERVERS) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """How ``make test`` shares the tests out among processes, in the order of their names."""
    config.option.loadscopereorder = False
    return _Rooms(config, log)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(params=["native", "torch"])
def computed_by(request, monkeypatch):
    """What computes affine autoregressive layers: native code where there is a compiler, or torch alone."""
    monkeypatch.setenv("FLOWMODEL_NATIVE", "1" if request.param == "native" else "0")
    return request.param
