"""Every content type gives the same numbers as gRPC, on every engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import FEATURES, Loop, Running, running

from service.client import DensityClient
from service.web.formats import FORMATS


@pytest.fixture(scope="module", params=["inprocess", "torchserve"])
def served(request: pytest.FixtureRequest, loop: Loop, published: Path) -> Iterator[Running]:
    """A service on each of the engines."""
    with running(loop, published, engine=request.param, threads=2) as service:
        yield service


def body(content_type: str, rows: np.ndarray, context: np.ndarray | None = None) -> bytes:
    """Rows as a client would write them in a content type."""
    if content_type == "application/json":
        values = {"rows": rows.tolist()} | ({} if context is None else {"context": context.tolist()})
        return json.dumps(values).encode()
    table = rows if context is None else np.column_stack((rows, context))
    if content_type == "text/csv":
        names = [*FEATURES, *(() if context is None else ("left", "right"))]
        return "\n".join([",".join(names), *(",".join(map(repr, row)) for row in table.tolist()), ""]).encode()
    assert content_type == "application/octet-stream", f"no body for {content_type} in this test yet"
    return table.astype("<f4").tobytes()


def scores(answer: httpx.Response) -> np.ndarray:
    """The log-densities of an answer in any content type."""
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "application/json":
        return np.array([float(value) for value in answer.json()["log_prob"]], np.float32)
    if kind == "text/csv":
        header, *lines = answer.text.splitlines()
        assert header == "log_prob,error"
        return np.array([float(line.partition(",")[0]) for line in lines], np.float32)
    return np.frombuffer(answer.content, "<f4")


def ask(served: Running, model: str, content: bytes, content_type: str, **headers: str) -> httpx.Response:
    answer = httpx.post(
        f"{served.http}/v1/models/{model}:logProb",
        content=content,
        headers={"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("asked_for", FORMATS)
@pytest.mark.parametrize("given", FORMATS)
def test_log_densities_are_those_of_grpc_to_the_bit(
    served: Running, rows: np.ndarray, given: str, asked_for: str
) -> None:
    with DensityClient(served.grpc) as client:
        expected = client.log_prob("wine", rows)
    answer = ask(served, "wine", body(given, rows), given, Accept=asked_for)
    assert answer.headers["content-type"].partition(";")[0] == asked_for
    assert (answer.headers["density-model"], answer.headers["density-version"]) == ("wine", "2")
    np.testing.assert_array_equal(scores(answer), expected)


@pytest.mark.parametrize("given", FORMATS)
def test_contexts_come_in_every_content_type(served: Running, rows: np.ndarray, given: str) -> None:
    context = rows[:, :2] / 2
    with DensityClient(served.grpc) as client:
        expected = client.log_prob("pair", rows, context)
    np.testing.assert_array_equal(scores(ask(served, "pair", body(given, rows, context), given)), expected)


def sampled(answer: httpx.Response, width: int) -> np.ndarray:
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "application/json":
        values = answer.json()
        return np.column_stack((values["samples"], values["log_prob"])).astype(np.float32)
    if kind == "text/csv":
        header, *lines = answer.text.splitlines()
        assert header == ",".join([*FEATURES, "log_prob"])
        return np.array([line.split(",") for line in lines], np.float32)
    return np.frombuffer(answer.content, "<f4").reshape(-1, width + 1)


@pytest.mark.parametrize("asked_for", FORMATS)
def test_samples_are_those_of_grpc_to_the_bit(served: Running, asked_for: str) -> None:
    with DensityClient(served.grpc) as client:
        samples, log_prob = client.sample("wine", 50, seed=7, with_log_prob=True)
    answer = httpx.post(
        f"{served.http}/v1/models/wine:sample",
        json={"count": 50, "seed": 7, "with_log_prob": True},
        headers={"Accept": asked_for},
    )
    assert answer.headers["density-seed"] == "7"
    np.testing.assert_array_equal(sampled(answer, 3), np.column_stack((samples, log_prob)))


def test_a_seed_is_drawn_and_repeats_the_draw(served: Running) -> None:
    def draw(**order: Any) -> dict[str, Any]:
        return httpx.post(f"{served.http}/v1/models/wine:sample", json=order).json()

    first = draw(count=5)
    assert draw(count=5, seed=first["seed"])["samples"] == first["samples"]
    assert draw(count=2, seed=first["seed"], start=3)["samples"] == first["samples"][3:]
    assert "log_prob" not in first


def test_a_conditional_model_is_sampled_with_one_context_for_all(served: Running) -> None:
    order = {"count": 4, "seed": 1}
    url = f"{served.http}/v1/models/pair:sample"
    one = httpx.post(url, json=order | {"context": [[0.5, 1]]}).json()
    each = httpx.post(url, json=order | {"context": [[0.5, 1]] * 4}).json()
    assert one["samples"] == each["samples"]
    assert len(one["samples"]) == 4


def test_csv_columns_are_matched_by_name(served: Running) -> None:
    straight = scores(ask(served, "wine", b"alpha,beta,gamma\n1,2,3\n", "text/csv"))
    shuffled = b'\xef\xbb\xbfgamma,id,"beta",id,alpha\r\n3,x,2,y,1\r\n'
    np.testing.assert_array_equal(scores(ask(served, "wine", shuffled, "text/csv; charset=utf-8")), straight)
    np.testing.assert_array_equal(scores(ask(served, "wine", b"1,2,3", "text/csv")), straight)


def test_a_table_read_fast_and_one_read_row_by_row_agree(served: Running) -> None:
    rows = np.random.default_rng(1).standard_normal((5000, 3))
    table = body("text/csv", rows)
    fast, slow = (
        scores(ask(served, "wine", table, "text/csv")),
        scores(ask(served, "wine", table + b"1,2\n", "text/csv")),
    )
    np.testing.assert_array_equal(slow[:-1], fast)
    assert np.isnan(slow[-1])


def test_a_number_has_the_same_bits_in_every_type(served: Running) -> None:
    rows = np.full((1, 3), 1e-3, np.float32)
    answers = [scores(ask(served, "wine", body(given, rows), given)) for given in FORMATS]
    assert len({answer.tobytes() for answer in answers}) == 1


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "text/csv"),
        ("text/*", "text/csv"),
        ("application/json;q=0.5, text/csv;q=0.1", "application/json"),
        ("image/png, application/octet-stream;q=0.2", "application/octet-stream"),
        ("application/json;q=0, */*;q=0.1", "text/csv"),
    ],
)
def test_accept_decides(served: Running, accept: str, expected: str) -> None:
    answer = ask(served, "wine", b"1,2,3\n", "text/csv", Accept=accept)
    assert answer.headers["content-type"].partition(";")[0] == expected


def test_a_version_can_be_named_in_the_path(served: Running) -> None:
    answers = {
        version: httpx.post(f"{served.http}/v1/models/wine{version}:logProb", json={"rows": [[1, 2, 3]]}).json()
        for version in ("", "/versions/1", "/versions/2")
    }
    assert [answer["version"] for answer in answers.values()] == ["2", "1", "2"]
    assert answers[""]["log_prob"] == answers["/versions/2"]["log_prob"] != answers["/versions/1"]["log_prob"]
