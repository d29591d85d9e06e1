"""Reads request bodies, never more of them than the limit allows."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlinePassed, InvalidRequest, RequestCancelled, RequestTooLarge, Violation


async def read_body(request: Request, limit: int, deadline: float) -> bytes:
    """The whole body.

    Raises:
        RequestTooLarge: it is, or says it is, longer than ``limit`` bytes; what came after was not kept.
        DeadlinePassed: it did not arrive in time.
        RequestCancelled: the client went away in the middle.
    """
    announced = request.headers.get("content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit:
        raise _too_large(f"{announced} bytes announced", limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(deadline):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(f"{size} bytes and more given", limit)
                parts.append(part)
    except TimeoutError:
        raise DeadlinePassed("DEADLINE_PASSED", f"the deadline passed with {size} bytes of the body read") from None
    except ClientDisconnect:
        raise RequestCancelled("CANCELLED", "the client went away while sending its body") from None
    if not size:
        raise InvalidRequest.of("EMPTY_BODY", "body", "is empty; expected rows or, to draw samples, a count")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(given: str, limit: int) -> RequestTooLarge:
    text = f"{given}; at most {limit} in one request (the setting max_request_bytes): send it in parts"
    return RequestTooLarge("REQUEST_TOO_LARGE", [Violation("body", text)])
