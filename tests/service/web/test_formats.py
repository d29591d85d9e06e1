"""Every content type gives the same numbers as gRPC, on every engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import plain_http
import pytest
from conftest import Loop, Running, Start, running

from service.client import DensityClient
from service.web.formats import FORMATS
from service.web.openapi import DOCUMENT

sys.path.insert(0, str(Path(__file__).parent))

from bodies import read_samples, read_scores, write_rows


@pytest.fixture(scope="module", params=["inprocess", "torchserve"])
def served(request: pytest.FixtureRequest, loop: Loop, published: Path) -> Iterator[Running]:
    """A service on each of the engines."""
    with running(loop, published, engine=request.param, threads=2) as service:
        yield service


def scores(answer: httpx.Response) -> np.ndarray:
    return read_scores(kind(answer), answer.content).log_prob


def kind(answer: httpx.Response) -> str:
    return answer.headers["content-type"].partition(";")[0]


def ask(served: Running, model: str, content: bytes, content_type: str, **headers: str) -> httpx.Response:
    answer = plain_http.post(
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
    answer = ask(served, "wine", write_rows(given, rows), given, Accept=asked_for)
    assert answer.headers["content-type"].partition(";")[0] == asked_for
    assert (answer.headers["density-model"], answer.headers["density-version"]) == ("wine", "2")
    np.testing.assert_array_equal(scores(answer), expected)


@pytest.mark.parametrize("given", FORMATS)
def test_contexts_come_in_every_content_type(served: Running, rows: np.ndarray, given: str) -> None:
    context = rows[:, :2] / 2
    with DensityClient(served.grpc) as client:
        expected = client.log_prob("pair", rows, context)
    np.testing.assert_array_equal(scores(ask(served, "pair", write_rows(given, rows, context), given)), expected)


@pytest.mark.parametrize("asked_for", FORMATS)
def test_samples_are_those_of_grpc_to_the_bit(served: Running, asked_for: str) -> None:
    with DensityClient(served.grpc) as client:
        samples, log_prob = client.sample("wine", 50, seed=7, with_log_prob=True)
    answer = plain_http.post(
        f"{served.http}/v1/models/wine:sample",
        json={"count": 50, "seed": 7, "with_log_prob": True},
        headers={"Accept": asked_for},
    )
    assert answer.headers["density-seed"] == "7"
    np.testing.assert_array_equal(read_samples(kind(answer), answer.content, 4), np.column_stack((samples, log_prob)))


def test_a_seed_is_drawn_and_repeats_the_draw(served: Running) -> None:
    def draw(**order: Any) -> dict[str, Any]:
        return plain_http.post(f"{served.http}/v1/models/wine:sample", json=order).json()

    first = draw(count=5)
    assert draw(count=5, seed=first["seed"])["samples"] == first["samples"]
    assert draw(count=2, seed=first["seed"], start=3)["samples"] == first["samples"][3:]
    assert "log_prob" not in first


def test_a_conditional_model_is_sampled_with_one_context_for_all(served: Running) -> None:
    order = {"count": 4, "seed": 1}
    url = f"{served.http}/v1/models/pair:sample"
    one = plain_http.post(url, json=order | {"context": [[0.5, 1]]}).json()
    each = plain_http.post(url, json=order | {"context": [[0.5, 1]] * 4}).json()
    assert one["samples"] == each["samples"]
    assert len(one["samples"]) == 4


def test_csv_columns_are_matched_by_name(served: Running) -> None:
    straight = scores(ask(served, "wine", b"alpha,beta,gamma\n1,2,3\n", "text/csv"))
    shuffled = b'\xef\xbb\xbfgamma,id,"beta",id,alpha\r\n3,x,2,y,1\r\n'
    np.testing.assert_array_equal(scores(ask(served, "wine", shuffled, "text/csv; charset=utf-8")), straight)
    np.testing.assert_array_equal(scores(ask(served, "wine", b"1,2,3", "text/csv")), straight)


def test_a_table_read_fast_and_one_read_row_by_row_agree(served: Running) -> None:
    rows = np.random.default_rng(1).standard_normal((5000, 3))
    table = write_rows("text/csv", rows)
    fast, slow = (
        scores(ask(served, "wine", table, "text/csv")),
        scores(ask(served, "wine", table + b"1,2\n", "text/csv")),
    )
    np.testing.assert_array_equal(slow[:-1], fast)
    assert np.isnan(slow[-1])


def test_a_number_has_the_same_bits_in_every_type(served: Running) -> None:
    rows = np.full((1, 3), 1e-3, np.float32)
    answers = [scores(ask(served, "wine", write_rows(given, rows), given)) for given in FORMATS]
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
        version: plain_http.post(f"{served.http}/v1/models/wine{version}:logProb", json={"rows": [[1, 2, 3]]}).json()
        for version in ("", "/versions/1", "/versions/2")
    }
    assert [answer["version"] for answer in answers.values()] == ["2", "1", "2"]
    assert answers[""]["log_prob"] == answers["/versions/2"]["log_prob"] != answers["/versions/1"]["log_prob"]


@pytest.mark.parametrize("asked_for", FORMATS)
@pytest.mark.parametrize("given", FORMATS)
def test_bad_rows_and_rows_without_density_keep_their_places(
    start: Start, published: Path, given: str, asked_for: str
) -> None:
    service = start(published, faults=True)
    scorer = service.service.engine.log_prob

    async def outside(key: Any, rows: np.ndarray, context: Any) -> np.ndarray:
        log_prob = np.array(await scorer(key, rows, context))
        log_prob[rows[:, 0] == 7] = -np.inf
        return log_prob

    service.service.engine.log_prob = outside
    rows = np.array([[1, 2, 3], [np.nan, 0, 0], [7, 0, 0], [0, np.inf, 0], [4, 5, 6]], np.float64)
    answer = ask(service, "wine", write_rows(given, rows), given, Accept=asked_for)
    read = read_scores(asked_for, answer.content)
    assert np.isfinite(read.log_prob).tolist() == [True, False, False, False, True]
    assert np.isnan(read.log_prob[[1, 3]]).all()
    assert read.log_prob[2] == -np.inf
    assert answer.headers["density-row-errors"] == "2"
    if read.errors is not None:
        assert [index for index, error in enumerate(read.errors) if error] == [1, 3]
        assert "alpha" in read.errors[1]
        assert "beta" in read.errors[3]


@pytest.mark.parametrize("asked_for", FORMATS)
def test_samples_without_their_log_densities(served: Running, asked_for: str) -> None:
    order = {"count": 6, "seed": 2}
    url, accept = f"{served.http}/v1/models/wine:sample", {"Accept": asked_for}
    with_log_prob = plain_http.post(url, json=order | {"with_log_prob": True}, headers=accept)
    without = plain_http.post(url, json=order, headers=accept)
    both = read_samples(asked_for, with_log_prob.content, 4)
    if asked_for == "application/json":
        np.testing.assert_array_equal(np.array(without.json()["samples"], np.float32), both[:, :3])
        assert "log_prob" not in without.json()
        return
    written = write_rows(asked_for, both[:, :3].astype(np.float32))
    # What a model draws can be given back to it as it is.
    np.testing.assert_array_equal(
        scores(ask(served, "wine", without.content, asked_for)), scores(ask(served, "wine", written, asked_for))
    )


def test_every_content_type_is_documented() -> None:
    for path in ("/v1/models/{model}:logProb", "/v1/models/{model}/versions/{version}:logProb"):
        operation = DOCUMENT["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == set(FORMATS)
        assert set(operation["responses"]["200"]["content"]) == set(FORMATS)
    assert set(DOCUMENT["paths"]["/v1/models/{model}:sample"]["post"]["responses"]["200"]["content"]) == set(FORMATS)
