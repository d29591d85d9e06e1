"""The OpenAPI document of the HTTP server, written by hand.

OpenAPI 3.0: the Swagger UI that is packaged for Python cannot show 3.1.
"""

from __future__ import annotations

from typing import Any

from service.web.openapi_inference import SCHEMAS as INFERENCE_SCHEMAS
from service.web.openapi_inference import inference_paths

_Json = dict[str, Any]

_NUMBER: _Json = {
    "oneOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}],
    "description": "What is not finite is a string, since JSON has no numbers for it.",
}
_ROWS: _Json = {
    "type": "array",
    "minItems": 1,
    "description": "[N, D], or nested by the event shape.",
    "items": {"type": "array", "items": {"$ref": "#/components/schemas/Number"}},
}
_CONTEXT = _ROWS | {"description": "For a conditional model, [N, C], or [1, C] for one context shared by all."}
_BINARY: _Json = {"schema": {"type": "string", "format": "binary"}}
_CSV: _Json = {"schema": {"type": "string"}}
_TABLES: _Json = {
    "text/csv": _CSV,
    "application/x-ndjson": _CSV,
    "application/octet-stream": _BINARY,
    "application/x-npy": _BINARY,
    "application/vnd.apache.arrow.stream": _BINARY,
}


def _object(required: list[str], **properties: _Json) -> _Json:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: _Json, description: str = "") -> _Json:
    return {"type": "array", "items": items} | ({"description": description} if description else {})


def _reference(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json_content(name: str) -> _Json:
    return {"application/json": {"schema": _reference(name)}}


def _text(description: str = "") -> _Json:
    return {"type": "string"} | ({"description": description} if description else {})


def _header(description: str, kind: str = "string") -> _Json:
    return {"description": description, "schema": {"type": kind}}


_SCHEMAS: _Json = {
    "Number": _NUMBER,
    "LogProbRequest": _object(["rows"], rows=_ROWS, context=_CONTEXT) | {"additionalProperties": False},
    "LogProbResponse": _object(
        ["model", "version", "log_prob"],
        model=_text(),
        version=_text(),
        log_prob=_list(
            _reference("Number"),
            "[N], natural log in the data's units; -Infinity outside the support, NaN where row_errors says why.",
        ),
        row_errors=_list(_reference("RowError"), "Present when a row has no answer; the first 10,000 are described."),
    ),
    "RowError": _object(
        ["row", "reason", "message"],
        row={"type": "integer", "description": "Index of the row, from 0."},
        reason=_text("NON_FINITE_VALUE, MALFORMED_ROW or NO_DENSITY."),
        message=_text(),
    ),
    "SampleRequest": _object(
        ["count"],
        count={"type": "integer", "minimum": 1, "description": "How many samples."},
        seed={"type": "integer", "minimum": 0, "description": "Same seed, same rows; drawn by the server if absent."},
        start={"type": "integer", "minimum": 0, "default": 0, "description": "Index in the seed's stream to begin at."},
        context=_CONTEXT,
        with_log_prob={"type": "boolean", "default": False},
    )
    | {"additionalProperties": False},
    "SampleResponse": _object(
        ["model", "version", "seed", "samples"],
        model=_text(),
        version=_text(),
        seed={"type": "integer"},
        samples=_ROWS | {"description": "[count, *event_shape]"},
        log_prob=_list(_reference("Number"), "[count], when with_log_prob was true."),
    ),
    "Model": _object(
        ["name", "default_version", "versions"],
        name=_text(),
        default_version=_text("Answers when no version is named: the newest one loaded."),
        versions=_list(_reference("ModelVersion"), "Newest first."),
    ),
    "ModelVersion": _object(
        ["version", "create_time", "data_type", "event_shape", "feature_names", "context_shape", "context_names"],
        version=_text(),
        create_time={"type": "string", "format": "date-time"},
        data_type={"type": "string", "enum": ["float32", "float64"]},
        event_shape=_list({"type": "integer"}),
        feature_names=_list({"type": "string"}),
        context_shape=_list({"type": "integer"}),
        context_names=_list({"type": "string"}),
        held_out_nll={"type": "number", "description": "Mean negative log-likelihood of held-out rows, nats per row."},
        reference_log_prob=_object(
            ["probabilities", "log_prob", "rows"],
            probabilities=_list({"type": "number"}),
            log_prob=_list({"type": "number"}),
            rows={"type": "integer"},
        )
        | {"description": "Quantiles of the log-density of held-out rows."},
    ),
    "ModelList": _object(
        ["models", "next_page_token"],
        models=_list(_reference("Model")),
        next_page_token=_text("Empty on the last page."),
    ),
    "Error": _object(
        ["error"],
        error=_object(
            ["code", "status", "message", "details"],
            code={"type": "integer", "description": "The HTTP status."},
            status=_text("Name of the gRPC status code."),
            message=_text("What was given, what was expected, what to do."),
            details=_list(
                {"type": "object", "additionalProperties": True},
                "google.rpc.ErrorInfo with the reason, and BadRequest, ResourceInfo or RetryInfo.",
            ),
        ),
    ),
    "Health": _object(
        ["status"],
        status=_text(),
        reason=_text("Why the service is not ready."),
        models=_list({"type": "string"}, "Models that answer."),
    ),
}

_FAILURES = {
    "400": "Bad shape, type, width or count; the wrong fields are named.",
    "401": "No token, or an unknown one, where the service asks for one; WWW-Authenticate says how.",
    "403": "The token is not good for this; WWW-Authenticate names the scope it lacks.",
    "404": "Unknown model or version.",
    "406": "No answer can be written in a type that Accept allows.",
    "413": "The body is longer than max_request_bytes.",
    "415": "A Content-Type that is not read here.",
    "429": "The queue is full; Retry-After says when to come back.",
    "500": "The model failed.",
    "503": "The engine is away, or the service starts or stops; Retry-After says when to come back.",
    "504": "The deadline passed first.",
}


def _failures(*codes: str) -> _Json:
    return {code: {"description": _FAILURES[code], "content": _json_content("Error")} for code in codes}


def _path_parameter(name: str, description: str) -> _Json:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


_MODEL = _path_parameter("model", "Name of a published model.")
_VERSION = _path_parameter("version", "A loaded version, in decimal digits.")
_TIMEOUT: _Json = {
    "name": "Request-Timeout",
    "in": "header",
    "description": "Seconds the answer may take; default_timeout_seconds without it.",
    "schema": {"type": "number", "exclusiveMinimum": True, "minimum": 0},
}
_REQUEST_ID: _Json = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "What the caller calls this request, up to 128 printable ASCII characters; made here without one. "
    "The answer repeats it, and the log shows it.",
    "schema": {"type": "string", "maxLength": 128},
}
_ANSWERED_BY: _Json = {
    "X-Request-ID": _header("The request's id."),
    "Density-Model": _header("The model that answered."),
    "Density-Version": _header("The version that answered."),
}


def _log_prob(operation: str, *parameters: _Json) -> _Json:
    return {
        "post": {
            "operationId": operation,
            "tags": ["density"],
            "summary": "Natural log-density of each row",
            "description": "The answer comes in the type that Accept asks for, else in the request's own. A body "
            "longer than max_request_bytes, or chunked, is read, scored and answered block by block: all types but "
            "JSON are read so, all but JSON and NPY are written so. Content-Encoding may be gzip or deflate.",
            "parameters": [*parameters, _TIMEOUT, _REQUEST_ID],
            "requestBody": {
                "required": True,
                "content": _json_content("LogProbRequest")
                | _TABLES
                | {
                    "text/csv": _CSV | {"example": "feature_a,feature_b\n0.1,0.2\n"},
                    "application/x-ndjson": _CSV | {"example": '[0.1, 0.2]\n{"feature_a": 0.1, "feature_b": 0.2}\n'},
                },
            },
            "responses": {
                "200": {
                    "description": "Log-densities. As CSV and Arrow, columns log_prob and error; as NDJSON, an object "
                    "on each line; as octets, float32; as NPY, one array.",
                    "headers": _ANSWERED_BY
                    | {
                        "Density-Row-Errors": _header(
                            "Rows described as bad; missing when the answer is streamed.", "integer"
                        )
                    },
                    "content": _json_content("LogProbResponse") | _TABLES,
                },
                **_failures("400", "401", "403", "404", "406", "413", "415", "429", "500", "503", "504"),
            },
        }
    }


def _sample(operation: str, *parameters: _Json) -> _Json:
    return {
        "post": {
            "operationId": operation,
            "tags": ["density"],
            "summary": "Samples of a model",
            "parameters": [*parameters, _TIMEOUT, _REQUEST_ID],
            "requestBody": {"required": True, "content": _json_content("SampleRequest")},
            "responses": {
                "200": {
                    "description": "Samples. As CSV and Arrow, a column for each feature; as NDJSON, an object on each "
                    "line; as octets, little-endian float32; as NPY, one array. with_log_prob adds a last column.",
                    "headers": _ANSWERED_BY | {"Density-Seed": _header("The seed that was used.", "integer")},
                    "content": _json_content("SampleResponse") | _TABLES,
                },
                **_failures("400", "401", "403", "404", "406", "413", "415", "429", "500", "503", "504"),
            },
        }
    }


def _get(operation: str, tag: str, summary: str, *parameters: _Json, **responses: _Json) -> _Json:
    answers = {code.removeprefix("_"): answer for code, answer in responses.items()}
    return {
        "get": {
            "operationId": operation,
            "tags": [tag],
            "summary": summary,
            "parameters": list(parameters),
            "responses": answers,
        }
    }


def _answer(description: str, content: _Json) -> _Json:
    return {"description": description, "content": content}


_GET_FAILURES = {f"_{code}": answer for code, answer in _failures("401", "404", "503").items()}
_ONE_MODEL = _answer("The model.", _json_content("Model"))

DOCUMENT: _Json = {
    "openapi": "3.0.3",
    "info": {
        "title": "Density service",
        "version": "v1",
        "description": "Exact log-densities and samples of published normalizing flows. The same over gRPC: "
        "density.v1.DensityService.",
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
    },
    "servers": [{"url": "."}],
    "paths": {
        "/v1/models/{model}:logProb": _log_prob("logProb", _MODEL),
        "/v1/models/{model}/versions/{version}:logProb": _log_prob("logProbOfVersion", _MODEL, _VERSION),
        "/v1/models/{model}:sample": _sample("sample", _MODEL),
        "/v1/models/{model}/versions/{version}:sample": _sample("sampleOfVersion", _MODEL, _VERSION),
        "/v1/models": _get(
            "listModels",
            "models",
            "Every model that answers now",
            {"name": "page_size", "in": "query", "schema": {"type": "integer", "minimum": 0, "default": 100}},
            {"name": "page_token", "in": "query", "schema": {"type": "string"}},
            _200=_answer("The models, by name.", _json_content("ModelList")),
            _400=_failures("400")["400"],
            _401=_failures("401")["401"],
        ),
        "/v1/models/{model}": _get("getModel", "models", "A model", _MODEL, _200=_ONE_MODEL, **_GET_FAILURES),
        "/v1/models/{model}/versions/{version}": _get(
            "getModelVersion", "models", "One version of a model", _MODEL, _VERSION, _200=_ONE_MODEL, **_GET_FAILURES
        ),
        **inference_paths(_MODEL, _VERSION, [_TIMEOUT, _REQUEST_ID]),
        "/healthz": _get("healthz", "operation", "Alive", _200=_answer("The process lives.", _json_content("Health"))),
        "/readyz": _get(
            "readyz",
            "operation",
            "Ready",
            _200=_answer("At least one model can be asked.", _json_content("Health")),
            _503=_answer("Not now; the reason is given.", _json_content("Health")),
        ),
        "/metrics": _get(
            "metrics",
            "operation",
            "Metrics for Prometheus",
            _200=_answer("Prometheus text, or OpenMetrics when Accept asks for it.", {"text/plain": _CSV}),
            _401=_failures("401")["401"],
        ),
    },
    "security": [{}, {"token": []}],
    "components": {
        "schemas": _SCHEMAS | INFERENCE_SCHEMAS,
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Asked for where the service has a token_file.",
            }
        },
    },
}
