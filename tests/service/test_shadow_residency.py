"""A shadow under a limit on loaded bytes: it gives way to what callers ask for, and comes back when there is room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Running, Start, publish

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from service.client import DensityClient

SLOW = 3600


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ale`` with version 1 as shadow, and ``beer``, all of one size; not to be changed."""
    store = tmp_path_factory.mktemp("shelf")
    for seed, name in enumerate(("ale", "ale", "beer")):
        publish(store, name, seed=seed)
    Rollout(ModelStore(store), "ale").shadow(1)
    return store


@pytest.fixture
def store(shelf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "store"))


@pytest.fixture
def service(start: Start, store: Path) -> Running:
    """There is room for two of the three versions."""
    longest = max(path.stat().st_size for path in store.rglob("scorer.pt"))
    return start(store, store_poll_seconds=SLOW, max_loaded_bytes=int(2.5 * longest))


@pytest.fixture
def client(service: Running) -> Iterator[DensityClient]:
    with DensityClient(service.grpc) as client:
        yield client


@pytest.fixture
def nothing_is_idle_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not asked for at this moment counts as not asked for lately."""
    monkeypatch.setattr("service.residency.IDLE_SECONDS", 0.0)


def resident(service: Running) -> list[str]:
    return sorted(map(str, service.service.engine._scorers))


def compared(service: Running, result: str = "different") -> float:
    service.run(service.service.gateway.shadows.idle())
    return service.metric("density_shadow_rows_total", model="ale", version="1", result=result)


def test_it_goes_before_a_default_and_leaves_what_callers_ask_for(
    service: Running, client: DensityClient, rows: np.ndarray
) -> None:
    assert resident(service) == ["ale/2", "beer/1"]
    for turn in (1, 2, 3):
        client.score("beer", rows)
        client.score("ale", rows)
        assert compared(service, "unloaded") == turn * len(rows)
    assert resident(service) == ["ale/2", "beer/1"]
    assert compared(service) == 0
    assert service.metric("density_model_evictions_total", model="ale") == 1


@pytest.mark.usefixtures("nothing_is_idle_long")
def test_it_comes_back_for_what_nobody_asks_for_any_more(
    service: Running, client: DensityClient, rows: np.ndarray
) -> None:
    client.score("ale", rows)
    assert compared(service) == len(rows)
    assert resident(service) == ["ale/1", "ale/2"]
    client.score("beer", rows)
    assert resident(service) == ["ale/2", "beer/1"], "the shadow goes, though ale was asked for before beer"


def test_it_comes_back_when_there_is_room(
    service: Running, client: DensityClient, store: Path, rows: np.ndarray
) -> None:
    assert resident(service) == ["ale/2", "beer/1"]
    shutil.rmtree(store / "beer")
    service.run(service.service.watcher.look())
    service.run(service.service.watcher.idle())
    client.score("ale", rows)
    assert compared(service) == len(rows)
    assert resident(service) == ["ale/1", "ale/2"]


@pytest.mark.usefixtures("nothing_is_idle_long")
def test_one_that_cannot_be_loaded_again_is_counted_and_no_callers_business(
    service: Running, client: DensityClient, store: Path, rows: np.ndarray
) -> None:
    damaged = store / "ale" / "1" / "scorer.pt"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    for _ in range(2):
        assert client.score("ale", rows).version == "2"
        service.run(service.service.gateway.shadows.idle())
    assert compared(service, "unloaded") == 2 * len(rows)
    assert service.metric("density_model_loads_total", model="ale", result="failed") == 1, "not for every request"
    damaged.write_bytes(whole)
    service.service.watcher.retry()
    client.score("ale", rows)
    assert compared(service) == len(rows)
