"""The watcher brings the registry in line with the store, and never lets a bad version replace a good one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import plain_http
import pytest
from conftest import Running, Start, publish
from gates import engine_held, in_background, wait_for_call, wait_until

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from service.announcement import waiting_text
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
    return plain_http.post(f"{service.http}/v1/models/{model}{path}:logProb", json=body, timeout=20)


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


def test_a_store_of_which_nothing_can_be_served_is_not_called_empty(start: Start, store: Path) -> None:
    (store / "pair" / "serving.json").write_text("{")
    for version in (1, 2):
        (store / "wine" / str(version) / "manifest.json").write_text("{")
    service = start(store, store_poll_seconds=SLOW)
    unready = plain_http.get(f"{service.http}/readyz")
    assert unready.json()["reason"] == "no version of pair, wine could be loaded; the log says why"
    message = score(service).json()["error"]["message"]
    assert message.startswith("no model 'wine'; loaded: none; the store has it, but no version of it could be loaded")
    assert waiting_text(service.service, service.service.ports).startswith(
        f"Waiting for a model in {store}: no version of pair, wine could be loaded, and the log says why"
    )
    (store / "pair" / "serving.json").unlink()
    look(service)
    assert loaded(service, "pair") == [1]
    assert service.service.registry.unserved == ["wine"]
    assert plain_http.get(f"{service.http}/readyz").status_code == 200


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


def rollout(service: Running, model: str = "wine") -> Rollout:
    return Rollout(service.service.watcher.store, model)


def test_the_default_is_switched_rolled_back_and_followed_again(start: Start, store: Path) -> None:
    service = start(store, store_poll_seconds=SLOW)
    rollout(service).default(1)
    look(service)
    assert score(service).json()["version"] == "1"
    assert service.metric("density_model_default_version", model="wine") == 1
    assert score(service, version="2").json()["version"] == "2", "a version that is named answers all the same"
    publish(store, "wine", seed=9)
    look(service)
    assert score(service).json()["version"] == "1", "a pinned default stays"
    assert score(service, version="3").json()["version"] == "3"
    rollout(service).rollback()
    look(service)
    assert score(service).json()["version"] == "2"
    rollout(service).default(None)
    look(service)
    assert score(service).json()["version"] == "3"
    assert loaded(service) == [3, 2]


def test_the_version_to_roll_back_to_is_kept_loaded(start: Start, store: Path) -> None:
    for seed in (7, 8):
        publish(store, "wine", seed=seed)
    service = start(store, store_poll_seconds=SLOW)
    assert loaded(service) == [4, 3]
    rollout(service).default(1)
    look(service)
    assert loaded(service) == [4, 1]
    rollout(service).default(2)
    look(service)
    assert loaded(service) == [4, 2, 1]


def test_a_retired_version_answers_no_more(start: Start, store: Path) -> None:
    service = start(store, store_poll_seconds=SLOW)
    rollout(service).retire(1)
    look(service)
    assert score(service, version="1").status_code == 404
    rollout(service).retire(2, force=True)
    look(service)
    assert score(service).status_code == 404
    rollout(service).restore(1)
    look(service)
    assert score(service).json()["version"] == "1"


@pytest.mark.parametrize("text", ["{", '{"format_version": 2}', '{"default": "newest"}'])
def test_a_choice_that_cannot_be_read_is_named_and_leaves_what_answers(
    start: Start, store: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(store, store_poll_seconds=SLOW)
    rollout(service).default(1)
    look(service)
    choice = (store / "wine" / "serving.json").read_text()
    (store / "wine" / "serving.json").write_text(text)
    publish(store, "wine", seed=9)
    look(service)
    look(service)
    assert score(service).json()["version"] == "1"
    assert loaded(service) == [2, 1]
    assert caplog.text.count("wine/serving.json: ") == 1, "said once, not at every look"
    (store / "wine" / "serving.json").write_text(choice)
    look(service)
    assert score(service).json()["version"] == "1"
    assert loaded(service) == [3, 2, 1]


def test_a_service_that_begins_with_a_choice_it_cannot_read_serves_the_other_models(start: Start, store: Path) -> None:
    (store / "wine" / "serving.json").write_text("{")
    service = start(store, store_poll_seconds=SLOW)
    assert loaded(service) == []
    assert loaded(service, "pair") == [1]


def test_a_chosen_version_that_is_damaged_leaves_the_one_that_answers(start: Start, store: Path) -> None:
    service = start(store, store_poll_seconds=SLOW)
    (store / "wine" / "1" / "scorer.pt").write_bytes(b"?")
    rollout(service).default(1)
    assert loaded(service) == [2, 1], "it was loaded before it was damaged"
    look(service)
    assert score(service).json()["version"] == "1"
    publish(store, "wine", seed=9)
    (store / "wine" / "3" / "scorer.pt").write_bytes(b"?")
    rollout(service).default(3)
    look(service)
    assert score(service).json()["version"] == "1"
    afresh = start(store, store_poll_seconds=SLOW)
    assert score(afresh).json()["version"] == "2", "the last default that can be loaded"


def test_without_any_default_the_caller_is_told_to_name_a_version(start: Start, store: Path) -> None:
    (store / "wine" / "serving.json").write_text('{"default": 7}')
    service = start(store, store_poll_seconds=SLOW)
    answer = score(service)
    assert answer.status_code == 503
    assert "the default version of wine could not be loaded" in answer.json()["error"]["message"]
    assert score(service, version="2").status_code == 200
    listed = plain_http.get(f"{service.http}/v1/models").json()["models"]
    assert [(model["name"], model["default_version"]) for model in listed] == [("pair", "1"), ("wine", "")]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "scorer.pt").unlink(), "scorer.pt is missing"),
        (lambda folder: _cut(folder / "scorer.pt"), "scorer.pt is not the file that was published (SHA-256 differs)"),
        (lambda folder: _cut(folder / "wine-3.mar"), "wine-3.mar is not the file that was published"),
        (lambda folder: _set(folder, format_version=99), "99"),
        (lambda folder: _set(folder, version=7), "is the manifest of wine version 7"),
    ],
    ids=["missing", "truncated", "archive", "format", "renamed"],
)
def test_what_is_not_as_it_was_published_is_refused_by_name(
    start: Start, store: Path, damage: Callable[[Path], None], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(store, store_poll_seconds=SLOW)
    publish(store, "wine", seed=9)
    damage(store / "wine" / "3")
    look(service)
    assert score(service).json()["version"] == "2"
    assert score(service, version="3").status_code == 404
    assert "wine/3 could not be loaded" in caplog.text
    assert text in caplog.text


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _set(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_a_publisher_is_still_writing_or_left_half_written_is_never_served(start: Start, store: Path) -> None:
    service = start(store, store_poll_seconds=SLOW)
    with ModelStore(store).staging("wine") as staged:
        shutil.copytree(store / "wine" / "2", staged, dirs_exist_ok=True)
        look(service)
        assert loaded(service) == [2, 1]
    half = store / "wine" / "3"
    half.mkdir()
    shutil.copy(store / "wine" / "2" / "scorer.pt", half)
    look(service)
    assert loaded(service) == [2, 1]
