"""Services as processes, and models to publish into their stores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist

sys.path.insert(0, str(Path(__file__).parent))

from served import Served


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often each fault is injected: once in ``make test``, more often in ``make test-faults``."""
    return int(request.config.getoption("--fault-rounds"))


def publish(store: Path, seed: int, *, width: int = 32) -> int:
    """Publish another version of ``wine``; another seed is another flow, a greater width a slower one."""
    torch.manual_seed(seed)
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1)
    network = flowmodel.parameters.DenseAutoregressive((width, width))
    flow = dist.Flow(base, bij.Compose([bij.AffineAutoregressive(network), bij.Permute(), bij.Affine()]))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flowmodel.publish(flow, store, "wine").version


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
