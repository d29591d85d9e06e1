"""Versions come, go and turn out to be broken under load: nothing is lost, and each answer is some version's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from load import Load, check_right
from publishing import publish

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
