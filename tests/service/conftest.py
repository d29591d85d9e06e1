"""A store with small real models, and services that answer from them in a loop of their own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import uvloop

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from service.service import Service
from service.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))

from faults import FaultyEngine

Value = TypeVar("Value")

FEATURES = ("alpha", "beta", "gamma")


class Loop:
    """An event loop on a thread, for services whose clients block."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Value], timeout: float = 60) -> Value:
        """The coroutine's result, computed on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def call(self, function: Callable[[], object]) -> None:
        """Call on the loop, without waiting."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Running:
    """A service that answers, and how to reach it."""

    def __init__(self, loop: Loop, service: Service) -> None:
        self.loop = loop
        self.service = service
        self.grpc = f"127.0.0.1:{service.ports.grpc}"
        self.http = f"http://127.0.0.1:{service.ports.http}"

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        return self.loop.run(coroutine)

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


def publish(store: Path, name: str, *, seed: int = 0, context: bool = False) -> int:
    """Publish a small flow of three features; another seed is another flow."""
    torch.manual_seed(seed)
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1)
    flow = dist.Flow(
        base, bij.Compose([bij.AffineAutoregressive(), bij.Permute()]), **({"context_shape": (2,)} if context else {})
    )
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    names = {"context_names": ["left", "right"]} if context else {}
    return flowmodel.publish(flow, store, name, feature_names=FEATURES, **names).version


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with ``wine`` in two versions and the conditional ``pair``; not to be changed."""
    store = tmp_path_factory.mktemp("published")
    publish(store, "wine", seed=1)
    publish(store, "wine", seed=2)
    publish(store, "pair", seed=3, context=True)
    return store


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Path:
    """The same store, to be changed."""
    return Path(shutil.copytree(published, tmp_path / "store"))


Start = Callable[..., Running]


@pytest.fixture
def start(loop: Loop, tmp_path: Path) -> Iterator[Start]:
    """Starts in-process services on free ports; ``faults=True`` puts a ``FaultyEngine`` in front of the engine."""
    with contextlib.ExitStack() as stack:

        def begin(store: Path = tmp_path / "empty", *, faults: bool = False, **settings: Any) -> Running:
            return stack.enter_context(running(loop, store, faults=faults, **settings))

        yield begin


@contextlib.contextmanager
def running(loop: Loop, store: Path, *, faults: bool = False, **settings: Any) -> Iterator[Running]:
    settings = {"engine": "inprocess", "threads": 1, "grpc_port": 0, "http_port": 0, "drain_seconds": 5} | settings
    chosen = Settings(store=store, **settings)

    async def enter() -> Service:
        engine = FaultyEngine(chosen.threads) if faults else None
        return await Service(chosen, engine).__aenter__()

    service = loop.run(enter())
    try:
        yield Running(loop, service)
    finally:
        loop.run(service.stop())


@pytest.fixture(scope="module")
def wine(loop: Loop, published: Path) -> Iterator[Running]:
    """A service over the published store, shared by a module's tests."""
    with running(loop, published, max_request_bytes=1024 * 1024) as service:
        yield service


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
