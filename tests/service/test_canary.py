"""A canary answers its share of the requests that name no version, and a repeated request the same way again."""

from __future__ import annotations

from pathlib import Path

import grpc
import httpx
import plain_http
import pytest
from conftest import Running, Start

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from service.client import DensityClient
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1 import density_service_pb2_grpc as pb_grpc

SLOW = 3600
COUNT = 200


@pytest.fixture
def service(start: Start, store: Path) -> Running:
    """``wine`` with version 2 by default and version 1 as canary for a quarter."""
    Rollout(ModelStore(store), "wine").canary(1, 0.25)
    return start(store, store_poll_seconds=SLOW)


def score(client: httpx.Client, path: str = "", **headers: str) -> str:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = client.post(f"/v1/models/wine{path}:logProb", json={"rows": [[1, 2, 3]]}, headers=names)
    assert answer.headers["Density-Version"] == answer.json()["version"]
    return answer.json()["version"]


def test_the_share_is_kept_and_every_answer_says_who_gave_it(service: Running) -> None:
    with httpx.Client(base_url=service.http) as client:
        versions = [score(client) for _ in range(COUNT)]
    # Without an id, requests take turns that deviate from the share by a few at most.
    assert abs(versions.count("1") - COUNT / 4) <= 3
    assert versions.count("1") + versions.count("2") == COUNT
    for version in "12":
        labels = {"method": "LogProb", "code": "OK", "model": "wine", "version": version}
        assert service.metric("density_requests_total", **labels) == versions.count(version)


def test_a_version_that_is_named_answers_whatever_the_canary(service: Running) -> None:
    with httpx.Client(base_url=service.http) as client:
        assert {score(client, f"/versions/{version}") for version in "12" for _ in range(20)} == {"1", "2"}
        assert {score(client, "/versions/2") for _ in range(20)} == {"2"}


def test_a_repeated_request_id_meets_the_same_version_over_http_and_grpc(service: Running) -> None:
    ids = [f"request-{number}" for number in range(COUNT)]
    with httpx.Client(base_url=service.http) as client, grpc.insecure_channel(service.grpc) as channel:
        stub = pb_grpc.DensityServiceStub(channel)
        rows = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[1, 3], data=bytes(12))
        first = [score(client, x_request_id=name) for name in ids]
        request = pb.LogProbRequest(model="wine", rows=rows)
        again = [stub.LogProb(request, metadata=[("x-request-id", name)]).version for name in reversed(ids)]
    assert first == again[::-1]
    assert 0.15 < first.count("1") / COUNT < 0.35, "these ids, hashed: the same on every run"


def test_a_repeated_seed_meets_the_same_version_and_rows_over_http_and_grpc(service: Running) -> None:
    seeds = range(60)
    with DensityClient(service.grpc) as client:
        first = [client.draw("wine", 1, seed=seed) for seed in seeds]
    for seed, drawn in zip(seeds, first, strict=True):
        answer = plain_http.post(f"{service.http}/v1/models/wine:sample", json={"count": 1, "seed": seed}).json()
        assert answer["version"] == drawn.version
    assert {drawn.version for drawn in first} == {"1", "2"}


def test_the_weight_is_changed_and_the_canary_promoted_without_a_restart(service: Running, store: Path) -> None:
    rollout = Rollout(ModelStore(store), "wine")
    with httpx.Client(base_url=service.http) as client:
        ids = [f"request-{number}" for number in range(50)]
        quarter = {name for name in ids if score(client, x_request_id=name) == "1"}
        rollout.canary(1, 0.5)
        service.run(service.service.watcher.look())
        half = {name for name in ids if score(client, x_request_id=name) == "1"}
        assert quarter < half, "a larger share takes new requests and keeps those it had"
        rollout.canary(1, 1.0)
        service.run(service.service.watcher.look())
        assert {score(client) for _ in range(20)} == {"1"}
        rollout.default(1)
        service.run(service.service.watcher.look())
        assert service.service.registry.canary("wine") is None
        rollout.rollback()
        service.run(service.service.watcher.look())
        assert {score(client) for _ in range(20)} == {"2"}


def test_a_canary_that_cannot_be_loaded_gets_no_requests(
    start: Start, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Rollout(ModelStore(store), "wine").canary(1, 0.9)
    (store / "wine" / "1" / "scorer.pt").write_bytes(b"?")
    service = start(store, store_poll_seconds=SLOW)
    with httpx.Client(base_url=service.http) as client:
        assert {score(client) for _ in range(20)} == {"2"}
    assert "wine: version 1, the canary, cannot be loaded" in caplog.text
