"""TorchServe's processes are killed and stopped under load: our client sees nothing of it, others a proper error."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from load import Load, check_right
from publishing import publish
from served import Served, wait_until

LOST = {"OK", "UNAVAILABLE"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("engine_lost") / "store"
    publish(store, 1)
    return store


@pytest.fixture(scope="module")
def served(store: Path) -> Iterator[Served]:
    """One service for all of them: each leaves it answering, and those that come after find nothing else."""
    served = Served(store, "torchserve")
    yield served
    served.close()


def serving(served: Served) -> bool:
    with grpc.insecure_channel(served.grpc) as channel:
        request = health_pb2.HealthCheckRequest(service="density.v1.DensityService")
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
    return status == health_pb2.HealthCheckResponse.SERVING


def replaced(served: Served, name: str, victims: set[psutil.Process]) -> bool:
    there = served.children(name)
    return bool(there) and not there & victims


@pytest.mark.parametrize("victim", ["worker", "jvm"])
def test_a_process_that_is_killed_is_hidden_by_retries(served, store, rounds, victim):
    hidden, bare = Load(served.grpc, retries=True), Load(served.grpc, clients=2)
    for _ in range(rounds):
        hidden.wait_for(20)
        victims = served.kill(victim)
        assert victims
        wait_until(partial(replaced, served, victim, victims), "there are others in their place")
        wait_until(lambda: serving(served), "health is SERVING again")
        bare.wait_for(20, "OK")
        hidden.wait_for(20)
    answers, seen = hidden.stop(), bare.stop()
    assert {answer.code for answer in answers} == {"OK"}
    assert {answer.code for answer in seen} <= LOST
    assert all(answer.hint for answer in seen if answer.code == "UNAVAILABLE"), "it says when to come back"
    check_right(hidden, store, answers)
    check_right(bare, store, seen)


def test_an_engine_that_hangs_costs_the_deadline_and_no_more(served, store, rounds):
    load = Load(served.grpc, timeout=0.5)
    for _ in range(rounds):
        load.wait_for(20, "OK")
        workers = served.children("worker")
        assert workers
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        try:
            load.wait_for(2, "DEADLINE_EXCEEDED")
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGCONT)
        load.wait_for(20, "OK")
    answers = load.stop()
    assert {answer.code for answer in answers} <= {"OK", "DEADLINE_EXCEEDED"}
    check_right(load, store, answers)
