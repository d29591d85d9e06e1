"""Stands before the HTTP application: admits the caller before a byte of a body is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ServiceError
from service.security.admission import Admission
from service.web.answers import error_answer

_OPEN = frozenset(("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"))
"""Addresses that answer without a token: probes have none, and the documentation is the same for everybody."""
_OPEN_FOLDER = "/docs/assets/"


class Gate:
    """An ASGI application in front of another.

    Args:
        app: what answers those who are let in.
        admission: who may call.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in _OPEN or scope["path"].startswith(_OPEN_FOLDER):
            await self._app(scope, receive, send)
            return
        try:
            with self._admission.admit(_authorization(scope), (scope.get("client") or ("",))[0]):
                await self._app(scope, receive, send)
        except ServiceError as error:
            # The application answers for its own errors, so this one is from the door, and nothing was sent yet.
            await error_answer(error)(scope, receive, send)


def _authorization(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value.decode("latin-1"))
    return None
