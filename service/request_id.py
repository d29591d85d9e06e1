"""The id by which a request is found again: the caller's own, or one that is made here; in answers and in logs."""

from __future__ import annotations

import contextvars
import logging
import random

HEADER = "x-request-id"
"""Name of the HTTP header and of the gRPC metadata."""

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the request that is being answered; empty outside of any."""

GIVEN_ID: contextvars.ContextVar[str] = contextvars.ContextVar("given_id", default="")
"""What the caller calls the request, usable or not; empty if nothing."""

_MOST_CHARACTERS = 128


def identify(given: str) -> str:
    r"""Make an id that of the request being answered, and return it.

    Args:
        given: the caller's; one that is empty, longer than 128 characters or not printable ASCII is replaced.

    Example:
        >>> identify("order-17")
        'order-17'
        >>> len(identify("two\nlines"))
        16
    """
    usable = 0 < len(given) <= _MOST_CHARACTERS and given.isascii() and given.isprintable()
    # Nobody has to guess it or not, so the system's random numbers, which cost more than the rest, are not asked.
    request_id = given if usable else f"{random.getrandbits(64):016x}"
    REQUEST_ID.set(request_id)
    GIVEN_ID.set(given)
    return request_id


class RequestIdFilter(logging.Filter):
    """Gives each record the attribute ``request``: ``" [order-17]"`` while a request is answered, else nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through."""
        request_id = REQUEST_ID.get()
        record.request = f" [{request_id}]" if request_id else ""
        return True
