"""Versions are switched under load: each request is answered once, by a version of that moment, with its very bits."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from conftest import Loop, Running, Start, publish, running
from faults import FaultyEngine
from gates import engine_held, wait_for_call, wait_until

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer
from service.engines.engine import ModelKey
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.tensors import decode, encode

CLIENTS = 8


class Load:
    """Clients that ask without a pause, and what they were answered."""

    def __init__(self, address: str, rows: np.ndarray) -> None:
        self._address = address
        self._request = pb.LogProbRequest(model="wine", rows=encode(rows))
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self.answers: list[list[tuple[str, np.ndarray]]] = [[] for _ in range(CLIENTS)]
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._clients = [self._pool.submit(self._ask, number) for number in range(CLIENTS)]

    def _ask(self, number: int) -> int:
        """How many requests this client made."""
        asked = 0
        # A bare channel repeats nothing, so that an error would be seen.
        with grpc.insecure_channel(self._address) as channel:
            stub = DensityServiceStub(channel)
            while not self._stopping.is_set():
                asked += 1
                answer = stub.LogProb(self._request)
                with self._news:
                    self.answers[number].append((answer.version, decode(answer.log_prob, "log_prob")))
                    self._news.notify_all()
        return asked

    def wait_for_everybody_to_meet(self, version: str) -> None:
        """Return when each client's latest answer is of this version."""
        with self._news:
            met = self._news.wait_for(
                lambda: (
                    any(client.done() for client in self._clients)
                    or all(answers and answers[-1][0] == version for answers in self.answers)
                ),
                timeout=60,
            )
        assert met
        assert not any(client.done() for client in self._clients), [c.exception() for c in self._clients if c.done()]

    def stop(self) -> list[int]:
        self._stopping.set()
        self._pool.shutdown()
        return [client.result() for client in self._clients]


def test_publishing_pinning_rolling_back_and_retiring_lose_nothing(start: Start, store: Path, rows: np.ndarray) -> None:
    service = start(store, faults=True, store_poll_seconds=3600, threads=2)
    swap_under_load(service, store, rows)


def test_the_same_behind_torchserve(loop: Loop, published: Path, tmp_path: Path, rows: np.ndarray) -> None:
    store = Path(shutil.copytree(published, tmp_path / "store", ignore=lambda *_: ["pair"]))
    with running(loop, store, engine="torchserve", store_poll_seconds=3600) as service:
        swap_under_load(service, store, rows, rounds=1)


@contextlib.contextmanager
def in_use(service: Running, version: int) -> Iterator[None]:
    """The request of every client is with this version until this ends, if its engine can be held."""
    engine = service.service.engine
    if not isinstance(engine, FaultyEngine):
        yield
        return
    engine.held = {ModelKey("wine", version)}
    with engine_held(service):
        wait_for_call(service)
        wait_until(service, lambda: service.service.gateway._active == CLIENTS)
        yield
    engine.held = set()


def swap_under_load(service: Running, store: Path, rows: np.ndarray, rounds: int = 2) -> None:
    holds = ModelStore(store)
    rollout = Rollout(holds, "wine")
    load = Load(service.grpc, rows)

    def look(expected: str) -> None:
        service.run(service.service.watcher.look())
        load.wait_for_everybody_to_meet(expected)

    look("2")
    for number in range(rounds):
        version = publish(store, "wine", seed=20 + number)
        look(str(version))
        rollout.rollback()
        look(str(version - 1))
        rollout.default(version)
        look(str(version))
        for _ in range(2 * rounds):
            with in_use(service, version):
                rollout.retire(version, force=True)
                service.run(service.service.watcher.look())
            look(str(version - 1))
            rollout.restore(version)
            rollout.default(version)
            look(str(version))
        rollout.retire(version - 1)
        look(str(version))
        rollout.default(None)
        look(str(version))
    broken = publish(store, "wine", seed=30)
    (store / "wine" / str(broken) / "scorer.pt").write_bytes(b"?")
    look(str(broken - 1))
    asked = load.stop()
    assert asked == [len(answers) for answers in load.answers], "each request was answered, once"
    expected = {
        str(version): Scorer.load(holds.open("wine", version).scorer_path).log_prob(rows, None)
        for version in holds.versions("wine")
        if version != broken
    }
    for answers in load.answers:
        for version, log_prob in answers:
            np.testing.assert_array_equal(log_prob, expected[version])
