"""The HTTP routes: read, delegate to the gateway, answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from service.description import describe_model, list_models
from service.errors import InvalidRequest, MethodNotAllowed, NotFound, Violation
from service.gateway import Gateway
from service.web.answers import error_answer, json_answer
from service.web.density import DensityHandlers
from service.web.documentation import documentation_routes
from service.web.exchange import Endpoint, Exchange
from service.web.inference import InferenceHandlers, refused
from service.web.openapi import DOCUMENT


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
        density = DensityHandlers(self._gateway)
        return [
            self._route("/v1/models", self._list_models),
            *(self._route(f"{path}:logProb", density.log_prob, "POST") for path in (model, version)),
            *(self._route(f"{path}:sample", density.sample, "POST") for path in (model, version)),
            *(self._route(path, self._get_model) for path in (model, version)),
            *self._inference_routes(),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
            *documentation_routes(DOCUMENT),
            Route("/", _landing),
        ]

    def _inference_routes(self) -> list[BaseRoute]:
        """The Open Inference Protocol, whose errors have a form of their own."""
        inference = InferenceHandlers(self._gateway)
        model = "/v2/models/{model:resource}"

        def routes(suffix: str, handler: Callable[[Exchange], Awaitable[None]], method: str) -> list[BaseRoute]:
            endpoint = Endpoint(self._gateway, handler, refused)
            paths = (f"{model}{suffix}", f"{model}/versions/{{version:resource}}{suffix}")
            return [Route(path, endpoint, methods=[method]) for path in paths]

        return [
            Route("/v2", inference.server),
            Route("/v2/health/live", inference.live),
            Route("/v2/health/ready", inference.ready),
            *routes("", inference.model, "GET"),
            *routes("/ready", inference.model_ready, "GET"),
            *routes("/infer", inference.infer, "POST"),
        ]

    def _route(self, path: str, handler: Callable[[Exchange], Awaitable[None]], method: str = "GET") -> Route:
        return Route(path, Endpoint(self._gateway, handler), methods=[method])

    async def _get_model(self, exchange: Exchange) -> None:
        async with exchange.account("GetModel") as account:
            with exchange.open(account):
                parameters = exchange.request.path_params
                name, version = parameters["model"], parameters.get("version", "")
                exchange.answer(json_answer(describe_model(self._gateway.registry, name, version)))

    async def _list_models(self, exchange: Exchange) -> None:
        async with exchange.account("ListModels"):
            query = exchange.request.query_params
            size = query.get("page_size", "0")
            if not size.isdecimal():
                raise InvalidRequest.of("INVALID_PAGE_SIZE", "page_size", f"{size!r} given; a whole number expected")
            models, next_token = list_models(self._gateway.registry, int(size), query.get("page_token", ""))
            exchange.answer(json_answer({"models": models, "next_page_token": next_token}))

    async def _healthz(self, request: Request) -> Response:
        return json_answer({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        reason = self._gateway.unready_reason
        if reason is None:
            return json_answer({"status": "ready", "models": self._gateway.registry.names()})
        return json_answer({"status": "not ready", "reason": reason}, status=503)

    async def _metrics(self, request: Request) -> Response:
        text, content_type = await self._gateway.metrics.exposition(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})


async def _landing(request: Request) -> Response:
    return RedirectResponse("docs")


async def _routing_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses, in the form of every other error below that address."""
    path = request.url.path
    answer_to = refused if path.startswith("/v2/") else error_answer
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"{request.method} given; {path} takes {allowed}"
        answer = answer_to(MethodNotAllowed("METHOD_NOT_ALLOWED", [Violation("method", text)]))
        answer.headers["Allow"] = allowed
        return answer
    text = f"nothing at {path}; /docs shows what there is"
    return answer_to(NotFound("PATH_NOT_FOUND", text, resource_type="path", resource_name=path))
