"""Asks an HTTP server everything that its OpenAPI document allows, and such that it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

MODELS = (None, "wine", "wine", "pair")
"""What stands for a model in a path; for None whatever comes up."""


def no_unforeseen_error(context: schemathesis.CheckContext, response: schemathesis.Response, case: Any) -> None:
    """504 is the answer to a time limit that was sent along; 503 says that the service is not ready, which it is."""
    assert response.status_code < 500 or response.status_code == 504


CHECKS = [
    no_unforeseen_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
    negative_data_rejection,
]
"""Not that what fits the document is always taken: it says nothing of a model's width."""


def operations(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every path with every method of a document."""
    return [(path, method) for path, methods in document["paths"].items() for method in methods]


def keep_to_the_document(
    address: str,
    path: str,
    method: str,
    cases: int,
    *,
    headers: Mapping[str, str] | None = None,
    checks: Sequence[Any] = CHECKS,
) -> None:
    """Ask one operation of a server, and see that its answers are those that the document promises.

    Args:
        address: where the server's ``openapi.json`` is.
        path: of the operation.
        method: of the operation.
        cases: how many requests.
        headers: sent with each.
        checks: what must be true of an answer.
    """
    operation = schemathesis.openapi.from_url(f"{address}/openapi.json")[path][method]

    def of_a_model(case: schemathesis.Case, model: str | None) -> schemathesis.Case:
        if model is not None and "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = model
        return case

    kinds = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    requests = st.one_of(*(operation.as_strategy(generation_mode=kind) for kind in kinds))

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.builds(of_a_model, requests, st.sampled_from(MODELS)))
    def every(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=list(checks), headers=headers)

    every()
