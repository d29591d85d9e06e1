"""One gRPC call as every servicer sees it: its account and its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeAlias, TypeVar

import grpc

from service.errors import DeadlinePassed, ServiceError
from service.gateway import Gateway, settled
from service.metrics import Request
from service.request_id import GIVEN_ID
from service.rpc.status import to_status

Context: TypeAlias = grpc.aio.ServicerContext

Value = TypeVar("Value")


class CallAccount:
    """Accounts for one call; a service error in it ends the call with its rich status.

    Args:
        gateway: keeps the accounts.
        method: as the RPC is called.
        context: of the call.
    """

    __slots__ = ("_account", "_context", "_timed")

    def __init__(self, gateway: Gateway, method: str, context: Context) -> None:
        self._timed = gateway.metrics.request(method)
        self._context = context

    async def __aenter__(self) -> Request:
        self._account = self._timed.__enter__()
        self._account.affinity = GIVEN_ID.get()
        return self._account

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = settled(self._account, error) or error
        # gRPC cancels a call whose deadline passed, as it does one whose client went away.
        if isinstance(error, asyncio.CancelledError) and self._context.time_remaining() == 0:
            self._account.code = DeadlinePassed.code
        self._timed.__exit__(None, None, None)
        if isinstance(failure, ServiceError):
            await self._context.abort_with_status(to_status(failure))


def deadline_of(gateway: Gateway, context: Context) -> float:
    """When the answer is due, on the event loop's clock."""
    return gateway.deadline(context.time_remaining())


async def to_its_end(operation: Awaitable[Value]) -> Value:
    """A read or write of gRPC's, which goes on to its end where whoever waits for it is cancelled.

    Cancelled itself, it would never free the message that it holds, nor the buffer that the message came in.
    """
    running = asyncio.ensure_future(operation)
    running.add_done_callback(_noticed)
    return await asyncio.shield(running)


def _noticed(running: asyncio.Future[Value]) -> None:
    """Keep asyncio from complaining of a failure that nobody waited for any more."""
    if not running.cancelled():
        running.exception()
