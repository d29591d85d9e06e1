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
    flow = dist.Flow(base, bij.AffineAutoregressive())
    with torch.no_grad():
        for parameter in flow.parameters():
            # A flow as it was made is the same each time.
            parameter.add_(0.1 * torch.randn_like(parameter))
    flowmodel.publish(flow, store, name, feature_names=features)


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


def test_score_and_sample_take_the_default_version(store, tmp_path):
    data = tmp_path / "rows.csv"
    data.write_text("a,b,c\n0.5,-1,2\n")

    def answers(*version):
        score = ("score", "wine", str(data), "--store", str(store), *version)
        sample = ("sample", "wine", "--count", "2", "--seed", "1", "--store", str(store), *version)
        results = [CliRunner().invoke(main, command) for command in (score, sample)]
        assert [result.exit_code for result in results] == [0, 0], [result.output for result in results]
        return [result.stdout for result in results]

    newest, second, third = (answers("--version", str(version)) for version in (4, 2, 3))
    assert len({sample for _, sample in (newest, second, third)}) == 3
    assert answers() == newest
    run(store, "default", "wine", 2)
    assert answers() == second
    run(store, "default", "wine", 3)
    run(store, "retire", "wine", 3, "--force")
    assert answers() == second
    assert answers("--version", "3") == third, "a retired version can still be named"


def test_where_no_version_is_the_default_score_says_what_to_do(store, tmp_path):
    data = tmp_path / "rows.csv"
    data.write_text("a,b\n0.5,-1\n")
    score = ["score", "list", str(data), "--store", str(store)]
    run(store, "retire", "list", 1, "--force")
    refused = CliRunner().invoke(main, score)
    assert refused.exit_code == 1
    assert refused.stderr == (
        "Error: no version of 'list' answers by default: all its versions are retired; name one of 1, or make one the "
        "default with `flowmodel models default`\n"
    )
    (store / "list" / "serving.json").write_text('{"default": 7}')
    assert "version 7, its default, is not in the store" in CliRunner().invoke(main, score).stderr
    (store / "list" / "serving.json").write_text('{"default": 1, "retired": [1]}')
    assert "version 1, its default, is retired" in CliRunner().invoke(main, score).stderr
    (store / "list" / "serving.json").write_text("{")
    assert "serving.json: not JSON" in CliRunner().invoke(main, score).stderr
    assert CliRunner().invoke(main, [*score, "--version", "1"]).exit_code == 0
