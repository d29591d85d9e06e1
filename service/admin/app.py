"""The routes of the admin API: check the token, change the store or end the service, say what came of it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.serving import LATEST, Serving
from flowmodel.errors import ArtefactError, ModelNotFoundError, ServingError
from service.admin.openapi import DOCUMENT
from service.admin.state import drain_state, model_state
from service.errors import (
    DeadlinePassed,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    RequestCancelled,
    RequestTooLarge,
    ServiceError,
    Unauthenticated,
    Violation,
)
from service.gateway import Gateway
from service.security.tokens import TokenFile
from service.watcher import StoreWatcher
from service.web.answers import error_answer, json_answer
from service.web.documentation import documentation_routes
from service.web.formats.json_format import read_object

log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 64 * 1024
_BODY_SECONDS = 10.0

Order = dict[str, Any]
"""The JSON object of a request."""
Answerer = Callable[[Request], Awaitable[Response]]


class AdminApp:
    """The admin API as an ASGI application.

    Args:
        gateway: what answers now; whoever runs it ends it once its ``stopping`` is set.
        watcher: follows the store, at once after a change.
        tokens: who may call; a caller's token must have the scope ``admin``.
    """

    def __init__(self, gateway: Gateway, watcher: StoreWatcher, tokens: TokenFile) -> None:
        self._gateway = gateway
        self._watcher = watcher
        self._tokens = tokens
        model = "/admin/v1/models/{model}"
        changes: list[tuple[str, set[str], Callable[[Rollout, Order], Serving]]] = [
            ("default", {"version"}, lambda rollout, order: rollout.default(_version(order, LATEST))),
            ("rollback", set(), lambda rollout, order: rollout.rollback()),
            (
                "retire",
                {"version", "force"},
                lambda rollout, order: rollout.retire(_named(order), force=_truth(order, "force")),
            ),
            ("restore", {"version"}, lambda rollout, order: rollout.restore(_named(order))),
            (
                "canary",
                {"version", "weight"},
                lambda rollout, order: rollout.canary(_version(order, None), order.get("weight", 0.05)),
            ),
            ("shadow", {"version"}, lambda rollout, order: rollout.shadow(_version(order, None))),
        ]
        self.app = Starlette(
            routes=[
                Route("/admin/v1/models", self._answering(self._list)),
                Route(model, self._answering(self._show)),
                *(
                    Route(f"{model}/{name}", self._answering(self._changing(name, known, change)), methods=["POST"])
                    for name, known, change in changes
                ),
                Route("/admin/v1/reload", self._answering(self._reload), methods=["POST"]),
                Route("/admin/v1/drain", self._answering(self._drain), methods=["GET", "POST"]),
                *documentation_routes(DOCUMENT),
            ],
            exception_handlers={HTTPException: self._routing_error},
        )

    def _answering(self, answer: Answerer) -> Answerer:
        """The same, for callers with a token alone, its errors made answers."""

        async def guarded(request: Request) -> Response:
            try:
                request.state.caller = self._admit(request)
                return await answer(request)
            except ServiceError as error:
                return error_answer(error)
            except Exception as error:
                log.exception("%s %s failed unexpectedly", request.method, request.url.path)
                text = f"the admin API failed: {type(error).__name__}; the service's log says more"
                return error_answer(InternalError("INTERNAL", text))

        return guarded

    def _admit(self, request: Request) -> str:
        """Name of the caller's token.

        Raises:
            Unauthenticated: there is none, or it is not one of the file.
            PermissionDenied: it has not the scope ``admin``.
        """
        try:
            caller = self._tokens.authenticate(request.headers.get("authorization"))
            caller.require("admin")
        except Unauthenticated:
            self._gateway.metrics.rejected("unauthenticated")
            raise
        except PermissionDenied:
            self._gateway.metrics.rejected("permission_denied")
            raise
        return caller.name

    async def _list(self, request: Request) -> Response:
        return json_answer({"models": [self._state(name) for name in self._watcher.names()]})

    async def _show(self, request: Request) -> Response:
        return json_answer(self._state(request.path_params["model"]))

    async def _reload(self, request: Request) -> Response:
        """Look at the store now, and try again what could not be loaded."""
        await _read(request, set())
        self._watcher.retry()
        await self._watcher.look()
        return await self._list(request)

    async def _drain(self, request: Request) -> Response:
        """Say what is under way; asked by POST, have the service finish that and end."""
        if request.method == "POST":
            await _read(request, set())
            if not self._gateway.draining:
                seconds = self._gateway.settings.drain_seconds
                log.info("draining, by the token %r: requests have %g s to finish", request.state.caller, seconds)
                self._gateway.stopping.set()
        return json_answer(drain_state(self._gateway))

    def _changing(self, name: str, known: set[str], change: Callable[[Rollout, Order], Serving]) -> Answerer:
        async def answer(request: Request) -> Response:
            model, order = request.path_params["model"], await _read(request, known)
            await asyncio.to_thread(self._change, model, lambda rollout: change(rollout, order))
            log.info("%s: %s %s by the token %r", model, name, order, request.state.caller)
            await self._watcher.look()
            return json_answer(self._state(model))

        return answer

    def _change(self, model: str, change: Callable[[Rollout], Serving]) -> None:
        try:
            change(Rollout(self._watcher.store, model))
        except ModelNotFoundError as error:
            name = f"models/{model}"
            raise NotFound("MODEL_NOT_FOUND", str(error), resource_type="model", resource_name=name) from error
        except ServingError as error:
            raise FailedPrecondition("VERSION_NOT_SERVABLE", f"{model}: {error}") from error
        except (ArtefactError, OSError) as error:
            raise InternalError("STORE_NOT_WRITTEN", f"the choice could not be written: {error}") from error

    def _state(self, model: str) -> dict[str, Any]:
        return model_state(model, self._gateway.registry, self._watcher)

    async def _routing_error(self, request: Request, error: Exception) -> Response:
        try:
            self._admit(request)
        except ServiceError as refusal:
            return error_answer(refusal)
        path = request.url.path
        if isinstance(error, HTTPException) and error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            text = f"{request.method} given; {path} takes {allowed}"
            answer = error_answer(MethodNotAllowed("METHOD_NOT_ALLOWED", [Violation("method", text)]))
            answer.headers["Allow"] = allowed
            return answer
        text = f"nothing at {path}; /docs shows what there is"
        return error_answer(NotFound("PATH_NOT_FOUND", text, resource_type="path", resource_name=path))


async def _read(request: Request, known: Collection[str]) -> Order:
    """The body's JSON object; an empty body counts as an empty one.

    Raises:
        InvalidRequest: it is no JSON object, has unknown keys, or is far too long.
        DeadlinePassed: it did not arrive in time.
        RequestCancelled: the client went away.
    """
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > _MAX_BODY_BYTES:
                    text = f"{len(body)} bytes and more given; at most {_MAX_BODY_BYTES} expected"
                    raise RequestTooLarge("REQUEST_TOO_LARGE", [Violation("body", text)])
    except TimeoutError:
        raise DeadlinePassed("DEADLINE_PASSED", f"the body did not arrive within {_BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise RequestCancelled("CANCELLED", "the client went away while sending its body") from None
    return dict(read_object(body, set(known))) if body else {}


def _version(order: Order, word: str | None) -> int | None:
    """The version asked for; None where the word that stands for none was given."""
    if "version" not in order:
        raise _wrong("version", "missing", f"a version such as 3, or {_word(word)}")
    value = order["version"]
    return None if value == word else _whole(value, f"a version such as 3, or {_word(word)}")


def _named(order: Order) -> int:
    """The version asked for, which has to be one."""
    if "version" not in order:
        raise _wrong("version", "missing", "a version such as 3")
    return _whole(order["version"], "a version such as 3")


def _whole(value: object, expected: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,17}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong("version", f"{value!r} given", expected)
    return value


def _truth(order: Order, field: str) -> bool:
    value = order.get(field, False)
    if not isinstance(value, bool):
        raise _wrong(field, f"{value!r} given", "true or false")
    return value


def _wrong(field: str, given: str, expected: str) -> InvalidRequest:
    return InvalidRequest.of("INVALID_VALUE", field, f"{given}; {expected} expected")


def _word(word: str | None) -> str:
    return "null" if word is None else f'"{word}"'
