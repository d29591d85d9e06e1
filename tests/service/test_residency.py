"""A limit on loaded bytes: who is unloaded, and that whoever asks for it is answered all the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import plain_http
import pytest
from conftest import Running, Start, publish
from gates import engine_held, in_background, wait_for_call, wait_until

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer
from service.client import DensityClient, DensityError
from service.engines.engine import ModelKey
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.tensors import encode

SLOW = 3600
MODELS = ("ale", "beer", "cider")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of two versions each, all of one size; not to be changed."""
    store = tmp_path_factory.mktemp("shelf")
    for seed, name in enumerate(MODELS):
        publish(store, name, seed=2 * seed)
        publish(store, name, seed=2 * seed + 1)
    return store


def size(store: Path) -> int:
    """Bytes of the longest scorer; they differ by a few."""
    return max(path.stat().st_size for path in store.rglob("scorer.pt"))


def resident(service: Running) -> list[str]:
    return sorted(map(str, service.service.engine._scorers))


def expected(store: Path, name: str, version: int, rows: np.ndarray) -> np.ndarray:
    return Scorer.load(ModelStore(store).open(name, version).scorer_path).log_prob(rows, None)


def test_without_a_limit_nothing_is_unloaded(start: Start, shelf: Path) -> None:
    service = start(shelf, store_poll_seconds=SLOW)
    assert resident(service) == [f"{name}/{version}" for name in MODELS for version in (1, 2)]
    total = sum(path.stat().st_size for path in shelf.rglob("scorer.pt"))
    assert service.metric("density_loaded_bytes") == total


def test_versions_that_must_be_named_go_first_and_then_what_was_asked_for_longest_ago(
    start: Start, shelf: Path, rows: np.ndarray
) -> None:
    service = start(shelf, store_poll_seconds=SLOW, max_loaded_bytes=int(3.5 * size(shelf)))
    assert resident(service) == ["ale/2", "beer/2", "cider/2"]
    assert service.metric("density_loaded_bytes") <= 3.5 * size(shelf)
    with DensityClient(service.grpc) as client:
        for name in ("beer", "cider", "ale"):
            client.score(name, rows)
        client.score("cider", rows, version=1)
        assert resident(service) == ["ale/2", "cider/1", "cider/2"], "beer was asked for before the others"
        client.score("beer", rows)
        assert resident(service) == ["ale/2", "beer/2", "cider/2"], "a version that was named goes before a default"
    assert service.metric("density_model_evictions_total", model="beer") == 2


def test_what_was_unloaded_answers_as_before_over_both_transports(start: Start, shelf: Path, rows: np.ndarray) -> None:
    service = start(shelf, store_poll_seconds=SLOW, max_loaded_bytes=int(1.5 * size(shelf)))
    assert len(resident(service)) == 1
    with DensityClient(service.grpc) as client:
        for _ in range(2):
            for name in MODELS:
                for version in (1, 2):
                    answer = client.score(name, rows, version=version)
                    np.testing.assert_array_equal(answer.log_prob, expected(shelf, name, version, rows))
                    assert resident(service) == [f"{name}/{version}"]
        drawn = client.draw("ale", 3, seed=7)
        client.draw("beer", 3)
        np.testing.assert_array_equal(client.draw("ale", 3, seed=7).samples, drawn.samples)
    assert plain_http.post(f"{service.http}/v1/models/cider:logProb", json={"rows": [[1, 2, 3]]}).status_code == 200
    listed = plain_http.get(f"{service.http}/v1/models").json()["models"]
    assert [len(model["versions"]) for model in listed] == [2, 2, 2], "what is unloaded is still served"


def test_the_last_version_stays_however_large(start: Start, shelf: Path, rows: np.ndarray) -> None:
    service = start(shelf, store_poll_seconds=SLOW, max_loaded_bytes=1)
    with DensityClient(service.grpc) as client:
        for name in MODELS:
            assert client.score(name, rows).version == "2"
            assert resident(service) == [f"{name}/2"]


def test_many_who_ask_at_once_have_it_loaded_once(start: Start, shelf: Path, rows: np.ndarray) -> None:
    service = start(shelf, faults=True, store_poll_seconds=SLOW, max_loaded_bytes=int(1.5 * size(shelf)))
    engine = service.service.engine
    with DensityClient(service.grpc) as client:
        client.score("ale", rows)
        engine.loads.clear()
        engine.held = {ModelKey("beer", 2)}
        with engine_held(service):
            asked = [in_background(lambda: client.score("beer", rows)) for _ in range(8)]
            wait_for_call(service)
            wait_until(service, lambda: service.service.gateway._active == 8)
        answers = [future.result(20) for future in asked]
    assert engine.loads == [ModelKey("beer", 2)]
    for answer in answers:
        np.testing.assert_array_equal(answer.log_prob, expected(shelf, "beer", 2, rows))


def test_a_deadline_that_passes_while_it_is_loaded_is_told_and_the_load_goes_on(
    start: Start, shelf: Path, rows: np.ndarray
) -> None:
    service = start(shelf, faults=True, store_poll_seconds=SLOW, max_loaded_bytes=int(1.5 * size(shelf)))
    engine = service.service.engine
    with DensityClient(service.grpc) as client:
        client.score("ale", rows)
        engine.held = {ModelKey("beer", 2)}
        with engine_held(service):
            answer = plain_http.post(
                f"{service.http}/v1/models/beer:logProb",
                json={"rows": [[1, 2, 3]]},
                headers={"Request-Timeout": "0.2"},
            )
            assert answer.status_code == 504
            assert "the deadline passed while beer/2 was being loaded" in answer.json()["error"]["message"]
        wait_until(service, lambda: resident(service) == ["beer/2"])
        loads = list(engine.loads)
        client.score("beer", rows)
        assert engine.loads == loads


def test_a_version_in_use_is_not_unloaded(start: Start, shelf: Path, rows: np.ndarray) -> None:
    service = start(shelf, faults=True, store_poll_seconds=SLOW, max_loaded_bytes=int(1.5 * size(shelf)))
    engine = service.service.engine
    with DensityClient(service.grpc) as client:
        client.score("ale", rows)
        engine.held = {ModelKey("ale", 2)}
        with engine_held(service):
            slow = in_background(lambda: client.score("ale", rows))
            wait_for_call(service)
            assert client.score("beer", rows).version == "2"
            assert resident(service) == ["ale/2", "beer/2"]
        np.testing.assert_array_equal(slow.result(20).log_prob, expected(shelf, "ale", 2, rows))
        client.score("cider", rows)
        assert resident(service) == ["cider/2"]


def test_what_was_damaged_meanwhile_is_unavailable_until_it_is_repaired(
    start: Start, store: Path, rows: np.ndarray
) -> None:
    service = start(store, store_poll_seconds=SLOW, max_loaded_bytes=int(1.5 * size(store)))
    with DensityClient(service.grpc) as client:
        client.score("wine", rows, version=2)
        damaged = store / "wine" / "1" / "scorer.pt"
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-1])
        for _ in range(2):
            with grpc.insecure_channel(service.grpc) as channel:
                error = refused(channel, rows)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "wine/1 was unloaded to save memory and cannot be loaded again now" in error.details()
        assert client.score("wine", rows).version == "2"
        damaged.write_bytes(whole)
        service.service.watcher.retry()
        np.testing.assert_array_equal(client.score("wine", rows, version=1).log_prob, expected(store, "wine", 1, rows))
    assert service.metric("density_model_loads_total", model="wine", result="failed") == 1, "not at every request"


def refused(channel: grpc.Channel, rows: np.ndarray) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        DensityServiceStub(channel).LogProb(pb.LogProbRequest(model="wine", version="1", rows=encode(rows)))
    return caught.value


def test_an_unloaded_version_is_retired_like_any_other(start: Start, store: Path, rows: np.ndarray) -> None:
    service = start(store, store_poll_seconds=SLOW, max_loaded_bytes=int(1.5 * size(store)))
    with DensityClient(service.grpc) as client:
        client.score("wine", rows)
        Rollout(ModelStore(store), "wine").retire(1)
        service.run(service.service.watcher.look())
        service.run(service.service.watcher.idle())
        with pytest.raises(DensityError, match="no version '1' of wine is loaded"):
            client.score("wine", rows, version=1)
        assert resident(service) == ["wine/2"]


def test_under_load_and_with_hardly_any_memory_everybody_is_answered_right(
    start: Start, shelf: Path, rows: np.ndarray
) -> None:
    service = start(shelf, store_poll_seconds=SLOW, max_loaded_bytes=int(2.5 * size(shelf)))
    versions = [(name, version) for name in MODELS for version in (1, 2)]
    right = {key: expected(shelf, *key, rows) for key in versions}

    def ask(client_number: int) -> None:
        with DensityClient(service.grpc) as client:
            for turn in range(24):
                name, version = versions[(turn * (client_number + 1) + client_number) % len(versions)]
                answer = client.score(name, rows, version=version)
                np.testing.assert_array_equal(answer.log_prob, right[name, version])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert service.metric("density_loaded_bytes") <= 2.5 * size(shelf)
    assert service.metric("density_loaded_bytes") == service.service.watcher._residency.bytes
