"""Versions come, go and turn out to be broken under load: nothing is lost, and each answer is some version's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from load import Load, check_right
from publishing import publish
from served import wait_until

from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer
from service.client import DensityClient

ENGINES = ("inprocess", "torchserve")


def flowmodel(*arguments: object) -> None:
    program = [sys.executable, "-c", "from flowmodel.cli import main; main()"]
    subprocess.run([*program, *map(str, arguments)], check=True, capture_output=True, timeout=120)


def wait_for_version(load: Load, version: int) -> None:
    """Return when a client was answered by this version."""
    while not any(own and own[-1].version == str(version) for own in load.answers):
        load.wait_for(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_publishing_choosing_and_rolling_back(serve, store, rounds, engine):
    served = serve(engine)
    load = Load(served.grpc)
    for number in range(rounds):
        load.wait_for(5)
        version = publish(store, 10 + number)
        wait_for_version(load, version)
        flowmodel("models", "default", "wine", version - 1, "--store", store)
        wait_for_version(load, version - 1)
        flowmodel("models", "default", "wine", "latest", "--store", store)
        wait_for_version(load, version)
        flowmodel("models", "rollback", "wine", "--store", store)
        wait_for_version(load, version - 1)
        flowmodel("models", "default", "wine", "latest", "--store", store)
        wait_for_version(load, version)
    answers = load.stop()
    assert {answer.code for answer in answers} == {"OK"}
    assert check_right(load, store, answers) == {str(version) for version in range(1, rounds + 2)}


def test_a_canary_a_shadow_and_less_memory_than_versions(serve, store):
    for seed in (2, 3):
        publish(store, seed)
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    paths = [ModelStore(store).open("wine", version).scorer_path for version in (1, 2, 3)]
    right = {str(number): Scorer.load(path).log_prob(rows, None) for number, path in enumerate(paths, start=1)}
    limit = 2 * max(path.stat().st_size for path in paths)
    served = serve(loaded_versions=3, max_loaded_bytes=limit)
    with DensityClient(served.grpc) as client:

        def ask(version: int | None = None) -> str:
            scores = client.score("wine", rows, version=version)
            np.testing.assert_array_equal(scores.log_prob, right[scores.version])
            return scores.version

        assert ask() == "3"
        assert [ask(version) for version in (1, 2, 3, 1, 2, 3)] == ["1", "2", "3", "1", "2", "3"]
        assert served.metric("density_model_evictions_total") >= 2
        assert served.metric("density_loaded_bytes") <= limit

        flowmodel("models", "canary", "wine", 2, "--weight", 0.5, "--store", store)
        wait_until(lambda: ask() == "2", "the canary answers")
        assert {ask() for _ in range(10)} == {"2", "3"}

        flowmodel("models", "canary", "wine", "none", "--store", store)
        flowmodel("models", "shadow", "wine", 1, "--store", store)
        wait_until(lambda: ask() and served.metric("density_shadow_rows_total") > 0, "the shadow is asked as well")
        assert {ask() for _ in range(10)} == {"3"}
    assert not any("Traceback" in line for line in served.errors), served.errors


def corrupt(folder):
    content = bytearray((folder / "scorer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "scorer.pt").write_bytes(bytes(content))


def misreported(folder):
    """The file is whole, and its own check rows are not what it answers."""
    manifest = json.loads((folder / "manifest.json").read_text())
    checks = manifest["self_check"]
    checks["log_prob"] = [value + 1.0 for value in checks["log_prob"]]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def newer(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))


def cut_off(folder):
    """A disk that was full: the files end in the middle."""
    for path in folder.glob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = (corrupt, misreported, newer, cut_off)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_version_that_is_broken_is_named_and_never_answers(serve, store, engine, tmp_path):
    served = serve(engine)
    load = Load(served.grpc, clients=2)
    elsewhere = tmp_path / "elsewhere"
    publish(elsewhere, 1)
    for damage in DAMAGES:
        broken = publish(elsewhere, 2)
        folder = elsewhere / "wine" / str(broken)
        damage(folder)
        shutil.copytree(folder, store / "wine" / f".{broken}")
        (store / "wine" / f".{broken}").rename(store / "wine" / str(broken))
        while not any(f"wine/{broken}" in line for line in served.errors):
            load.wait_for(1)
    good = publish(store, 3)
    wait_for_version(load, good)
    answers = load.stop()
    assert {answer.code for answer in answers} == {"OK"}
    assert check_right(load, store, answers) == {"1", str(good)}
    assert good == len(DAMAGES) + 2
