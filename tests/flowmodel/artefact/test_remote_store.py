"""A store behind a URL: in memory, over HTTP from another process's point of view, in a zip file."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.artefact.remote_store import RemoteStore, open_store
from flowmodel.artefact.republish import republish
from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from flowmodel.errors import ArtefactError, ManifestError, ModelNotFoundError, ServingError, StoreUnreachableError
from flowmodel.runtime.scoring import Scorer

ROWS = np.random.default_rng(0).standard_normal((5, 2))


def flow(seed=0):
    torch.manual_seed(seed)
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    made = dist.Flow(base, bij.AffineAutoregressive())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A local store of ``wine`` in two versions; not to be changed."""
    store = tmp_path_factory.mktemp("published")
    for seed in (1, 2):
        flowmodel.publish(flow(seed), store, "wine", report=lambda folder, _: (folder / "page.html").write_text("page"))
    (store / "wine" / "serving.json").write_text('{"default": 1}')
    return store


@pytest.fixture
def memory():
    """The URL of an empty store in this process's memory."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield "memory://bucket/models"
    files.store.clear()
    files.pseudo_dirs[:] = [""]


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def web(published):
    """The URL of the published store on a web server."""
    handler = functools.partial(_QuietHandler, directory=published)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(request, published, tmp_path):
    """The published store in each place that can be read."""
    if request.param == "http":
        return request.getfixturevalue("web")
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "models.zip", "w") as archive:
            for path in sorted(published.rglob("*")):
                archive.write(path, path.relative_to(published))
        return f"zip://::{tmp_path / 'models.zip'}"
    if request.param == "memory":
        place = request.getfixturevalue("memory")
        files = fsspec.filesystem("memory")
        files.put(f"{published}/", "/bucket/models", recursive=True)
        return place
    return f"file://{published}"


everywhere = pytest.mark.parametrize("url", ["memory", "http", "zip", "file"], indirect=True)


@everywhere
def test_what_a_store_holds_is_read_alike_everywhere(url, published, tmp_path):
    store, local = open_store(url, tmp_path / "cache"), ModelStore(published)
    assert store.exists()
    assert store.names() == ["wine"]
    assert store.versions("wine") == [1, 2]
    assert store.versions("beer") == []
    assert store.next_version("wine") == 3
    assert store.serving("wine").default == 1
    assert store.manifest("wine") == local.manifest("wine")
    for version in (1, 2):
        fetched, original = store.open("wine", version), local.open("wine", version)
        fetched.verify()
        for name in original.manifest.files:
            assert (fetched.path / name).read_bytes() == (original.path / name).read_bytes()
        answers = [Scorer.load(model.scorer_path).log_prob(ROWS, None) for model in (fetched, original)]
        np.testing.assert_array_equal(*answers)
    with pytest.raises(ModelNotFoundError, match=r"no model 'beer' in .*; models there: wine"):
        store.open("beer")
    with pytest.raises(ModelNotFoundError, match="model 'wine' has no version 3; its versions: 1, 2"):
        store.open("wine", 3)


def test_a_version_is_fetched_once(memory, published, tmp_path, monkeypatch):
    republish(ModelStore(published).open("wine", 1), RemoteStore(memory, tmp_path / "a"))
    store = RemoteStore(memory, tmp_path / "cache")
    first = store.open("wine")
    fetched = []
    original = type(store._fs).get_file
    monkeypatch.setattr(type(store._fs), "get_file", lambda self, *a, **k: (fetched.append(a), original(self, *a, **k)))
    assert store.open("wine").path == first.path
    assert RemoteStore(memory, tmp_path / "cache").open("wine").path == first.path
    assert fetched == []
    shutil.rmtree(tmp_path / "cache")
    RemoteStore(memory, tmp_path / "cache").open("wine").verify()
    assert len(fetched) == len(first.manifest.files)


def test_publishing_uploads_and_counts_versions(memory, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWMODEL_STORE_CACHE", str(tmp_path / "cache"))
    for seed in (1, 2):
        made = flow(seed)
        version = flowmodel.publish(made, memory, "wine")
        assert version.version == seed
        with torch.no_grad():
            expected = made.log_prob(torch.from_numpy(ROWS).float()).numpy()
        np.testing.assert_allclose(Scorer.load(version.scorer_path).log_prob(ROWS, None), expected, rtol=1e-5)
    elsewhere = RemoteStore(memory, tmp_path / "other")
    assert elsewhere.versions("wine") == [1, 2]
    elsewhere.open("wine", 1).verify()
    assert not list((tmp_path / "cache").rglob(".staging-*"))


def test_a_version_appears_with_its_manifest_and_no_sooner(memory, published, tmp_path, monkeypatch):
    store, seen = RemoteStore(memory, tmp_path / "a"), []
    reader = RemoteStore(memory, tmp_path / "b")
    original = type(store._fs).put_file

    def put_file(self, *arguments, **options):
        original(self, *arguments, **options)
        seen.append((reader.versions("wine"), reader.names(), reader.next_version("wine")))

    monkeypatch.setattr(type(store._fs), "put_file", put_file)
    republish(ModelStore(published).open("wine", 1), store)
    assert set(map(repr, seen)) == {"([], [], 2)"}
    assert reader.versions("wine") == [1]


def test_an_upload_that_breaks_off_leaves_nothing_that_is_served(memory, published, tmp_path, monkeypatch):
    store = RemoteStore(memory, tmp_path / "a")
    original = type(store._fs).put_file

    def put_file(self, source, *arguments, **options):
        if source.endswith(".mar"):
            raise OSError("the connection was cut")
        original(self, source, *arguments, **options)

    monkeypatch.setattr(type(store._fs), "put_file", put_file)
    with pytest.raises(StoreUnreachableError, match="models cannot publish wine/1: the connection was cut"):
        republish(ModelStore(published).open("wine", 1), store)
    monkeypatch.undo()
    assert not fsspec.filesystem("memory").find("/bucket")
    # Nor does one that could not even clear up, as one that was killed.
    store._fs.pipe_file("/bucket/models/wine/1/.claim", b"")
    store._fs.pipe_file("/bucket/models/wine/1/scorer.pt", b"half")
    assert store.names() == []
    assert republish(ModelStore(published).open("wine", 1), store).version == 2
    assert store.versions("wine") == [2]


def test_of_two_publishers_one_gets_the_number_and_the_other_the_next(memory, published, tmp_path):
    one, other = RemoteStore(memory, tmp_path / "a"), RemoteStore(memory, tmp_path / "b")
    source = ModelStore(published).open("wine", 1).path
    assert one.commit(source, "wine", 1)
    assert not other.commit(source, "wine", 1)
    assert other._claim("wine", 2)
    assert not one._claim("wine", 2), "claimed between the look and the upload"
    count = 4
    barrier = threading.Barrier(count)

    def race(number):
        store = RemoteStore(memory, tmp_path / str(number))
        barrier.wait()
        versions.append(republish(ModelStore(published).open("wine", 1), store, "beer").version)

    versions = []
    threads = [threading.Thread(target=race, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["truncated", "another", "missing"])
def test_a_file_that_is_not_the_published_one_is_named_and_not_kept(memory, published, tmp_path, damage):
    store = RemoteStore(memory, tmp_path / "cache")
    republish(ModelStore(published).open("wine", 1), RemoteStore(memory, tmp_path / "a"))
    path = "/bucket/models/wine/1/scorer.pt"
    content = store._fs.cat_file(path)
    if damage == "missing":
        store._fs.rm(path)
    else:
        store._fs.pipe_file(path, content[:-1] if damage == "truncated" else bytes(len(content)))
    with pytest.raises(ArtefactError, match=r"memory://bucket/models/wine/1/scorer\.pt is (missing|not the file)"):
        store.open("wine")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    store._fs.pipe_file(path, content)
    store.open("wine").verify()


def test_a_store_made_anew_under_the_same_url_is_not_taken_for_the_old_one(memory, published, tmp_path):
    store = RemoteStore(memory, tmp_path / "cache")
    republish(ModelStore(published).open("wine", 1), store)
    before = Scorer.load(store.open("wine").scorer_path).log_prob(ROWS, None)
    store._fs.rm("/bucket", recursive=True)
    republish(ModelStore(published).open("wine", 2), RemoteStore(memory, tmp_path / "b"))
    after = Scorer.load(RemoteStore(memory, tmp_path / "cache").open("wine", 1).scorer_path).log_prob(ROWS, None)
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/../../escaped"])
def test_a_manifest_cannot_write_outside_the_cache(memory, published, tmp_path, name):
    store = RemoteStore(memory, tmp_path / "cache")
    republish(ModelStore(published).open("wine", 1), RemoteStore(memory, tmp_path / "a"))
    path = "/bucket/models/wine/1/manifest.json"
    manifest = json.loads(store._fs.cat_file(path))
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    store._fs.pipe_file(path, json.dumps(manifest).encode())
    with pytest.raises(ManifestError, match=r"files names .*escaped'; expected a path inside"):
        store.open("wine")
    assert not list(tmp_path.rglob("escaped"))


def test_which_versions_answer_is_kept_in_the_store(memory, published, tmp_path):
    for version in (1, 2):
        republish(ModelStore(published).open("wine", version), RemoteStore(memory, tmp_path / "a"))
    rollout = Rollout(RemoteStore(memory, tmp_path / "a"), "wine")
    rollout.default(1)
    rollout.canary(2, 0.5)
    elsewhere = RemoteStore(memory, tmp_path / "b")
    assert elsewhere.serving("wine").default == 1
    assert elsewhere.serving("wine").canary == (2, 0.5)
    elsewhere._fs.pipe_file("/bucket/models/wine/serving.json", b"{")
    with pytest.raises(ServingError, match=r"memory://bucket/models/wine/serving\.json: not JSON"):
        rollout.rollback()


def test_a_store_that_can_only_be_read_says_so(web, published, tmp_path):
    store = RemoteStore(web, tmp_path / "cache")
    with pytest.raises(StoreUnreachableError, match=r"the store http://.* cannot publish wine/3"):
        republish(ModelStore(published).open("wine", 1), store)
    with pytest.raises(StoreUnreachableError, match=r"cannot write wine/serving\.json"):
        Rollout(store, "wine").default(2)


def test_a_store_that_is_not_there_says_so(tmp_path):
    store = RemoteStore("http://127.0.0.1:9/models", tmp_path)
    with pytest.raises(StoreUnreachableError, match=r"the store http://127\.0\.0\.1:9/models cannot be read: "):
        store.names()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "nope://models",
            "nope://models cannot be opened: Protocol not known: nope; a directory expected, or",
        ),
        ("s3://bucket/models", "the store s3://bucket/models cannot be opened: Install s3fs"),
    ],
)
def test_a_url_that_cannot_be_opened_names_what_is_missing(url, text):
    with pytest.raises(ArtefactError, match=text):
        open_store(url)


def test_no_password_of_a_url_is_told(tmp_path):
    with pytest.raises(StoreUnreachableError) as caught:
        RemoteStore("http://user:secret@127.0.0.1:9/models", tmp_path).check_model("wine")
    assert "secret" not in str(caught.value)
    assert "http://***@127.0.0.1:9/models" in str(caught.value)


def test_the_commands_take_a_url(web, tmp_path):
    command = [sys.executable, "-m", "flowmodel", "models", "wine", "--store", web]
    environment = os.environ | {"FLOWMODEL_STORE_CACHE": str(tmp_path)}
    listed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [["wine", "2", "-"], ["wine", "1", "default"]]
    assert not list(Path(tmp_path).rglob("scorer.pt")), "listing fetches no weights"
    (tmp_path / "rows.csv").write_text("x0,x1\n1,2\n")
    command = [sys.executable, "-m", "flowmodel", "score", "wine", str(tmp_path / "rows.csv"), "--store", web]
    scored = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert scored.startswith("row,log_prob,error\n1,")
