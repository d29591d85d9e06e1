"""A shadow version scores what the default one answered; nobody but the metrics ever sees it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Running, Start, publish
from gates import engine_held, in_background, wait_for_call, wait_for_queue

from flowmodel.artefact.republish import republish
from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer
from service.client import DensityClient
from service.engines.engine import EngineError, ModelKey
from service.shadow import MAX_WAITING_ROWS

SLOW = 3600
SHADOW = ModelKey("wine", 1)


@pytest.fixture
def service(start: Start, store: Path) -> Running:
    """``wine`` with version 2 by default and version 1 as shadow."""
    Rollout(ModelStore(store), "wine").shadow(1)
    return start(store, faults=True, store_poll_seconds=SLOW)


def counted(service: Running, result: str, version: str = "1") -> float:
    return service.metric("density_shadow_rows_total", model="wine", version=version, result=result)


def settle(service: Running) -> None:
    service.run(service.service.gateway.shadows.idle())


def test_rows_are_compared_and_the_answer_is_the_default_versions(
    service: Running, store: Path, rows: np.ndarray
) -> None:
    scorers = [Scorer.load(store / "wine" / version / "scorer.pt") for version in ("1", "2")]
    shadow, default = (scorer.log_prob(rows, None) for scorer in scorers)
    with DensityClient(service.grpc) as client:
        answer = client.score("wine", rows)
    settle(service)
    np.testing.assert_array_equal(answer.log_prob, default)
    assert answer.version == "2"
    assert counted(service, "different") == len(rows)
    within = float((np.abs(shadow.astype(float) - default) <= 0.5).sum())
    assert service.metric("density_shadow_difference_nats_bucket", model="wine", version="1", le="0.5") == within
    assert service.metric("density_shadow_difference_nats_bucket", model="wine", version="1", le="+Inf") == len(rows)
    labels = {"method": "LogProb", "code": "OK", "model": "wine"}
    assert service.metric("density_requests_total", version="1", **labels) == 0
    assert service.metric("density_requests_total", version="2", **labels) == 1


def test_the_same_flow_published_again_differs_nowhere(start: Start, store: Path, rows: np.ndarray) -> None:
    holds = ModelStore(store)
    republish(holds.open("wine", 2), holds)
    Rollout(holds, "wine").default(2)
    Rollout(holds, "wine").shadow(3)
    service = start(store, store_poll_seconds=SLOW)
    with DensityClient(service.grpc) as client:
        client.score("wine", rows)
    settle(service)
    assert counted(service, "same", version="3") == len(rows)
    assert counted(service, "different", version="3") == 0


def test_only_what_the_default_version_answered_is_compared(service: Running, rows: np.ndarray) -> None:
    with DensityClient(service.grpc) as client:
        client.score("wine", rows, version="1")
        client.draw("wine", 3, seed=1)
        spoilt = rows.copy()
        spoilt[2, 0] = np.nan
        client.score("wine", spoilt)
    settle(service)
    assert counted(service, "different") == len(rows) - 1, "rows that are no rows are not compared"


def test_a_shadow_that_hangs_or_fails_is_no_callers_business(service: Running, rows: np.ndarray) -> None:
    engine = service.service.engine
    engine.held = {SHADOW}
    with DensityClient(service.grpc) as client, engine_held(service):
        client.score("wine", rows)
        wait_for_call(service)
        for _ in range(20):
            assert client.score("wine", rows).version == "2"

    settle(service)
    assert counted(service, "different") == 21 * len(rows)

    def fail(rows: np.ndarray) -> None:
        raise EngineError("the shadow is made to fail")

    engine.check = fail
    with DensityClient(service.grpc) as client:
        assert client.score("wine", rows).version == "2"
    settle(service)
    assert counted(service, "failed") == len(rows)


def test_more_than_the_shadow_can_do_is_dropped_and_counted(service: Running) -> None:
    service.service.engine.held = {SHADOW}
    many = np.zeros((MAX_WAITING_ROWS - 100, 3), np.float32)
    with DensityClient(service.grpc) as client, engine_held(service):
        client.score("wine", many)
        wait_for_call(service)
        assert len(client.score("wine", many[:300]).log_prob) == 300
        assert counted(service, "dropped") == 200
        assert len(client.score("wine", many[:300]).log_prob) == 300
        assert counted(service, "dropped") == 500
    settle(service)
    assert counted(service, "different") == MAX_WAITING_ROWS


def test_nothing_is_compared_while_requests_wait(service: Running, rows: np.ndarray) -> None:
    engine, shadows = service.service.engine, service.service.gateway.shadows
    served = service.service.registry.default("wine")
    with DensityClient(service.grpc) as client:
        with engine_held(service):
            busy = in_background(lambda: client.score("wine", rows))
            wait_for_call(service)
            waiting = in_background(lambda: client.score("wine", rows))
            wait_for_queue(service, len(rows))

            async def offer() -> None:
                shadows.offer(served, rows, None, np.zeros(len(rows), np.float32))

            before = list(engine.calls)
            service.run(offer())
            assert counted(service, "dropped") == len(rows)
            assert engine.calls == before
        busy.result(10)
        waiting.result(10)
    settle(service)


def test_a_shadow_is_taken_away_and_unloaded_in_the_middle_of_its_work(
    service: Running, store: Path, rows: np.ndarray
) -> None:
    engine = service.service.engine
    engine.held = {SHADOW}
    with DensityClient(service.grpc) as client, engine_held(service):
        client.score("wine", rows)
        wait_for_call(service)
        client.score("wine", rows)
        Rollout(ModelStore(store), "wine").shadow(None)
        Rollout(ModelStore(store), "wine").retire(1)
        service.run(service.service.watcher.look())
        assert SHADOW in engine._scorers, "kept while it computes"
    settle(service)
    assert counted(service, "different") == len(rows)
    assert counted(service, "dropped") == len(rows)
    service.run(service.service.watcher.idle())
    assert SHADOW not in engine._scorers


def test_a_shadow_of_other_columns_is_refused(
    start: Start, store: Path, rows: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(store / "wine" / "1")
    publish(store, "wine", seed=9, context=True)
    (store / "wine" / "serving.json").write_text('{"default": 2, "shadow": 3}')
    service = start(store, store_poll_seconds=SLOW)
    with DensityClient(service.grpc) as client:
        client.score("wine", rows)
    settle(service)
    assert service.service.registry.shadow("wine") is None
    assert "wine: version 3, the shadow, takes other columns than version 2" in caplog.text
