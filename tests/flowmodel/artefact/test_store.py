"""A version appears whole or not at all, whoever else publishes and whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.store import ModelStore, sha256_of
from flowmodel.errors import ArtefactError, ManifestError, ModelNotFoundError


def stamp(staged, name, version, content=b"weights"):
    (staged / "scorer.pt").write_bytes(content)
    manifest = Manifest(
        name=name,
        version=version,
        created="2026-01-02T03:04:05Z",
        flowmodel_version="0.1.0",
        torch_version="2.13.0",
        plan={},
        event_shape=[1],
        context_shape=None,
        feature_names=["a"],
        context_names=[],
        dtype="float32",
        base={},
        preprocessing={},
        training={},
        reference_log_prob={},
        self_check={},
        files={"scorer.pt": {"sha256": sha256_of(staged / "scorer.pt"), "bytes": len(content)}},
    )
    (staged / "manifest.json").write_text(manifest.to_json())


def publish(store, name, version, content=b"weights"):
    with store.staging(name) as staged:
        stamp(staged, name, version, content)
        return store.commit(staged, name, version)


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


def test_an_absent_store_holds_nothing(store):
    assert store.names() == []
    assert store.versions("wine") == []
    with pytest.raises(ModelNotFoundError, match=r"no model 'wine' in .*; models there: none"):
        store.open("wine")


def test_versions_are_numbers_not_words(store):
    for version in range(1, 12):
        assert publish(store, "wine", version)
    publish(store, "beer", 1)
    assert store.names() == ["beer", "wine"]
    assert store.versions("wine") == list(range(1, 12))
    assert store.open("wine").version == 11
    assert store.open("wine", 2).path == store.root / "wine" / "2"
    assert store.next_version("wine") == 12
    with pytest.raises(ModelNotFoundError, match="model 'beer' has no version 2; its versions: 1"):
        store.open("beer", 2)
    with pytest.raises(ModelNotFoundError, match="models there: beer, wine"):
        store.open("../store/wine")


def test_what_is_no_version_is_not_listed(store):
    publish(store, "wine", 1)
    for other in ("wine/2", "wine/03", "wine/x", "wine/.hidden", "Upper/1", "empty"):
        (store.root / other).mkdir(parents=True)
    (store.root / "README.md").write_text("a store")
    (store.root / "wine" / "03" / "manifest.json").write_text("{}")
    assert store.names() == ["wine"]
    assert store.versions("wine") == [1]


def test_what_is_staged_is_never_listed_and_removed_after(store):
    with store.staging("wine") as staged:
        stamp(staged, "wine", 1)
        assert store.root in staged.parents
        assert store.names() == []
    assert not staged.exists()


def test_a_version_can_be_read_by_others(store):
    publish(store, "wine", 1)
    assert (store.root / "wine" / "1").stat().st_mode & 0o777 == 0o755


def test_a_taken_number_is_refused_and_its_content_kept(store):
    publish(store, "wine", 1, b"first")
    assert not publish(store, "wine", 1, b"second")
    assert store.open("wine", 1).scorer_path.read_bytes() == b"first"


def test_of_many_publishers_at_once_each_gets_a_number(store):
    count = 8
    barrier = Barrier(count)

    def race(publisher):
        with store.staging("wine") as staged:
            barrier.wait()
            version = store.next_version("wine")
            while True:
                stamp(staged, "wine", version, b"%d" % publisher)
                if store.commit(staged, "wine", version):
                    return version
                version = max(version + 1, store.next_version("wine"))

    with ThreadPoolExecutor(count) as pool:
        versions = list(pool.map(race, range(count)))
    assert sorted(versions) == list(range(1, count + 1))
    for publisher, version in enumerate(versions):
        published = store.open("wine", version)
        assert published.scorer_path.read_bytes() == b"%d" % publisher
        published.verify()


def test_a_killed_publisher_leaves_no_version_and_stops_nobody(store):
    program = f"""
import sys
import time
from flowmodel.artefact.store import ModelStore
with ModelStore({str(store.root)!r}).staging("wine") as staged:
    (staged / "manifest.json").write_text("half a mani")
    print("staged", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"staged\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert list(store.root.rglob("manifest.json")), "the rest of the killed publisher is still there"
    assert store.names() == []
    assert publish(store, "wine", 1)
    assert store.versions("wine") == [1]


def test_a_damaged_file_is_named(store):
    publish(store, "wine", 1)
    published = store.open("wine")
    published.verify()
    published.scorer_path.write_bytes(b"Weights")
    with pytest.raises(ArtefactError, match=r"scorer\.pt is not the file that was published"):
        published.verify()
    published.scorer_path.unlink()
    with pytest.raises(ArtefactError, match=r"scorer\.pt is missing"):
        published.verify()


def test_a_renamed_version_is_not_taken_for_another_model(store):
    publish(store, "wine", 1)
    (store.root / "wine").rename(store.root / "beer")
    with pytest.raises(ManifestError, match="is the manifest of wine version 1"):
        store.open("beer")


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot write to the store"), ModelStore(tmp_path / "file").staging("wine"):
        pass
    with pytest.raises(ArtefactError, match="model name 'No' given"), ModelStore(tmp_path).staging("No"):
        pass


def test_the_store_needs_neither_torch_nor_arrow():
    program = (
        "import sys, flowmodel.artefact.store; print({'torch', 'pyarrow', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def age(folder, seconds):
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_what_a_killed_publisher_left_is_swept_and_that_of_a_living_one_is_not(store):
    program = f"""
import sys
import time
from flowmodel.artefact.store import ModelStore
with ModelStore({str(store.root)!r}).staging("wine") as staged:
    print(staged, flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", program]
    killed, living = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    folders = {child: Path(child.stdout.readline().strip()) for child in (killed, living)}
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    age(folders[living], 10 * 3600)
    assert publish(store, "wine", 1)
    assert folders[killed].is_dir(), "touched a moment ago; perhaps by a publisher on another machine"
    age(folders[killed], 2 * 3600)
    assert publish(store, "wine", 2)
    assert not folders[killed].exists()
    assert folders[living].is_dir()
    living.communicate("\n")
    assert living.returncode == 0
    assert sorted(path.name for path in (store.root / "wine").iterdir()) == ["1", "2"]


@pytest.mark.parametrize("damage", ["truncated", "longer", "missing", "another"])
def test_every_file_of_a_version_is_checked_by_length_and_hash(store, damage):
    publish(store, "wine", 1)
    published = store.open("wine")
    content = published.scorer_path.read_bytes()
    if damage == "missing":
        published.scorer_path.unlink()
    else:
        changed = {"truncated": content[:-1], "longer": content + b"?", "another": b"w" * len(content)}[damage]
        published.scorer_path.write_bytes(changed)
    with pytest.raises(ArtefactError, match=r"wine/1/scorer\.pt is (missing|not the file that was published)"):
        published.verify()


def test_a_version_of_a_newer_format_is_refused_by_name(store):
    publish(store, "wine", 1)
    path = store.root / "wine" / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ManifestError, match=r"wine/1/manifest\.json: .*99"):
        store.open("wine")
