"""A service whose store is a URL: new versions, choices, a store that goes away, and what is damaged on the way."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import plain_http
import pytest
from conftest import Running, Start, publish

from flowmodel.artefact.remote_store import RemoteStore
from flowmodel.artefact.republish import republish
from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer
from service.client import DensityClient

SLOW = 3600
URL = "memory://shelf/models"


@pytest.fixture
def remote(published: Path, tmp_path: Path) -> Iterator[RemoteStore]:
    """``wine`` in two versions in this process's memory, as a publisher elsewhere sees it."""
    files = fsspec.filesystem("memory")
    store = RemoteStore(URL, tmp_path / "publisher")
    for version in (1, 2):
        republish(ModelStore(published).open("wine", version), store)
    yield store
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def look(service: Running) -> None:
    service.run(service.service.watcher.look())


def loaded(service: Running) -> list[int]:
    return [served.key.version for served in service.service.registry.versions("wine")]


def version_of(service: Running) -> str:
    return plain_http.post(f"{service.http}/v1/models/wine:logProb", json={"rows": [[1, 2, 3]]}).json()["version"]


def test_versions_are_picked_up_switched_and_rolled_back(
    start: Start, remote: RemoteStore, published: Path, tmp_path: Path, rows: np.ndarray
) -> None:
    service = start(URL, store_poll_seconds=SLOW, store_cache=tmp_path / "cache")
    with DensityClient(service.grpc) as client:
        expected = Scorer.load(published / "wine" / "2" / "scorer.pt").log_prob(rows, None)
        np.testing.assert_array_equal(client.log_prob("wine", rows), expected)
    publish(tmp_path / "new", "wine", seed=9)
    republish(ModelStore(tmp_path / "new").open("wine", 1), remote)
    look(service)
    assert version_of(service) == "3"
    Rollout(remote, "wine").rollback()
    look(service)
    assert version_of(service) == "2"
    Rollout(remote, "wine").retire(3)
    look(service)
    assert loaded(service) == [2, 1]


def test_a_version_that_is_damaged_on_the_way_is_refused(
    start: Start, remote: RemoteStore, published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(URL, store_poll_seconds=SLOW, store_cache=tmp_path / "cache")
    republish(ModelStore(published).open("wine", 1), remote)
    fsspec.filesystem("memory").pipe_file("/shelf/models/wine/3/scorer.pt", b"?")
    look(service)
    assert loaded(service) == [2, 1]
    assert f"{URL}/wine/3/scorer.pt is not the file that was published (SHA-256 differs)" in caplog.text


def test_an_upload_on_its_way_is_not_served(start: Start, remote: RemoteStore, tmp_path: Path) -> None:
    service = start(URL, store_poll_seconds=SLOW, store_cache=tmp_path / "cache")
    files = fsspec.filesystem("memory")
    for path in files.find("/shelf/models/wine/2"):
        if not path.endswith("manifest.json"):
            files.copy(path, path.replace("/2/", "/3/"))
    look(service)
    assert loaded(service) == [2, 1]


def test_a_store_that_is_emptied_under_it_leaves_what_answers(
    start: Start, remote: RemoteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(URL, store_poll_seconds=SLOW, store_cache=tmp_path / "cache")
    fsspec.filesystem("memory").rm("/shelf", recursive=True)
    look(service)
    assert loaded(service) == [2, 1]
    assert f"the store {URL} is not there now" in caplog.text


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_a_web_server_that_goes_and_comes_back(
    start: Start, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(port: int = 0) -> http.server.ThreadingHTTPServer:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_QuietHandler, directory=store))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    server = serve()
    port = server.server_port
    service = start(f"http://127.0.0.1:{port}", store_poll_seconds=SLOW, store_cache=tmp_path / "cache")
    assert loaded(service) == [2, 1]
    server.shutdown()
    server.server_close()
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", port)) != 0
    look(service)
    assert version_of(service) == "2"
    assert f"looking at the store http://127.0.0.1:{port} failed: the store http://127.0.0.1:{port} cannot be read" in (
        caplog.text
    )
    publish(store, "wine", seed=9)
    server = serve(port)
    try:
        look(service)
        assert version_of(service) == "3"
    finally:
        server.shutdown()
        server.server_close()


def test_a_service_begins_without_its_store_and_serves_when_it_is_there(
    start: Start, published: Path, tmp_path: Path
) -> None:
    files = fsspec.filesystem("memory")
    url = "memory://later/models"
    service = start(url, store_poll_seconds=SLOW, store_cache=tmp_path / "cache")
    assert service.service.gateway.unready_reason == "no model in the store yet"
    republish(ModelStore(published).open("wine", 1), RemoteStore(url, tmp_path / "publisher"))
    look(service)
    assert version_of(service) == "1"
    files.rm("/later", recursive=True)
