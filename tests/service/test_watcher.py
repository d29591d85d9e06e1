"""The watcher brings the registry in line with the store, and never lets a bad version replace a good one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest
from conftest import Running, Start, publish
from gates import engine_held, in_background, wait_for_call, wait_until

from service.engines.engine import ModelKey

SLOW = 3600
"""Seconds between looks at the store, so that only the test's own looks happen."""


def look(service: Running) -> None:
    service.run(service.service.watcher.look())


def loaded(service: Running, model: str = "wine") -> list[int]:
    return [served.key.version for served in service.service.registry.versions(model)]


def score(service: Running, model: str = "wine", version: str = "") -> httpx.Response:
    path = f"/versions/{version}" if version else ""
    body = {"rows": [[1, 2, 3]]}
    return httpx.post(f"{service.http}/v1/models/{model}{path}:logProb", json=body, timeout=20)


def test_a_new_version_becomes_the_default_and_the_oldest_is_let_go(start: Start, store: Path) -> None:
    service = start(store, store_poll_seconds=SLOW)
    assert loaded(service) == [2, 1]
    publish(store, "wine", seed=9)
    look(service)
    assert loaded(service) == [3, 2]
    assert score(service).json()["version"] == "3"
    wait_until(service, lambda: ModelKey("wine", 1) not in service.service.engine._scorers)
    assert score(service, version="1").status_code == 404
    assert service.metric("density_model_default_version", model="wine") == 3
    info = {"engine": "inprocess", "dtype": "float32", "model": "wine"}
    assert service.metric("density_model_info", version="3", **info) == 1
    wait_until(service, lambda: service.metric("density_model_info", version="1", **info) == 0)


def test_a_new_model_is_picked_up_by_itself(start: Start, tmp_path: Path) -> None:
    service = start(tmp_path / "later", store_poll_seconds=0.02)
    assert score(service).status_code == 404
    publish(tmp_path / "later", "wine")
    service.run(service.service.ready())
    assert score(service).json()["version"] == "1"


def test_a_damaged_version_is_not_loaded_and_the_one_before_goes_on(
    start: Start, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(store, store_poll_seconds=SLOW)
    publish(store, "wine", seed=9)
    scorer = store / "wine" / "3" / "scorer.pt"
    scorer.write_bytes(scorer.read_bytes()[:-1] + b"?")
    look(service)
    assert loaded(service) == [2, 1]
    assert score(service).json()["version"] == "2"
    assert "wine/3 could not be loaded" in caplog.text
    assert "scorer.pt is not the file that was published" in caplog.text
    assert service.metric("density_model_loads_total", model="wine", result="failed") == 1
    look(service)
    assert service.metric("density_model_loads_total", model="wine", result="failed") == 1, "not tried again at once"


def test_a_version_that_answers_otherwise_than_published_is_not_served(
    start: Start, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, "wine", seed=9)
    path = store / "wine" / "3" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["self_check"]["log_prob"][0] += 0.5
    path.write_text(json.dumps(manifest))
    service = start(store, store_poll_seconds=SLOW)
    assert loaded(service) == [2, 1]
    assert "up to 0.5 nats off those in its manifest" in caplog.text
    assert ModelKey("wine", 3) not in service.service.engine._scorers


@pytest.mark.parametrize("text", ["{", '{"format_version": 99}'])
def test_a_manifest_that_cannot_be_read_spoils_no_other_model(start: Start, store: Path, text: str) -> None:
    (store / "wine" / "2" / "manifest.json").write_text(text)
    service = start(store, store_poll_seconds=SLOW)
    assert loaded(service) == [1]
    assert loaded(service, "pair") == [1]


def test_an_engine_that_cannot_load_leaves_the_old_version_serving(start: Start, store: Path) -> None:
    service = start(store, faults=True, store_poll_seconds=SLOW)
    service.service.engine.fail_to_load.add(ModelKey("wine", 3))
    publish(store, "wine", seed=9)
    look(service)
    assert score(service).json()["version"] == "2"


def test_a_version_deleted_from_the_store_is_retired(start: Start, store: Path) -> None:
    service = start(store, store_poll_seconds=SLOW)
    shutil.rmtree(store / "wine" / "2")
    look(service)
    assert loaded(service) == [1]
    assert score(service).json()["version"] == "1"
    shutil.rmtree(store / "wine")
    look(service)
    assert score(service).status_code == 404
    assert service.service.registry.names() == ["pair"]


def test_a_store_that_cannot_be_read_leaves_what_is_loaded(start: Start, store: Path) -> None:
    service = start(store, store_poll_seconds=SLOW)
    store.rename(store.with_name("moved"))
    look(service)
    assert loaded(service) == [2, 1]
    assert score(service).status_code == 200
    store.write_text("a file where the store was")
    look(service)
    assert loaded(service) == [2, 1]
    store.unlink()
    store.with_name("moved").rename(store)
    publish(store, "wine", seed=9)
    look(service)
    assert loaded(service) == [3, 2]


@pytest.mark.parametrize(
    "change", [{"self_check": {}}, {"self_check": {"rows": "x"}}, {"reference_log_prob": {"log_prob": [None]}}]
)
def test_a_manifest_that_makes_no_sense_spoils_no_other_model(start: Start, store: Path, change: dict) -> None:
    # "pair" is looked at before "wine": what goes wrong with one must not end the look at the store.
    path = store / "pair" / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    service = start(store, store_poll_seconds=SLOW)
    assert loaded(service, "pair") == []
    assert loaded(service) == [2, 1]
    assert ModelKey("pair", 1) not in service.service.engine._scorers


def test_a_version_is_unloaded_after_the_last_request_that_uses_it(start: Start, store: Path) -> None:
    service = start(store, faults=True, store_poll_seconds=SLOW)
    key = ModelKey("wine", 1)
    with engine_held(service):
        slow = in_background(lambda: score(service, version="1"))
        wait_for_call(service)
        service.run(_retire(service, key))
        assert key in service.service.engine._scorers
        assert score(service, version="1").status_code == 404
    assert slow.result(10).json()["version"] == "1"
    wait_until(service, lambda: key not in service.service.engine._scorers)


async def _retire(service: Running, key: ModelKey) -> None:
    """What a look at the store does with a version that is no longer wanted."""
    watcher = service.service.watcher
    watcher._retire(service.service.registry.resolve(key.name, str(key.version)))
