"""The answers of a stream in asyncio, and the status that the service really ended it with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import grpc
import grpc.aio

_INVENTED = "Internal error from Core"

_STATUS_SECONDS = 5.0


class Answers:
    """Reads what a streaming call of ``grpc.aio`` is answered.

    When a stream ends while a message is being sent, ``grpc.aio`` puts a status of its own, INTERNAL, over the one that
    the service gave, sometimes before the last answers are read (https://github.com/grpc/grpc/issues/36066). This
    remembers the service's status, or waits for it, and reads the answers before it.

    Args:
        call: with an iterator of requests, or a single one; nobody else reads it.
        status_seconds: how long the status may take once the answers have ended.
    """

    def __init__(self, call: Any, status_seconds: float = _STATUS_SECONDS) -> None:
        self._call = call
        self._status_seconds = status_seconds
        # Reading goes on in this style after a status is there; in the other one it stops and loses answers.
        self._unread: AsyncGenerator[Any, None] = aiter(call)
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._remember)

    async def next(self) -> Any:
        """The next answer.

        Raises:
            grpc.aio.AioRpcError: the service ended the stream with an error.
            EOFError: the service ended the stream without one.
        """
        try:
            return await anext(self._unread)
        except StopAsyncIteration:
            raise EOFError from None
        except grpc.aio.AioRpcError as error:
            status = await self._true_status(error)
        if status.code() is grpc.StatusCode.OK:
            raise EOFError
        raise status

    async def close(self) -> None:
        """Cancel the call, if it is still under way."""
        self._call.cancel()
        await self._unread.aclose()

    async def _true_status(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The service's status where gRPC shows its own instead."""
        if not _is_invented(error):
            return error
        end = time.monotonic() + self._status_seconds
        while self._status is None:
            self._remember(self._call)
            if time.monotonic() > end:
                text = "the stream broke while a message was being sent, and gRPC did not say why"
                return grpc.aio.AioRpcError(
                    grpc.StatusCode.UNAVAILABLE, error.initial_metadata(), error.trailing_metadata(), text
                )
            await asyncio.sleep(0.005)
        return self._status

    def _remember(self, call: Any) -> None:
        status = grpc.aio.AioRpcError(
            _at_once(call.code()),
            _at_once(call.initial_metadata()),
            _at_once(call.trailing_metadata()),
            _at_once(call.details()),
            _at_once(call.debug_error_string()),
        )
        if not _is_invented(status):
            self._status = status


def _is_invented(status: grpc.aio.AioRpcError) -> bool:
    return status.code() is grpc.StatusCode.INTERNAL and status.details() == _INVENTED


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that does not wait, as those about the status of a call that has one."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        coroutine.close()
    raise RuntimeError("the call has no status yet")
