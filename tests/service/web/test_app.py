"""The HTTP routes that are not about rows: models, health, metrics, documentation."""

from __future__ import annotations

import re
from typing import Any

import httpx
import openapi_spec_validator
import plain_http
import pytest
from conftest import Running, Start
from gates import engine_held, in_background, wait_for_call, wait_for_queue
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.client import DensityClient
from service.web.openapi import DOCUMENT


def test_models_are_listed_by_name(wine: Running) -> None:
    answer = plain_http.get(f"{wine.http}/v1/models").json()
    assert [model["name"] for model in answer["models"]] == ["pair", "wine"]
    assert answer["next_page_token"] == ""


def test_models_are_listed_in_pages(wine: Running) -> None:
    first = plain_http.get(f"{wine.http}/v1/models", params={"page_size": 1}).json()
    second = plain_http.get(
        f"{wine.http}/v1/models", params={"page_size": 1, "page_token": first["next_page_token"]}
    ).json()
    assert [model["name"] for model in first["models"] + second["models"]] == ["pair", "wine"]
    assert second["next_page_token"] == ""
    assert plain_http.get(f"{wine.http}/v1/models", params={"page_size": "x"}).status_code == 400


def test_a_model_is_described(wine: Running) -> None:
    model = plain_http.get(f"{wine.http}/v1/models/wine").json()
    assert (model["name"], model["default_version"]) == ("wine", "2")
    assert [version["version"] for version in model["versions"]] == ["2", "1"]
    newest = model["versions"][0]
    assert newest["feature_names"] == ["alpha", "beta", "gamma"]
    assert (newest["event_shape"], newest["data_type"]) == ([3], "float32")
    assert len(newest["reference_log_prob"]["log_prob"]) == len(newest["reference_log_prob"]["probabilities"])
    one = plain_http.get(f"{wine.http}/v1/models/wine/versions/1").json()
    assert [version["version"] for version in one["versions"]] == ["1"]


def test_health(wine: Running) -> None:
    assert plain_http.get(f"{wine.http}/healthz").json() == {"status": "alive"}
    assert plain_http.get(f"{wine.http}/readyz").json() == {"status": "ready", "models": ["pair", "wine"]}


def test_a_service_without_models_lives_but_is_not_ready(start: Start) -> None:
    service = start()
    assert plain_http.get(f"{service.http}/healthz").status_code == 200
    answer = plain_http.get(f"{service.http}/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "no model in the store yet")


def test_metrics_count_grpc_and_http_alike_and_parse(wine: Running) -> None:
    labels = {"method": "LogProb", "code": "OK", "model": "wine", "version": "2"}
    before = wine.metric("density_requests_total", **labels)
    plain_http.post(f"{wine.http}/v1/models/wine:logProb", json={"rows": [[1, 2, 3]]})
    with DensityClient(wine.grpc) as client:
        client.log_prob("wine", [[1, 2, 3]])
    plain_http.post(f"{wine.http}/v1/models/no-{id(wine)}:logProb", json={"rows": [[1, 2, 3]]})
    answer = plain_http.get(f"{wine.http}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = {tuple(sorted(sample.labels.items())): sample.value for sample in families["density_requests"].samples}
    assert requests[tuple(sorted(labels.items()))] == before + 2
    missed = {"method": "LogProb", "code": "NOT_FOUND", "model": "_OTHER", "version": ""}
    assert requests[tuple(sorted(missed.items()))] >= 1
    assert f"no-{id(wine)}" not in answer.text
    for name in (
        "density_request_duration_seconds",
        "density_rows",
        "density_batch_rows",
        "density_queue_rows",
        "density_queue_wait_seconds",
        "density_inflight_requests",
        "density_engine_duration_seconds",
        "density_rejected",
        "density_model_info",
        "density_log_prob",
    ):
        assert families[name].samples, name


def test_metrics_come_as_openmetrics_when_asked(wine: Running) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    answer = plain_http.get(f"{wine.http}/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(answer.text)}
    assert {"density_requests", "density_log_prob"} <= names


def test_log_densities_are_counted_in_the_models_own_buckets(start: Start, published: Any) -> None:
    service = start(published)
    plain_http.post(f"{service.http}/v1/models/wine:logProb", json={"rows": [[0, 0, 0], [1e6, 0, 0], ["NaN", 0, 0]]})
    families = text_string_to_metric_families(plain_http.get(f"{service.http}/metrics").text)
    (histogram,) = (family for family in families if family.name == "density_log_prob")
    buckets = {s.labels["le"]: s.value for s in histogram.samples if s.labels["version"] == "2"}
    reference = plain_http.get(f"{service.http}/v1/models/wine").json()["versions"][0]["reference_log_prob"]["log_prob"]
    assert [float(bound) for bound in buckets][:-1] == sorted(set(reference))
    values = list(buckets.values())
    assert values == sorted(values)
    assert (values[0], values[-1]) == (1, 2), "the far row is below every quantile, the NaN is counted nowhere"


def test_the_documentation_is_served_without_another_host(wine: Running) -> None:
    page = plain_http.get(f"{wine.http}/", follow_redirects=True)
    assert page.url.path == "/docs"
    assert "//" not in re.sub(r"<!.*?>", "", page.text)
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert plain_http.get(f"{wine.http}/{address}").status_code == 200
    assert plain_http.get(f"{wine.http}/openapi.json").json() == DOCUMENT


def test_every_route_is_documented_and_every_documented_one_is_there(wine: Running) -> None:
    undocumented = {"/openapi.json", "/docs", "/docs/assets", "/"}
    routes = {re.sub(r":resource(?=\})", "", route.path) for route in wine.service._web.app.routes} - undocumented
    assert routes == set(DOCUMENT["paths"])


def test_the_document_is_valid_openapi() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_references_of_the_document_lead_somewhere() -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for item in value.values() for found in references(item)]
        return [found for item in value for found in references(item)] if isinstance(value, list) else []

    names = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
    assert names <= set(DOCUMENT["components"]["schemas"])


def test_an_answer_has_the_fields_that_the_document_promises(wine: Running) -> None:
    bodies = {
        "LogProbResponse": plain_http.post(f"{wine.http}/v1/models/wine:logProb", json={"rows": [["NaN", 2, 3]]}),
        "SampleResponse": plain_http.post(
            f"{wine.http}/v1/models/wine:sample", json={"count": 1, "with_log_prob": True}
        ),
        "Model": plain_http.get(f"{wine.http}/v1/models/wine"),
        "ModelList": plain_http.get(f"{wine.http}/v1/models"),
        "Error": plain_http.get(f"{wine.http}/v1/models/beer"),
        "Health": plain_http.get(f"{wine.http}/readyz"),
        "InferenceServer": plain_http.get(f"{wine.http}/v2"),
        "InferenceModel": plain_http.get(f"{wine.http}/v2/models/wine"),
        "InferenceReady": plain_http.get(f"{wine.http}/v2/models/wine/ready"),
        "InferenceResponse": plain_http.post(f"{wine.http}/v2/models/wine/infer", json={"parameters": {"count": 1}}),
        "InferenceError": plain_http.get(f"{wine.http}/v2/models/beer"),
    }
    for name, answer in bodies.items():
        schema = DOCUMENT["components"]["schemas"][name]
        assert set(schema.get("required", ())) <= set(answer.json()) <= set(schema["properties"]), name


@pytest.mark.parametrize("operation", ["logProb", "sample"])
def test_a_deadline_that_passes_is_504(start: Start, published: Any, operation: str) -> None:
    service = start(published, faults=True)
    body = {"rows": [[1, 2, 3]]} if operation == "logProb" else {"count": 1}
    with engine_held(service):
        url = f"{service.http}/v1/models/wine:{operation}"
        answer = plain_http.post(url, json=body, headers={"Request-Timeout": "0.05"})
    assert answer.status_code == 504
    assert answer.json()["error"]["status"] == "DEADLINE_EXCEEDED"


def test_a_full_queue_is_429_with_retry_after(start: Start, published: Any) -> None:
    service = start(published, faults=True, max_queue_rows=1, max_engine_calls=1)

    def ask() -> httpx.Response:
        return plain_http.post(f"{service.http}/v1/models/wine:logProb", json={"rows": [[1, 2, 3]]})

    with engine_held(service):
        computing = in_background(ask)
        wait_for_call(service)
        waiting = in_background(ask)
        wait_for_queue(service, 1)
        refused = ask()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert [future.result(10).status_code for future in (computing, waiting)] == [200, 200]
    assert service.metric("density_rejected_total", reason="queue_full") == 1


def test_a_client_that_goes_away_leaves_the_queue(start: Start, published: Any) -> None:
    service = start(published, faults=True, max_engine_calls=1)
    url = f"{service.http}/v1/models/wine:logProb"
    with engine_held(service):
        computing = in_background(lambda: plain_http.post(url, json={"rows": [[1, 2, 3]]}))
        wait_for_call(service)
        with pytest.raises(httpx.ReadTimeout):
            plain_http.post(url, json={"rows": [[1, 2, 3]] * 7}, timeout=httpx.Timeout(5, read=0.2))
        wait_for_queue(service, 0)
    assert computing.result(10).status_code == 200
    assert 7 not in service.service.engine.calls
    assert service.metric("density_rejected_total", reason="cancelled") == 1


def test_a_sick_engine_is_not_ready(start: Start, published: Any) -> None:
    service = start(published, faults=True)
    service.service.engine.sick = True
    answer = plain_http.get(f"{service.http}/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the inprocess engine is not well")
