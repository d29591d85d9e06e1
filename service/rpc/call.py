"""One gRPC call as every servicer sees it: its account and its deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from service.errors import DeadlinePassed, ServiceError
from service.gateway import Gateway, answering
from service.metrics import Request
from service.rpc.status import to_status

Context: TypeAlias = grpc.aio.ServicerContext


@contextlib.asynccontextmanager
async def account_for(gateway: Gateway, method: str, context: Context) -> AsyncIterator[Request]:
    """Account for one call; a service error in it ends the call with its rich status."""
    try:
        with gateway.metrics.request(method) as account:
            account.affinity = given_request_id(context)
            try:
                async with answering(account):
                    yield account
            except asyncio.CancelledError:
                # gRPC cancels a call whose deadline passed, as it does one whose client went away.
                if context.time_remaining() == 0:
                    account.code = DeadlinePassed.code
                raise
    except ServiceError as error:
        await context.abort_with_status(to_status(error))


def deadline_of(gateway: Gateway, context: Context) -> float:
    """When the answer is due, on the event loop's clock."""
    return gateway.deadline(context.time_remaining())


def given_request_id(context: Context) -> str:
    """What the caller calls this request; empty if nothing."""
    for name, value in context.invocation_metadata() or ():
        if name == "x-request-id":
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""
