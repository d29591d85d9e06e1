"""Reads request bodies, whole or as they arrive, never more of them at once than the limits allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlinePassed, InvalidRequest, RequestCancelled, RequestTooLarge, Violation
from service.settings import Settings
from service.streams import CHUNK_BYTES, Streams
from service.web.compression import MOST_RATIO, inflater


class Body:
    """The body of one request, inflated where it is deflated.

    Args:
        request: whose body.
        settings: the limits.
        deadline: by which a body that is read whole must be there, on the event loop's clock.

    Raises:
        UnsupportedContentType: its Content-Encoding is none of ours.
    """

    def __init__(self, request: Request, settings: Settings, deadline: float) -> None:
        self._limit = settings.max_request_bytes
        self._deadline = deadline
        self._inflater = inflater(request)
        announced = request.headers.get("content-length", "")
        self._announced = int(announced) if announced.isdecimal() else None
        self._arriving: AsyncIterator[bytes] = aiter(request.stream())
        self._held: list[bytes] = []
        self._size = 0
        self._ended = False

    async def is_long(self) -> bool:
        """Whether it should rather be read as it arrives.

        That is so when it says that it is longer than a message may be, or does not say how long it is and goes on
        after the first block.
        """
        if self._announced is not None:
            return self._announced > self._limit
        await self._hold(CHUNK_BYTES)
        return not self._ended

    async def whole(self, advice: str = "send it in parts") -> bytes:
        """All of it.

        Args:
            advice: what to do with a longer one.

        Raises:
            RequestTooLarge: it is, or says it is, longer than a message may be; what came after was not kept.
            DeadlinePassed: it did not arrive in time.
            RequestCancelled: the client went away in the middle.
        """
        if self._announced is not None and self._announced > self._limit:
            raise self._too_large(f"{self._announced} bytes announced", advice)
        await self._hold(self._limit)
        if not self._ended:
            raise self._too_large(f"{self._size} bytes and more given", advice)
        if not self._size:
            raise InvalidRequest.of("EMPTY_BODY", "body", "is empty; expected rows or, to draw samples, a count")
        return self._taken()

    async def blocks(self, streams: Streams) -> AsyncGenerator[bytes, None]:
        """All of it, block by block, about ``CHUNK_BYTES`` each.

        Args:
            streams: does not wait for ever for the client, nor keep the service from stopping.
        """
        while not self._ended or self._held:
            while not self._ended and self._size < CHUNK_BYTES:
                await streams.attend(self._arrive(MOST_RATIO))
            if self._size:
                yield self._taken()

    async def _hold(self, size: int) -> None:
        """Read until more than so many bytes are there, or the end."""
        try:
            async with asyncio.timeout_at(self._deadline):
                while not self._ended and self._size <= size:
                    await self._arrive(None)
        except TimeoutError:
            text = f"the deadline passed with {self._size} bytes of the body read"
            raise DeadlinePassed("DEADLINE_PASSED", text) from None

    async def _arrive(self, most_ratio: int | None) -> None:
        """Hold what arrives next."""
        try:
            part = await anext(self._arriving, None)
        except ClientDisconnect:
            raise RequestCancelled("CANCELLED", "the client went away while sending its body") from None
        if part is None:
            self._ended = True
            if self._inflater is not None:
                self._inflater.finish()
        elif self._inflater is None:
            self._keep(part)
        else:
            for piece in self._inflater.feed(part, most_ratio):
                self._keep(piece)
                if most_ratio is None and self._size > self._limit:
                    raise self._too_large(f"{self._size} bytes and more, when inflated, given", "send it in parts")

    def _keep(self, part: bytes) -> None:
        if part:
            self._held.append(part)
            self._size += len(part)

    def _taken(self) -> bytes:
        held = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held, self._size = [], 0
        return held

    def _too_large(self, given: str, advice: str) -> RequestTooLarge:
        text = f"{given}; at most {self._limit} in one request (the setting max_request_bytes): {advice}"
        return RequestTooLarge("REQUEST_TOO_LARGE", [Violation("body", text)])
