"""The whole service: nothing is lost when versions change under load, and stopping lets requests finish."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import httpx
import numpy as np
import plain_http
import pytest
from conftest import Loop, Running, Start, publish
from gates import engine_held, in_background, wait_for_call, wait_until

from service.client import DensityClient
from service.errors import PortTakenError
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.service import Service
from service.settings import Settings
from service.tensors import encode


def test_versions_change_under_load_and_no_request_is_lost(start: Start, store: Path, rows: np.ndarray) -> None:
    service = start(store, store_poll_seconds=0.02, loaded_versions=1)
    stop, versions, failures = threading.Event(), [], []

    def over_grpc() -> None:
        with DensityClient(service.grpc) as client:
            while not stop.is_set():
                try:
                    versions.append(int(client.score("wine", rows).version))
                except Exception as error:
                    failures.append(error)

    def over_http() -> None:
        with httpx.Client(base_url=service.http) as client:
            while not stop.is_set():
                answer = client.post("/v1/models/wine:logProb", json={"rows": rows.tolist()})
                (versions if answer.status_code == 200 else failures).append(
                    int(answer.json().get("version", 0)) or answer.text
                )

    threads = [threading.Thread(target=work) for work in (over_grpc, over_http)]
    for thread in threads:
        thread.start()
    for version in (3, 4, 5):
        publish(store, "wine", seed=version)
        wait_until(service, lambda version=version: version in versions)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {3, 4, 5} <= set(versions)
    assert service.metric("density_requests_total", method="LogProb", code="OK", model="wine", version="5") > 0


def ask(channel: grpc.Channel, rows: np.ndarray) -> grpc.Future:
    """One call, without the retries that the client makes."""
    request = pb.LogProbRequest(model="wine", rows=encode(rows))
    return DensityServiceStub(channel).LogProb.future(request, timeout=20)


def test_stopping_lets_requests_under_way_finish_and_refuses_new_ones(
    start: Start, published: Path, rows: np.ndarray
) -> None:
    service = start(published, faults=True, drain_seconds=10)
    with grpc.insecure_channel(service.grpc) as channel:
        with engine_held(service):
            over_grpc = ask(channel, rows)
            wait_for_call(service)
            over_http = in_background(
                lambda: plain_http.post(f"{service.http}/v1/models/wine:logProb", json={"rows": rows.tolist()})
            )
            wait_until(service, lambda: service.metric("density_inflight_requests", method="LogProb") == 2)
            ending = in_background(lambda: service.run(service.service.stop()))
            wait_until(service, lambda: service.service.gateway.draining)
            refused = ask(channel, rows)
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.details() == "the service is stopping; ask another one"
        assert len(over_grpc.result(10).log_prob.data) == 4 * len(rows)
        assert over_http.result(10).status_code == 200
        ending.result(10)
    assert not service.service.engine.healthy
    assert service.metric("density_rejected_total", reason="draining") == 1


def test_stopping_waits_no_longer_than_it_should(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True, drain_seconds=0.1)
    with grpc.insecure_channel(service.grpc) as channel, engine_held(service):
        stuck = ask(channel, rows)
        wait_for_call(service)
        service.run(service.service.stop())
        assert stuck.code() is grpc.StatusCode.UNAVAILABLE


def test_stopping_can_be_hurried(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True, drain_seconds=600)
    with grpc.insecure_channel(service.grpc) as channel, engine_held(service):
        stuck = ask(channel, rows)
        wait_for_call(service)
        ending = in_background(lambda: service.run(service.service.stop()))
        wait_until(service, lambda: service.service.gateway.draining)
        service.loop.call(service.service.hurry)
        ending.result(10)
        assert stuck.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("which", ["grpc", "http"])
def test_a_port_that_is_taken_is_named(loop: Loop, wine: Running, tmp_path: Path, which: str) -> None:
    port = getattr(wine.service.ports, which)
    settings = Settings(engine="inprocess", store=tmp_path, **{"grpc_port": 0, "http_port": 0, f"{which}_port": port})

    async def begin() -> None:
        async with Service(settings):
            pass

    with pytest.raises(PortTakenError, match=f":{port}: .*in use.*--{which}-port"):
        loop.run(begin())


def test_seeded_samples_are_those_of_any_other_replica(start: Start, published: Path) -> None:
    replicas = [start(published), start(published, max_rows_per_batch=7)]
    draws = []
    for replica in replicas:
        with DensityClient(replica.grpc) as client:
            draws.append(client.sample("wine", 100, seed=11))
    np.testing.assert_array_equal(*draws)
