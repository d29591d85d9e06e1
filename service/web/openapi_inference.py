"""The part of the OpenAPI document that is about the Open Inference Protocol, ``/v2``."""

from __future__ import annotations

from typing import Any

_Json = dict[str, Any]


def _object(required: list[str], **properties: _Json) -> _Json:
    return {"type": "object"} | ({"required": required} if required else {}) | {"properties": properties}


def _list(items: _Json) -> _Json:
    return {"type": "array", "items": items}


def _reference(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: _Json) -> _Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_TEXT: _Json = {"type": "string"}
_SHAPE = _list({"type": "integer"})
_DATA: _Json = {"type": "array", "items": {}, "description": "The elements, flat or nested; NaN as a string."}
_PARAMETERS: _Json = {"type": "object", "additionalProperties": True}

SCHEMAS: _Json = {
    "InferenceServer": _object(["name", "version", "extensions"], name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    "InferenceModel": _object(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_reference("InferenceTensorDescription")),
        outputs=_list(_reference("InferenceTensorDescription")),
    ),
    "InferenceTensorDescription": _object(["name", "datatype", "shape"], name=_TEXT, datatype=_TEXT, shape=_SHAPE),
    "InferenceRequest": _object(
        [],
        id=_TEXT,
        parameters=_PARAMETERS | {"description": "count, seed and start, to draw samples; binary_data_output."},
        inputs=_list(_reference("InferenceInput"))
        | {"description": "rows [N, D] and, for a conditional model, context; or count, seed and start, [1] each."},
        outputs=_list(_object(["name"], name=_TEXT, parameters=_PARAMETERS))
        | {"description": "log_prob; of samples also samples and seed. All of them when this is missing."},
    )
    | {"additionalProperties": False},
    "InferenceInput": _object(
        ["name", "datatype", "shape"],
        name=_TEXT,
        datatype=_TEXT | {"description": "FP32 or FP64; whole numbers and FP16 are taken too."},
        shape=_SHAPE,
        parameters=_PARAMETERS | {"description": "binary_data_size, when the elements follow the JSON."},
        data=_DATA,
    ),
    "InferenceResponse": _object(
        ["model_name", "model_version", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS
        | {"description": "row_errors and first_row_error, when rows have no answer and their log_prob is NaN."},
        outputs=_list(
            _object(
                ["name", "datatype", "shape"],
                name=_TEXT,
                datatype=_TEXT,
                shape=_SHAPE,
                parameters=_PARAMETERS,
                data=_DATA,
            )
        ),
    ),
    "InferenceReady": _object([], live={"type": "boolean"}, ready={"type": "boolean"}, name=_TEXT),
    "InferenceError": _object(["error"], error=_TEXT | {"description": "What was given, expected, and what to do."}),
}

_FAILURES = {
    "400": "Bad shape, type, width, count, input or output.",
    "404": "Unknown model or version.",
    "413": "The body is longer than max_request_bytes.",
    "415": "A Content-Encoding that is not read here.",
    "429": "The queue is full; Retry-After says when to come back.",
    "500": "The model failed.",
    "503": "The engine is away, or the service starts or stops.",
    "504": "The deadline passed first.",
}


def _failures(*codes: str) -> _Json:
    return {code: _answer(_FAILURES[code], _reference("InferenceError")) for code in codes}


def _get(operation: str, summary: str, parameters: list[_Json], **responses: _Json) -> _Json:
    answers = {code.removeprefix("_"): answer for code, answer in responses.items()}
    return {
        "get": {
            "operationId": operation,
            "tags": ["open inference"],
            "summary": summary,
            "parameters": parameters,
            "responses": answers,
        }
    }


def _infer(operation: str, parameters: list[_Json], headers: list[_Json]) -> _Json:
    length: _Json = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Bytes of the body that are JSON, where raw elements follow them.",
        "schema": {"type": "integer", "minimum": 0},
    }
    binary: _Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    example = {"inputs": [{"name": "rows", "datatype": "FP64", "shape": [1, 2], "data": [0.1, 0.2]}]}
    return {
        "post": {
            "operationId": operation,
            "tags": ["open inference"],
            "summary": "Log-densities of rows, or samples",
            "description": "With the binary tensor extension, elements follow the JSON, row-major and little-endian.",
            "parameters": [*parameters, *headers, length],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _reference("InferenceRequest"), "example": example}}
                | binary,
            },
            "responses": {
                "200": {
                    "description": "The tensors.",
                    "headers": {
                        "Inference-Header-Content-Length": {
                            "description": "Bytes that are JSON, where raw elements follow them.",
                            "schema": {"type": "integer"},
                        }
                    },
                    "content": {"application/json": {"schema": _reference("InferenceResponse")}} | binary,
                },
                **_failures("400", "404", "413", "415", "429", "500", "503", "504"),
            },
        }
    }


def inference_paths(model: _Json, version: _Json, headers: list[_Json]) -> _Json:
    """The paths under ``/v2``.

    Args:
        model: the parameter in a path that names a model.
        version: the one that names a version.
        headers: those of a request that are the same everywhere.
    """
    ready = _reference("InferenceReady")
    described = _answer("The model.", _reference("InferenceModel"))
    missing = {f"_{code}": answer for code, answer in _failures("404", "503").items()}
    not_ready = {f"_{code}": _answer("Not now.", ready) for code in ("404", "503")}
    paths: _Json = {
        "/v2": _get(
            "inferenceServer", "What the server is", [], _200=_answer("The server.", _reference("InferenceServer"))
        ),
        "/v2/health/live": _get("inferenceLive", "Alive", [], _200=_answer("The process lives.", ready)),
        "/v2/health/ready": _get(
            "inferenceReady",
            "Ready",
            [],
            _200=_answer("At least one model can be asked.", ready),
            _503=_answer("Not now.", ready),
        ),
    }
    for suffix, parameters, of in (("", [model], ""), ("/versions/{version}", [model, version], "Version")):
        path = f"/v2/models/{{model}}{suffix}"
        paths[path] = _get(f"inferenceModel{of}", "What a model takes", parameters, _200=described, **missing)
        paths[f"{path}/ready"] = _get(
            f"inferenceModel{of}Ready",
            "Whether a model can be asked",
            parameters,
            _200=_answer("It can.", ready),
            **not_ready,
        )
        paths[f"{path}/infer"] = _infer(f"infer{of}", parameters, headers)
    return paths
