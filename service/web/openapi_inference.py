"""The part of the OpenAPI document that is about the Open Inference Protocol, ``/v2``."""

from __future__ import annotations

from service.web.openapi_parts import Json, answer, answers, get, json_content, list_of, object_of, reference, text

_TAG = "open inference"
_TEXT = text()
_SHAPE = list_of({"type": "integer"})
_DATA: Json = {"type": "array", "items": {}, "description": "The elements, flat or nested; NaN as a string."}
_PARAMETERS: Json = {"type": "object", "additionalProperties": True}

SCHEMAS: Json = {
    "InferenceServer": object_of(
        ["name", "version", "extensions"], name=_TEXT, version=_TEXT, extensions=list_of(_TEXT)
    ),
    "InferenceModel": object_of(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=_TEXT,
        versions=list_of(_TEXT),
        platform=_TEXT,
        inputs=list_of(reference("InferenceTensorDescription")),
        outputs=list_of(reference("InferenceTensorDescription")),
    ),
    "InferenceTensorDescription": object_of(["name", "datatype", "shape"], name=_TEXT, datatype=_TEXT, shape=_SHAPE),
    "InferenceRequest": object_of(
        [],
        id=_TEXT,
        parameters=_PARAMETERS | {"description": "count, seed and start, to draw samples; binary_data_output."},
        inputs=list_of(reference("InferenceInput"))
        | {"description": "rows [N, D] and, for a conditional model, context; or count, seed and start, [1] each."},
        outputs=list_of(object_of(["name"], name=_TEXT, parameters=_PARAMETERS))
        | {"description": "log_prob; of samples also samples and seed. All of them when this is missing."},
    )
    | {"additionalProperties": False},
    "InferenceInput": object_of(
        ["name", "datatype", "shape"],
        name=_TEXT,
        datatype=_TEXT | {"description": "FP32 or FP64; whole numbers and FP16 are taken too."},
        shape=_SHAPE,
        parameters=_PARAMETERS | {"description": "binary_data_size, when the elements follow the JSON."},
        data=_DATA,
    ),
    "InferenceResponse": object_of(
        ["model_name", "model_version", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS
        | {"description": "row_errors and first_row_error, when rows have no answer and their log_prob is NaN."},
        outputs=list_of(
            object_of(
                ["name", "datatype", "shape"],
                name=_TEXT,
                datatype=_TEXT,
                shape=_SHAPE,
                parameters=_PARAMETERS,
                data=_DATA,
            )
        ),
    ),
    "InferenceReady": object_of([], live={"type": "boolean"}, ready={"type": "boolean"}, name=_TEXT),
    "InferenceError": object_of(["error"], error=_TEXT | {"description": "What was given, expected, and what to do."}),
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


def _failures(*codes: str) -> Json:
    return answers(_FAILURES, "InferenceError", *codes)


def _infer(operation: str, parameters: list[Json], headers: list[Json]) -> Json:
    length: Json = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Bytes of the body that are JSON, where raw elements follow them.",
        "schema": {"type": "integer", "minimum": 0},
    }
    binary: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    example = {"inputs": [{"name": "rows", "datatype": "FP64", "shape": [1, 2], "data": [0.1, 0.2]}]}
    return {
        "post": {
            "operationId": operation,
            "tags": [_TAG],
            "summary": "Log-densities of rows, or samples",
            "description": "With the binary tensor extension, elements follow the JSON, row-major and little-endian.",
            "parameters": [*parameters, *headers, length],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": reference("InferenceRequest"), "example": example}} | binary,
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
                    "content": json_content("InferenceResponse") | binary,
                },
                **_failures("400", "404", "413", "415", "429", "500", "503", "504"),
            },
        }
    }


def inference_paths(model: Json, version: Json, headers: list[Json]) -> Json:
    """The paths under ``/v2``.

    Args:
        model: the parameter in a path that names a model.
        version: the one that names a version.
        headers: those of a request that are the same everywhere.
    """
    described = {"200": answer("The model.", "InferenceModel"), **_failures("404", "503")}
    readiness = {
        "200": answer("It can.", "InferenceReady"),
        **{code: answer("Not now.", "InferenceReady") for code in ("404", "503")},
    }
    paths: Json = {
        "/v2": get(
            "inferenceServer", _TAG, "What the server is", [], {"200": answer("The server.", "InferenceServer")}
        ),
        "/v2/health/live": get(
            "inferenceLive", _TAG, "Alive", [], {"200": answer("The process lives.", "InferenceReady")}
        ),
        "/v2/health/ready": get(
            "inferenceReady",
            _TAG,
            "Ready",
            [],
            {
                "200": answer("At least one model can be asked.", "InferenceReady"),
                "503": answer("Not now.", "InferenceReady"),
            },
        ),
    }
    for suffix, parameters, of in (("", [model], ""), ("/versions/{version}", [model, version], "Version")):
        path = f"/v2/models/{{model}}{suffix}"
        paths[path] = get(f"inferenceModel{of}", _TAG, "What a model takes", parameters, described)
        paths[f"{path}/ready"] = get(
            f"inferenceModel{of}Ready", _TAG, "Whether a model can be asked", parameters, readiness
        )
        paths[f"{path}/infer"] = _infer(f"infer{of}", parameters, headers)
    return paths
