"""Stands before every gRPC method: admits the caller, then reads the message, and answers what cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from service.errors import InternalError, InvalidRequest, ServiceError
from service.metrics import Metrics
from service.request_id import HEADER, identify
from service.rpc.status import to_status
from service.security.admission import Admission, Admitted

log = logging.getLogger(__name__)

_OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Services that answer without a token: probes have none, and what reflection tells is published with the source."""


class Gate:
    """Takes the place of a server in ``add_..._to_server``, and adds the methods with a gate before each.

    Args:
        server: where the methods end up.
        admission: who may call.
        metrics: counts messages that could not be read.
        unguarded: full names of further methods, as ``/package.Service/Method``, that need no token.
    """

    def __init__(
        self, server: grpc.aio.Server, admission: Admission, metrics: Metrics, unguarded: Iterable[str] = ()
    ) -> None:
        self._server = server
        self._admission = admission
        self._metrics = metrics
        self._unguarded = frozenset(unguarded)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As the server's own."""
        self._server.add_generic_rpc_handlers([_GatedHandler(handler, self._gated) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Nothing: the generic handlers have the same methods.

        For each request of any method, ``grpc.aio`` puts a callback on a future of each registered method and takes it
        away again.
        """

    def _gated(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """The same method, taking bytes, with the gate before it."""
        guarded = not method.startswith(_OPEN) and method not in self._unguarded
        deserialize = handler.request_deserializer or bytes
        answer = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        def read(message: bytes) -> Any:
            try:
                return deserialize(message)
            except (DecodeError, ValueError):
                self._metrics.rejected("malformed")
                name = method.rsplit("/", 1)[-1]
                text = (
                    f"{len(message)} bytes given that are no message of {name}; is the client's .proto this service's?"
                )
                raise InvalidRequest.of("MALFORMED_MESSAGE", "message", text) from None

        async def read_each(messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for message in messages:
                yield read(message)

        def request(given: Any) -> Any:
            return read_each(given) if handler.request_streaming else read(given)

        async def one(given: Any, context: Any) -> Any:
            authorization = _identify(context)
            try:
                with self._admitted(context, authorization) if guarded else contextlib.nullcontext():
                    return await answer(request(given), context)
            except Exception as error:
                await _abort(context, method, error)

        async def many(given: Any, context: Any) -> AsyncIterator[Any]:
            authorization = _identify(context)
            try:
                with self._admitted(context, authorization) if guarded else contextlib.nullcontext():
                    async with contextlib.aclosing(answer(request(given), context)) as messages:
                        async for message in messages:
                            yield message
            except Exception as error:
                await _abort(context, method, error)

        # A method that streams may be a generator, or write to its context.
        behaviour: Callable[..., Any] = many if inspect.isasyncgenfunction(answer) else one
        return _handler(handler, behaviour)

    def _admitted(self, context: Any, authorization: str | None) -> Admitted:
        peer = _address(context.peer()) if self._admission.asks_for_peers else ""
        return self._admission.admit(authorization, peer)


class _GatedHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A generic handler whose methods are gated."""

    def __init__(
        self, handler: grpc.GenericRpcHandler, gated: Callable[[str, grpc.RpcMethodHandler], grpc.RpcMethodHandler]
    ) -> None:
        self._handler = handler
        self._gated = gated
        self._known: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        known = self._known.get(method)
        if known is not None:
            return known
        found = self._handler.service(handler_call_details)
        if found is None:
            return None
        self._known[method] = self._gated(method, found)
        return self._known[method]


async def _abort(context: Any, method: str, error: Exception) -> None:
    """End a call with what went wrong; what nobody foresaw goes into the log, and its name alone to the caller."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.InternalError):
        # The caller left, so that nothing can be sent.
        raise asyncio.CancelledError from error
    if isinstance(error, NotImplementedError):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented here")
    if not isinstance(error, ServiceError):
        log.error("%s failed unexpectedly", method, exc_info=error)
        error = InternalError("INTERNAL", f"the gateway failed: {type(error).__name__}; its log says more")
    try:
        await context.abort_with_status(to_status(error))
    except grpc.aio.InternalError as gone:
        raise asyncio.CancelledError from gone


def _handler(like: grpc.RpcMethodHandler, behaviour: Callable[..., Any]) -> grpc.RpcMethodHandler:
    """A handler of the same kind that takes messages as they came."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[like.request_streaming, like.response_streaming]
    return make(behaviour, request_deserializer=None, response_serializer=like.response_serializer)


def _identify(context: Any) -> str | None:
    """Give the call its id, and the caller's own back; who has none learns it from an error alone.

    Returns:
        What the caller presents as authorization.
    """
    given, authorization = "", None
    for name, value in context.invocation_metadata() or ():
        if name == HEADER and not given:
            given = _text(value)
        elif name == "authorization" and authorization is None:
            authorization = _text(value)
    request_id = identify(given)
    if request_id == given:
        context.set_trailing_metadata(((HEADER, request_id),))
    return authorization


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _address(peer: str) -> str:
    """The address in what gRPC calls a peer, such as ``ipv4:192.0.2.7:4711`` or ``ipv6:%5B::1%5D:4711``."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
