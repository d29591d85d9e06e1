"""The OpenAPI document of the admin API, written by hand."""

from __future__ import annotations

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

_VERSION: Json = {
    "oneOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}],
    "description": "A version of the store, as a number or as a text.",
}
_VERSION_OR_LATEST: Json = {
    "oneOf": [*_VERSION["oneOf"], {"type": "string", "enum": ["latest"]}],
    "description": "A version of the store, or latest for the newest, also of those to come.",
}
_VERSION_OR_NULL = _VERSION | {"nullable": True, "description": "A version of the store, or null to end it."}
_SOME_VERSION = text() | {"nullable": True}


def _order(required: list[str], **properties: Json) -> Json:
    return object_of(required, **properties) | {"additionalProperties": False}


_SCHEMAS: Json = {
    "Nothing": _order([]),
    "Default": _order(["version"], version=_VERSION_OR_LATEST),
    "Retirement": _order(
        ["version"],
        version=_VERSION,
        force={"type": "boolean", "default": False, "description": "Even the version that answers by default."},
    ),
    "Restoration": _order(["version"], version=_VERSION),
    "CanaryOrder": _order(
        ["version"],
        version=_VERSION_OR_NULL,
        weight={
            "type": "number",
            "minimum": 0,
            "exclusiveMinimum": True,
            "maximum": 1,
            "default": 0.05,
            "description": "Share of the requests that name no version.",
        },
    ),
    "ShadowOrder": _order(["version"], version=_VERSION_OR_NULL),
    "Model": object_of(
        ["name", "default_version", "versions", "problem"],
        name=text(),
        default_version=_SOME_VERSION | {"description": "What answers requests that name no version; null: nothing."},
        default=text(
            "The version that the store asks for, or latest. Like the next three, missing where the store's "
            "choice cannot be read."
        ),
        previous_version=_SOME_VERSION | {"description": "What a rollback goes to."},
        canary=object_of(["version", "weight"], version=text(), weight={"type": "number"}) | {"nullable": True},
        shadow=_SOME_VERSION,
        versions=list_of(reference("Version"), "Newest first."),
        problem=text("Why what the store asks for is not what answers; empty when all is well."),
    ),
    "Version": object_of(
        ["version", "state"],
        version=text(),
        state=text("unloaded: to save memory, until somebody asks for it; in store: not asked for by anybody.")
        | {"enum": ["loaded", "unloaded", "retired", "failed", "in store"]},
        reason=text("Why it failed."),
    ),
    "ModelList": object_of(["models"], models=list_of(reference("Model"), "By name.")),
    "Drain": object_of(
        ["draining", "requests", "queued_rows", "drain_seconds"],
        draining={"type": "boolean"},
        requests={"type": "integer", "description": "Requests under way, streams among them."},
        queued_rows={"type": "integer", "description": "Rows of theirs that no engine call has taken yet."},
        drain_seconds={"type": "number", "description": "How long they are waited for, from when draining began."},
    ),
    "Error": ERROR,
}

_FAILURES = {
    "400": "The body is wrong, with the field named; or what it asks for cannot be done, FAILED_PRECONDITION.",
    "401": "No token of the admin_token_file; WWW-Authenticate says how.",
    "403": "A token without the scope admin.",
    "404": "The store has no such model.",
    "413": "The body is longer than 64 KiB.",
    "500": "The choice could not be written, or something else went wrong; the service's log says more.",
    "504": "The body did not arrive within 10 seconds.",
}


def _failures(*codes: str) -> Json:
    return answers(_FAILURES, "Error", *codes)


_MODEL = path_parameter("model", "Name of a model in the store.")
_STATE = answer("The model's state, after the service followed the change.", "Model")
_MODELS = {"200": answer("The models, by name.", "ModelList")}


def _post(operation: str, tag: str, summary: str, order: str, parameters: list[Json], responses: Json) -> Json:
    return {
        "post": {
            "operationId": operation,
            "tags": [tag],
            "summary": summary,
            "parameters": parameters,
            "requestBody": {"required": order != "Nothing", "content": json_content(order)},
            "responses": responses,
        }
    }


def _change(operation: str, summary: str, order: str) -> Json:
    failures = _failures("400", "401", "403", "404", "413", "500", "504")
    return _post(operation, "models", summary, order, [_MODEL], {"200": _STATE, **failures})


DOCUMENT: Json = {
    "openapi": "3.0.3",
    "info": {
        "title": "Density service, admin API",
        "version": "v1",
        "description": "Which versions of a store's models answer, and the end of the service.",
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
    },
    "servers": [{"url": "."}],
    "paths": {
        "/admin/v1/models": get(
            "listModels", "models", "The state of every model", [], _MODELS | _failures("401", "403", "500")
        ),
        "/admin/v1/models/{model}": get(
            "getModel",
            "models",
            "The state of a model",
            [_MODEL],
            {"200": answer("The model's state.", "Model"), **_failures("401", "403", "404", "500")},
        ),
        "/admin/v1/models/{model}/default": _change(
            "setDefault", "Let a version answer requests that name none", "Default"
        ),
        "/admin/v1/models/{model}/rollback": _change("rollback", "Go back to the default before", "Nothing"),
        "/admin/v1/models/{model}/retire": _change("retire", "Let a version answer no more", "Retirement"),
        "/admin/v1/models/{model}/restore": _change("restore", "Let a retired version answer again", "Restoration"),
        "/admin/v1/models/{model}/canary": _change(
            "setCanary", "Let a version answer a share of the requests that name none, or end that", "CanaryOrder"
        ),
        "/admin/v1/models/{model}/shadow": _change(
            "setShadow", "Score on another version too what the default one scores, or end that", "ShadowOrder"
        ),
        "/admin/v1/reload": _post(
            "reload",
            "service",
            "Look at the store now, and try again what could not be loaded",
            "Nothing",
            [],
            _MODELS | _failures("400", "401", "403", "413", "500", "504"),
        ),
        "/admin/v1/drain": get(
            "getDrain",
            "service",
            "What is under way",
            [],
            {"200": answer("What a drain would wait for, or waits for.", "Drain"), **_failures("401", "403", "500")},
        )
        | _post(
            "drain",
            "service",
            "Take no more requests, finish those under way, and end, as on SIGTERM",
            "Nothing",
            [],
            {
                "200": answer("Draining has begun; what it waits for.", "Drain"),
                **_failures("400", "401", "403", "413", "500", "504"),
            },
        ),
    },
    "security": [{"token": []}],
    "components": {
        "schemas": _SCHEMAS,
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "One of admin_token_file that has the scope admin.",
            }
        },
    },
}
