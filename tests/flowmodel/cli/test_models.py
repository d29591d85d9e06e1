"""``flowmodel models``: listing, and choosing the versions that answer."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.cli import main


def publish(store, name, features=("a", "b")):
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    flowmodel.publish(dist.Flow(base, bij.AffineAutoregressive()), store, name, feature_names=features)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    for _ in range(3):
        publish(store, "wine")
    publish(store, "wine", ("a", "c"))
    publish(store, "list")
    return store


@pytest.fixture
def store(published):
    yield published
    for path in published.rglob("serving.json"):
        path.unlink()


def run(store, *arguments):
    return CliRunner().invoke(main, ["models", *map(str, arguments), "--store", str(store)])


def test_listing_says_who_answers(store):
    assert run(store).stdout.splitlines()[2].split()[:4] == ["wine", "4", "default", "(latest)"]
    assert run(store, "wine").stdout == run(store, "list", "wine").stdout
    assert run(store, "list").stdout == run(store).stdout, "a model called list is shown by `models list list`"
    assert len(run(store, "list", "list").stdout.splitlines()) == 2
    lines = run(store, "wine").stdout.splitlines()
    assert lines[0].split()[:3] == ["MODEL", "VERSION", "SERVING"]
    assert "previous" in lines[2]
    assert "no model 'beer'" in run(store, "beer").stderr


def test_default_rollback_and_retire(store):
    assert run(store, "default", "wine", 2).stdout == ("wine: version 2 answers by default (rollback goes to 4)\n")
    assert run(store, "retire", "wine", 4).stdout.endswith("(rollback goes to 3); retired 4\n")
    assert run(store, "rollback", "wine").stdout.startswith("wine: version 3 answers by default")
    refused = run(store, "retire", "wine", 3)
    assert refused.exit_code == 1
    assert "version 3 is the default and answers requests" in refused.stderr
    assert run(store, "retire", "wine", 3, "--force").exit_code == 0
    assert [line.split()[2] for line in run(store, "wine").stdout.splitlines()[1:]] == [
        "retired", "retired", "default", "previous",
    ]  # fmt: skip
    assert run(store, "retire", "wine", 4, "--undo").exit_code == 0
    assert "version 4 answers by default, the newest" in run(store, "default", "wine", "latest").stdout
    assert (store / "wine" / "4" / "manifest.json").is_file(), "directories are never changed"


def test_canary_and_shadow(store):
    run(store, "default", "wine", 1)
    assert "canary 2 gets 0.1 of the requests" in run(store, "canary", "wine", 2, "--weight", 0.1).stdout
    assert "shadow 3" in run(store, "shadow", "wine", 3).stdout
    assert [line.split()[2] for line in run(store, "wine").stdout.splitlines()[1:]] == [
        "previous", "shadow", "canary", "default",
    ]  # fmt: skip
    other = run(store, "canary", "wine", 4)
    assert other.exit_code == 1
    assert "version 4 has feature_names ['a', 'c'], the default version 1 ['a', 'b']" in other.stderr
    assert "canary" not in run(store, "canary", "wine", "none").stdout
    assert "shadow" not in run(store, "shadow", "wine", "none").stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("default", "wine", "newest"), "'newest' given; expected a version such as 3, or latest"),
        (("default", "wine", "0"), "'0' given; expected a version such as 3, or latest"),
        (("default", "wine", 9), "there is no version 9 to be made the default; versions: 1, 2, 3, 4"),
        (("default", "beer", 1), "no model 'beer'"),
        (("rollback", "list"), "there is no earlier default to go back to"),
        (("canary", "wine", 3, "--weight", 2), "weight is 2.0; a number above 0 and at most 1 expected"),
        (("retire", "wine", 3, "--undo"), "version 3 is not retired; retired: none"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(store, arguments, text):
    answer = run(store, *arguments)
    assert answer.exit_code in (1, 2)
    assert text in answer.stderr
    assert not list(store.rglob("serving.json"))


def test_a_broken_file_is_shown_in_the_list_and_refused(store):
    path = store / "wine" / "serving.json"
    path.write_text(json.dumps({"default": "x"}))
    assert "unreadable:" in run(store, "wine").stdout
    assert "serving.json: default holds 'x'" in run(store, "default", "wine", 1).stderr
    assert path.read_text() == '{"default": "x"}'
