"""One HTTP request on its way to its answer, which may be sent whole or part by part."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import DeadlinePassed, InternalError, RequestCancelled, ServiceError
from service.gateway import Gateway, settled
from service.metrics import Request as Account
from service.registry import ServedModel
from service.web.answers import error_answer
from service.web.compression import WORTHWHILE_BYTES, Deflater, deflates
from service.web.formats.format import Writer
from service.web.spool import Spool

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_OFF_LOOP_BYTES = 256 * 1024
"""Longer bodies are read and written in a thread, so that small requests need not wait for it."""


class Exchange:
    """A request, its account and its answer.

    Args:
        gateway: keeps the accounts.
        request: as it came.
        send: takes the answer.
        refuse: writes an error as an answer.
    """

    def __init__(
        self, gateway: Gateway, request: Request, send: Send, refuse: Callable[[ServiceError], Response] = error_answer
    ) -> None:
        self.gateway = gateway
        self.request = request
        self._send = send
        self._refuse = refuse
        self._answer: Response | None = None
        self._begun = False

    def account(self, method: str) -> ExchangeAccount:
        """Account for the request; a service error in it becomes its answer, or cuts off the one that was begun."""
        return ExchangeAccount(self, method)

    def fail(self, error: ServiceError) -> None:
        """Answer with an error, where no answer was begun."""
        if self._begun:
            log.warning("the answer to %s was cut off: %s: %s", self.request.url.path, error.reason, error)
        else:
            self.answer(self._refuse(error))

    def open(self, account: Account) -> contextlib.AbstractContextManager[ServedModel]:
        """The version that the request's address names."""
        parameters = self.request.path_params
        return self.gateway.open(account, parameters["model"], parameters.get("version", ""))

    def answer(self, response: Response) -> None:
        """What is sent when the account is closed."""
        self._answer = response

    async def finish(self) -> None:
        """Send the answer, unless it was sent part by part."""
        if self._begun:
            return
        answer = self._answer or error_answer(InternalError("INTERNAL", "the gateway gave no answer"))
        await self._deflate(answer)
        await answer(self.request.scope, self.request.receive, self._send)

    async def stream(
        self,
        writer: Writer[Value],
        answers: AsyncGenerator[Value, None],
        content_type: str,
        headers: Mapping[str, str],
        size: Callable[[Value], int],
        *,
        spool: int = 0,
    ) -> None:
        """Send an answer part by part.

        Nothing is sent before the first part is there, so that what fails before it is answered as usual. What fails
        later cannot change the status: the transfer ends without its end, which HTTP clients report, after a record of
        the error where the content type has one.

        Args:
            writer: writes the parts.
            answers: what to write.
            content_type: of the answer.
            headers: further ones.
            size: how many bytes an answer has.
            spool: bytes that may wait on disk for a client that still sends; 0 where none sends.

        Raises:
            ServiceError: what ``answers`` raised, or the client stopped reading.
        """
        async with contextlib.aclosing(answers):
            first = await anext(answers)
            deflater = Deflater() if deflates(self.request, content_type) else None
            told = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"} | dict(headers)
            if deflater is not None:
                told["Content-Encoding"] = "gzip"
            await self._begin(told)
            with Spool(spool) as waiting:
                writing = asyncio.ensure_future(_write(writer, first, answers, size, deflater, waiting))
                try:
                    while (part := await waiting.get()) is not None:
                        await self._part(part, moved=lambda: waiting.total)
                    await writing
                finally:
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
            await self._part(b"", more=False)

    async def _begin(self, headers: Mapping[str, str]) -> None:
        self._begun = True
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _part(self, data: bytes, *, more: bool = True, moved: Callable[[], int] = lambda: 0) -> None:
        """Send a part of the body; returns when there is room for the next one.

        Args:
            data: the part.
            more: whether others come.
            moved: a number that grows while the client still sends.

        Raises:
            DeadlinePassed: the client neither read nor sent anything for ``stream_idle_seconds``.
        """
        idle = self.gateway.settings.stream_idle_seconds
        sending = asyncio.ensure_future(self._send({"type": "http.response.body", "body": data, "more_body": more}))
        try:
            before = moved()
            while not (await asyncio.wait((sending,), timeout=idle))[0]:
                if moved() == before:
                    raise DeadlinePassed("STREAM_IDLE", f"the client read nothing for {idle:g} seconds")
                before = moved()
            sending.result()
        finally:
            sending.cancel()

    async def _deflate(self, answer: Response) -> None:
        content_type = answer.headers.get("content-type", "")
        body = bytes(answer.body)
        if len(body) < WORTHWHILE_BYTES or not deflates(self.request, content_type):
            return
        answer.body = await off_loop(len(body), lambda: Deflater().last(body))
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Content-Length"] = str(len(answer.body))
        answer.headers["Vary"] = "Accept, Accept-Encoding"


class ExchangeAccount:
    """From ``Exchange.account``: accounts for one request."""

    __slots__ = ("_account", "_exchange", "_timed")

    def __init__(self, exchange: Exchange, method: str) -> None:
        self._exchange = exchange
        self._timed = exchange.gateway.metrics.request(method)

    async def __aenter__(self) -> Account:
        self._account = self._timed.__enter__()
        self._account.affinity = self._exchange.request.headers.get("x-request-id", "")
        return self._account

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        failure = settled(self._account, error) or error
        self._timed.__exit__(None, None, None)
        if isinstance(failure, ServiceError):
            self._exchange.fail(failure)
            return True
        return False


async def _write(
    writer: Writer[Value],
    first: Value,
    answers: AsyncGenerator[Value, None],
    size: Callable[[Value], int],
    deflater: Deflater | None,
    spool: Spool,
) -> None:
    """Write an answer into a spool; an error ends it with a record, and is raised."""

    async def put(data: bytes, last: bool = False) -> None:
        if deflater is not None:
            data = deflater.last(data) if last else deflater.part(data)
        await spool.put(data)

    try:
        await put(writer.head() + await off_loop(size(first), lambda: writer.part(first)))
        async for answer in answers:
            await put(await off_loop(size(answer), partial(writer.part, answer)))
        await put(writer.tail(), last=True)
    except ServiceError as error:
        await put(writer.broken(error))
        raise
    finally:
        spool.finish()


class Endpoint:
    """A route's ASGI application.

    Args:
        gateway: keeps the accounts.
        handler: leaves the answer in the exchange, or sends it itself.
        refuse: writes an error as an answer.
    """

    def __init__(
        self,
        gateway: Gateway,
        handler: Callable[[Exchange], Awaitable[None]],
        refuse: Callable[[ServiceError], Response] = error_answer,
    ) -> None:
        self._gateway = gateway
        self._refuse = refuse
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(self._gateway, Request(scope, receive), send, self._refuse)
        await self._handler(exchange)
        await exchange.finish()


async def off_loop(size: int, work: Callable[[], Value]) -> Value:
    """Do the work here when it is small, in a thread when it would hold up others."""
    return work() if size < _OFF_LOOP_BYTES else await asyncio.to_thread(work)


async def while_connected(request: Request, answer: Coroutine[Any, Any, Value]) -> Value:
    """The gateway's answer; when the client goes away first, its rows leave the queue.

    Args:
        request: whose body was read to its end.
        answer: what the client waits for.

    Raises:
        RequestCancelled: the client went away.
    """
    task = asyncio.current_task()
    listening = asyncio.ensure_future(_disconnected(request.receive))
    left = over = False

    def leave(_: object) -> None:
        nonlocal left
        if task is not None and not over and not listening.cancelled():
            left = True
            task.cancel()

    listening.add_done_callback(leave)
    try:
        try:
            return await answer
        finally:
            over = True
            listening.cancel()
            if left:
                # A cancellation that came too late for the answer arrives here, and not where the task waits next.
                await asyncio.sleep(0)
    except asyncio.CancelledError:
        # By whoever ends the service, or by the client's leaving, which is answered for here.
        if task is None or not left or task.uncancel() > 0:
            raise
        raise RequestCancelled("CANCELLED", "the client went away before its answer was ready") from None


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
