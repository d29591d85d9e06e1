"""What OpenAPI documents are put together from: schemas, parameters, answers and operations."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
"""A part of an OpenAPI document."""


def object_of(required: list[str], **properties: Json) -> Json:
    """The schema of an object."""
    return {"type": "object"} | ({"required": required} if required else {}) | {"properties": properties}


def list_of(items: Json, description: str = "") -> Json:
    """The schema of a list."""
    return {"type": "array", "items": items} | ({"description": description} if description else {})


def text(description: str = "") -> Json:
    """The schema of a text."""
    return {"type": "string"} | ({"description": description} if description else {})


def reference(name: str) -> Json:
    """One of the document's own schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_content(name: str) -> Json:
    """A body of JSON, by its schema's name."""
    return {"application/json": {"schema": reference(name)}}


def answer(description: str, name: str) -> Json:
    """An answer of JSON, by its schema's name."""
    return {"description": description, "content": json_content(name)}


def answers(descriptions: dict[str, str], name: str, *codes: str) -> Json:
    """Answers of one schema, by status.

    Args:
        descriptions: what each status means.
        name: of the schema.
        codes: those of ``descriptions`` that are wanted.
    """
    return {code: answer(descriptions[code], name) for code in codes}


def path_parameter(name: str, description: str) -> Json:
    """A part of the path that is a text."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


def get(operation: str, tag: str, summary: str, parameters: list[Json], responses: Json) -> Json:
    """A path that answers GET alone."""
    return {
        "get": {
            "operationId": operation,
            "tags": [tag],
            "summary": summary,
            "parameters": parameters,
            "responses": responses,
        }
    }


ERROR = object_of(
    ["error"],
    error=object_of(
        ["code", "status", "message", "details"],
        code={"type": "integer", "description": "The HTTP status."},
        status=text("Name of the gRPC status code."),
        message=text("What was given, what was expected, what to do."),
        details=list_of(
            {"type": "object", "additionalProperties": True},
            "google.rpc.ErrorInfo with the reason, and BadRequest, ResourceInfo or RetryInfo.",
        ),
    ),
)
"""The schema of every error but those of the Open Inference Protocol."""
