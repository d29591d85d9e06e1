"""Answers of the HTTP server that are not a format's: JSON values and errors."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import Response

from service.errors import DOMAIN, InvalidRequest, NotFound, PermissionDenied, ServiceError, Unauthenticated

_TYPE = "type.googleapis.com/google.rpc."


def json_answer(value: Any, status: int = 200) -> Response:
    """A JSON-able value."""
    return Response(orjson.dumps(value) + b"\n", status, media_type="application/json")


def error_value(error: ServiceError) -> dict[str, Any]:
    """An error as Google's HTTP APIs write it: what gRPC's rich status holds, JSON-able."""
    details: list[dict[str, Any]] = [{"@type": f"{_TYPE}ErrorInfo", "reason": error.reason, "domain": DOMAIN}]
    if isinstance(error, InvalidRequest):
        violations = [{"field": field, "description": description} for field, description in error.violations]
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": violations})
    if isinstance(error, NotFound):
        details.append(
            {
                "@type": f"{_TYPE}ResourceInfo",
                "resourceType": error.resource_type,
                "resourceName": error.resource_name,
                "description": error.message,
            }
        )
    if error.retry_after_seconds is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{error.retry_after_seconds:g}s"})
    return {"error": {"code": error.http_status, "status": error.code, "message": error.message, "details": details}}


def error_answer(error: ServiceError) -> Response:
    """An error as the answer to a request."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    if isinstance(error, Unauthenticated):
        # RFC 6750, section 3: no error code when no credentials were given at all.
        unknown = ', error="invalid_token"' if error.reason == "TOKEN_UNKNOWN" else ""
        headers["WWW-Authenticate"] = f'Bearer realm="{DOMAIN}"{unknown}'
    if isinstance(error, PermissionDenied):
        headers["WWW-Authenticate"] = f'Bearer realm="{DOMAIN}", error="insufficient_scope", scope="{error.scope}"'
    answer = json_answer(error_value(error), error.http_status)
    answer.headers.update(headers)
    return answer
