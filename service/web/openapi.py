"""The OpenAPI document of the HTTP server, written by hand.

OpenAPI 3.0: the Swagger UI that is packaged for Python cannot show 3.1.
"""

from __future__ import annotations

from service.web.openapi_inference import SCHEMAS as INFERENCE_SCHEMAS
from service.web.openapi_inference import inference_paths
from service.web.openapi_parts import (
    ERROR,
    Json,
    answer,
    answers,
    get,
    json_content,
    list_of,
    object_of,
    path_parameter,
    reference,
    text,
)

_NUMBER: Json = {
    "oneOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}],
    "description": "What is not finite is a string, since JSON has no numbers for it.",
}
_ROWS: Json = {
    "type": "array",
    "minItems": 1,
    "description": "[N, D], or nested by the event shape.",
    "items": {"type": "array", "items": {"$ref": "#/components/schemas/Number"}},
}
_CONTEXT = _ROWS | {"description": "For a conditional model, [N, C], or [1, C] for one context shared by all."}
_BINARY: Json = {"schema": {"type": "string", "format": "binary"}}
_CSV: Json = {"schema": {"type": "string"}}
_TABLES: Json = {
    "text/csv": _CSV,
    "application/x-ndjson": _CSV,
    "application/octet-stream": _BINARY,
    "application/x-npy": _BINARY,
    "application/vnd.apache.arrow.stream": _BINARY,
}


def _header(description: str, kind: str = "string") -> Json:
    return {"description": description, "schema": {"type": kind}}


_SCHEMAS: Json = {
    "Number": _NUMBER,
    "LogProbRequest": object_of(["rows"], rows=_ROWS, context=_CONTEXT) | {"additionalProperties": False},
    "LogProbResponse": object_of(
        ["model", "version", "log_prob"],
        model=text(),
        version=text(),
        log_prob=list_of(
            reference("Number"),
            "[N], natural log in the data's units; -Infinity outside the support, NaN where row_errors says why.",
        ),
        row_errors=list_of(reference("RowError"), "Present when a row has no answer; the first 10,000 are described."),
    ),
    "RowError": object_of(
        ["row", "reason", "message"],
        row={"type": "integer", "description": "Index of the row, from 0."},
        reason=text("NON_FINITE_VALUE, MALFORMED_ROW or NO_DENSITY."),
        message=text(),
    ),
    "SampleRequest": object_of(
        ["count"],
        count={"type": "integer", "minimum": 1, "description": "How many samples."},
        seed={"type": "integer", "minimum": 0, "description": "Same seed, same rows; drawn by the server if absent."},
        start={"type": "integer", "minimum": 0, "default": 0, "description": "Index in the seed's stream to begin at."},
        context=_CONTEXT,
        with_log_prob={"type": "boolean", "default": False},
    )
    | {"additionalProperties": False},
    "SampleResponse": object_of(
        ["model", "version", "seed", "samples"],
        model=text(),
        version=text(),
        seed={"type": "integer"},
        samples=_ROWS | {"description": "[count, *event_shape]"},
        log_prob=list_of(reference("Number"), "[count], when with_log_prob was true."),
    ),
    "Model": object_of(
        ["name", "default_version", "versions"],
        name=text(),
        default_version=text("Answers when no version is named: the newest one loaded."),
        versions=list_of(reference("ModelVersion"), "Newest first."),
    ),
    "ModelVersion": object_of(
        ["version", "create_time", "data_type", "event_shape", "feature_names", "context_shape", "context_names"],
        version=text(),
        create_time={"type": "string", "format": "date-time"},
        data_type={"type": "string", "enum": ["float32", "float64"]},
        event_shape=list_of({"type": "integer"}),
        feature_names=list_of({"type": "string"}),
        context_shape=list_of({"type": "integer"}),
        context_names=list_of({"type": "string"}),
        held_out_nll={"type": "number", "description": "Mean negative log-likelihood of held-out rows, nats per row."},
        reference_log_prob=object_of(
            ["probabilities", "log_prob", "rows"],
            probabilities=list_of({"type": "number"}),
            log_prob=list_of({"type": "number"}),
            rows={"type": "integer"},
        )
        | {"description": "Quantiles of the log-density of held-out rows."},
    ),
    "ModelList": object_of(
        ["models", "next_page_token"],
        models=list_of(reference("Model")),
        next_page_token=text("Empty on the last page."),
    ),
    "Error": ERROR,
    "Health": object_of(
        ["status"],
        status=text(),
        reason=text("Why the service is not ready."),
        models=list_of({"type": "string"}, "Models that answer."),
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


def _failures(*codes: str) -> Json:
    return answers(_FAILURES, "Error", *codes)


_MODEL = path_parameter("model", "Name of a published model.")
_VERSION = path_parameter("version", "A loaded version, in decimal digits.")
_TIMEOUT: Json = {
    "name": "Request-Timeout",
    "in": "header",
    "description": "Seconds the answer may take; default_timeout_seconds without it.",
    "schema": {"type": "number", "exclusiveMinimum": True, "minimum": 0},
}
_REQUEST_ID: Json = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "What the caller calls this request, up to 128 printable ASCII characters; without one, or with "
    "another, it is made here. The answer repeats it, and the log shows it.",
    "schema": {"type": "string"},
}
_ANSWERED_BY: Json = {
    "X-Request-ID": _header("The request's id."),
    "Density-Model": _header("The model that answered."),
    "Density-Version": _header("The version that answered."),
}


def _log_prob(operation: str, *parameters: Json) -> Json:
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
                "content": json_content("LogProbRequest")
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
                    "content": json_content("LogProbResponse") | _TABLES,
                },
                **_failures("400", "401", "403", "404", "406", "413", "415", "429", "500", "503", "504"),
            },
        }
    }


def _sample(operation: str, *parameters: Json) -> Json:
    return {
        "post": {
            "operationId": operation,
            "tags": ["density"],
            "summary": "Samples of a model",
            "parameters": [*parameters, _TIMEOUT, _REQUEST_ID],
            "requestBody": {"required": True, "content": json_content("SampleRequest")},
            "responses": {
                "200": {
                    "description": "Samples. As CSV and Arrow, a column for each feature; as NDJSON, an object on each "
                    "line; as octets, little-endian float32; as NPY, one array. with_log_prob adds a last column.",
                    "headers": _ANSWERED_BY | {"Density-Seed": _header("The seed that was used.", "integer")},
                    "content": json_content("SampleResponse") | _TABLES,
                },
                **_failures("400", "401", "403", "404", "406", "413", "415", "429", "500", "503", "504"),
            },
        }
    }


_ONE_MODEL = {"200": answer("The model.", "Model"), **_failures("401", "404", "503")}

DOCUMENT: Json = {
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
        "/v1/models": get(
            "listModels",
            "models",
            "Every model that answers now",
            [
                {"name": "page_size", "in": "query", "schema": {"type": "integer", "minimum": 0, "default": 100}},
                {"name": "page_token", "in": "query", "schema": {"type": "string"}},
            ],
            {"200": answer("The models, by name.", "ModelList"), **_failures("400", "401")},
        ),
        "/v1/models/{model}": get("getModel", "models", "A model", [_MODEL], _ONE_MODEL),
        "/v1/models/{model}/versions/{version}": get(
            "getModelVersion", "models", "One version of a model", [_MODEL, _VERSION], _ONE_MODEL
        ),
        **inference_paths(_MODEL, _VERSION, [_TIMEOUT, _REQUEST_ID]),
        "/healthz": get("healthz", "operation", "Alive", [], {"200": answer("The process lives.", "Health")}),
        "/readyz": get(
            "readyz",
            "operation",
            "Ready",
            [],
            {
                "200": answer("At least one model can be asked.", "Health"),
                "503": answer("Not now; the reason is given.", "Health"),
            },
        ),
        "/metrics": get(
            "metrics",
            "operation",
            "Metrics for Prometheus",
            [],
            {
                "200": {
                    "description": "Prometheus text, or OpenMetrics when Accept asks for it.",
                    "content": {"text/plain": _CSV},
                },
                **_failures("401"),
            },
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
