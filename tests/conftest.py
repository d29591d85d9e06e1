"""What every test shares: a fixed seed, one thread each, and the tests' own folder on the import path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Read when torch is imported. Tests compute with small tensors, for which a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_FOLDER = Path(__file__).parent
sys.path.insert(0, str(_FOLDER / "flowmodel"))
sys.path.insert(0, str(_FOLDER / "oracles"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long to fuzz, and how often to break things: a few seconds unless asked for more, as the Makefile does."""
    parser.addoption("--fuzz-cases", type=int, default=3000, help="cases of all kinds of fuzzing together")
    parser.addoption("--fault-rounds", type=int, default=1, help="how often tests/faults injects each fault")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes test, as ``make test`` has it: whatever starts servers in one of them, and that first.

    Servers of one test are thus never beside those of another; everything else goes to the others file by file.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        with_servers = not item.path.is_relative_to(_FOLDER) or _starts_servers(item.path.relative_to(_FOLDER))
        item.add_marker(pytest.mark.xdist_group("servers" if with_servers else item.path.name))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("servers",))  # type: ignore[union-attr]


def _starts_servers(path: Path) -> bool:
    return path.parts[0] not in ("flowmodel", "conformance", "oracles")


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
