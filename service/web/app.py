"""The HTTP routes: read, delegate to the gateway, answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from service.description import describe_model, list_models
from service.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestCancelled,
    ServiceError,
    Violation,
)
from service.gateway import Gateway, answering
from service.metrics import Request as Account
from service.registry import ServedModel
from service.web.answers import error_answer, json_answer
from service.web.body import read_body
from service.web.documentation import documentation_routes
from service.web.formats import JsonFormat, Table
from service.web.formats.json_format import numbers, read_object
from service.web.negotiation import answer_format, request_format, timeout_seconds

Value = TypeVar("Value")

_OFF_LOOP_BYTES = 256 * 1024
"""Longer bodies are read and written in a thread, so that small requests need not wait for it."""


class _Resource(StringConvertor):
    """A name in a path, which ends at the colon before a custom method."""

    regex = "[^/:]+"


register_url_convertor("resource", _Resource())


class WebApp:
    """The HTTP half of the gateway as an ASGI application.

    Args:
        gateway: answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.app = Starlette(routes=self._routes(), exception_handlers={HTTPException: _routing_error})

    def _routes(self) -> list[BaseRoute]:
        model = "/v1/models/{model:resource}"
        version = f"{model}/versions/{{version:resource}}"
        return [
            Route("/v1/models", self._list_models),
            *(Route(f"{path}:logProb", self._log_prob, methods=["POST"]) for path in (model, version)),
            *(Route(f"{path}:sample", self._sample, methods=["POST"]) for path in (model, version)),
            *(Route(path, self._get_model) for path in (model, version)),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
            *documentation_routes(),
            Route("/", _landing),
        ]

    async def _log_prob(self, request: Request) -> Response:
        async with self._request("LogProb", request) as (account, answer):
            with self._open(account, request) as served:
                deadline = self._gateway.deadline(timeout_seconds(request))
                body_format = request_format(request)
                answers_in = answer_format(request, body_format)
                body = await read_body(request, self._gateway.settings.max_request_bytes, deadline)
                table: Table = await _off_loop(len(body), partial(body_format.read, body, served.signature))
                scores = await _while_connected(
                    request,
                    self._gateway.log_prob(served, table.rows, table.context, deadline, table.unreadable),
                )
                content: bytes = await _off_loop(
                    scores.log_prob.nbytes, partial(answers_in.write_scores, served, scores)
                )
                headers = _headers(served) | {"Density-Row-Errors": str(len(scores.row_errors))}
                answer(Response(content, headers=headers, media_type=answers_in.content_type))
        return answer.response

    async def _sample(self, request: Request) -> Response:
        async with self._request("Sample", request) as (account, answer):
            with contextlib.ExitStack() as opened:
                served = opened.enter_context(self._open(account, request))
                deadline = self._gateway.deadline(timeout_seconds(request))
                body_format = request_format(request)
                if not isinstance(body_format, JsonFormat):
                    text = f'{body_format.content_type} given; send application/json, as {{"count": 10}}'
                    raise InvalidRequest.of("UNSUPPORTED_CONTENT_TYPE", "Content-Type", text)
                answers_in = answer_format(request, body_format)
                body = await read_body(request, self._gateway.settings.max_request_bytes, deadline)
                order = read_object(body, {"count", "seed", "start", "context", "with_log_prob"})
                seed = _whole(order, "seed") if order.get("seed") is not None else None
                if seed is not None:
                    # What a repeated request would say again is known only now.
                    account.affinity = f"seed {seed}"
                    served = opened.enter_context(self._open(account, request))
                context = order.get("context")
                with_log_prob = _truth(order, "with_log_prob")
                drawn = await _while_connected(
                    request,
                    self._gateway.sample(
                        served,
                        count=_whole(order, "count"),
                        seed=seed,
                        context=None if context is None else numbers(context, "context", served.signature.context_size),
                        deadline=deadline,
                        start=_whole(order, "start") if "start" in order else 0,
                    ),
                )
                content: bytes = await _off_loop(
                    drawn.samples.nbytes, partial(answers_in.write_samples, served, drawn, with_log_prob)
                )
                headers = _headers(served) | {"Density-Seed": str(drawn.seed)}
                answer(Response(content, headers=headers, media_type=answers_in.content_type))
        return answer.response

    async def _get_model(self, request: Request) -> Response:
        async with self._request("GetModel", request) as (account, answer):
            with self._open(account, request):
                name, version = request.path_params["model"], request.path_params.get("version", "")
                answer(json_answer(describe_model(self._gateway.registry, name, version)))
        return answer.response

    async def _list_models(self, request: Request) -> Response:
        async with self._request("ListModels", request) as (_, answer):
            size = request.query_params.get("page_size", "0")
            if not size.isdecimal():
                raise InvalidRequest.of("INVALID_PAGE_SIZE", "page_size", f"{size!r} given; a whole number expected")
            token = request.query_params.get("page_token", "")
            models, next_token = list_models(self._gateway.registry, int(size), token)
            answer(json_answer({"models": models, "next_page_token": next_token}))
        return answer.response

    async def _healthz(self, request: Request) -> Response:
        return json_answer({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        reason = self._gateway.unready_reason
        if reason is None:
            return json_answer({"status": "ready", "models": self._gateway.registry.names()})
        return json_answer({"status": "not ready", "reason": reason}, status=503)

    async def _metrics(self, request: Request) -> Response:
        text, content_type = self._gateway.metrics.exposition(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    @contextlib.asynccontextmanager
    async def _request(self, method: str, request: Request) -> AsyncIterator[tuple[Account, _Answer]]:
        """Account for one request; a service error in it becomes its answer."""
        answer = _Answer()
        try:
            with self._gateway.metrics.request(method) as account:
                account.affinity = request.headers.get("x-request-id", "")
                async with answering(account):
                    yield account, answer
        except ServiceError as error:
            answer(error_answer(error))

    def _open(self, account: Account, request: Request) -> contextlib.AbstractContextManager[ServedModel]:
        return self._gateway.open(account, request.path_params["model"], request.path_params.get("version", ""))


class _Answer:
    """Where a handler leaves its response, or its error's."""

    def __init__(self) -> None:
        self.response = error_answer(InternalError("INTERNAL", "the gateway gave no answer"))

    def __call__(self, response: Response) -> None:
        self.response = response


async def _while_connected(request: Request, answer: Coroutine[Any, Any, Value]) -> Value:
    """The gateway's answer; when the client goes away first, its rows leave the queue.

    Raises:
        RequestCancelled: the client went away.
    """
    working = asyncio.ensure_future(answer)
    listening = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise RequestCancelled("CANCELLED", "the client went away before its answer was ready")
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _off_loop(size: int, work: Callable[[], Value]) -> Value:
    """Do the work here when it is small, in a thread when it would hold up others."""
    return work() if size < _OFF_LOOP_BYTES else await asyncio.to_thread(work)


def _whole(order: Any, field: str) -> int:
    """A whole number of the request's JSON, which may be written as a string, as ProtoJSON does.

    Raises:
        InvalidRequest: it is missing or no whole number.
    """
    value = order.get(field)
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        given = "missing" if value is None else f"{value!r} given"
        raise InvalidRequest("NOT_A_NUMBER", [Violation(field, f"{given}; a whole number expected")])
    return value


def _truth(order: Any, field: str) -> bool:
    value = order.get(field, False)
    if not isinstance(value, bool):
        raise InvalidRequest.of("WRONG_TYPE", field, f"{value!r} given; true or false expected")
    return value


def _headers(served: ServedModel) -> dict[str, str]:
    return {"Density-Model": served.key.name, "Density-Version": str(served.key.version)}


async def _landing(request: Request) -> Response:
    return RedirectResponse("docs")


async def _routing_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses, in the form of every other error."""
    path = request.url.path
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"{request.method} given; {path} takes {allowed}"
        answer = error_answer(MethodNotAllowed("METHOD_NOT_ALLOWED", [Violation("method", text)]))
        answer.headers["Allow"] = allowed
        return answer
    text = f"nothing at {path}; /docs shows what there is"
    return error_answer(NotFound("PATH_NOT_FOUND", text, resource_type="path", resource_name=path))
