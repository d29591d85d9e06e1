"""A connection of the HTTP server: how many there may be, and how long one may take to ask for something."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import LimitExceeded
from service.metrics import Metrics
from service.settings import Settings
from service.web.answers import error_answer

_REFUSED_AT_ONCE = 64
"""Connections too many that are told so; still further ones are cut off without a word."""


def limited_protocol(settings: Settings, metrics: Metrics) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol with limits; whoever runs it calls ``let_go`` of each connection now and then.

    Args:
        settings: the limits.
        metrics: counts connections that were refused.
    """
    most, head_seconds, idle_seconds = (
        settings.max_connections,
        settings.request_head_seconds,
        settings.stream_idle_seconds,
    )

    class LimitedProtocol(HttpToolsProtocol):
        """One connection; a request's head that does not arrive in time ends it, so that idlers cannot take all."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head: asyncio.TimerHandle | None = None
            self._unsent, self._unsent_since = 0, 0.0

        def let_go(self) -> None:
            """Cut the connection off if it is to be closed and its client takes nothing of what is yet to be sent.

            A transport that is closed waits for that, for ever if need be, and its connection counts as long.
            """
            if not self.transport.is_closing():
                return
            unsent, now = self.transport.get_write_buffer_size(), self.loop.time()
            if not self._unsent_since or unsent < self._unsent:
                self._unsent, self._unsent_since = unsent, now
            elif now - self._unsent_since >= idle_seconds:
                self.transport.abort()

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_head()
            if len(self.connections) <= most:
                return
            metrics.rejected("too_many_connections")
            if len(self.connections) > most + _REFUSED_AT_ONCE:
                transport.abort()
            else:
                self.app = _refuse

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect_head()

        def on_headers_complete(self) -> None:
            self._stop_expecting()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_expecting()
            super().connection_lost(exc)
            # Uvicorn leaves the timer of a connection that was reset, and the timer all that belongs to it.
            self._unset_keepalive_if_required()

        def _expect_head(self) -> None:
            self._stop_expecting()
            self._head = self.loop.call_later(head_seconds, self.transport.abort)

        def _stop_expecting(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
        text = f"{most} connections are open, as many as this service takes on (the setting max_connections)"
        answer = error_answer(LimitExceeded("TOO_MANY_CONNECTIONS", text, retry_after_seconds=1.0))
        answer.headers["Connection"] = "close"
        await answer(scope, receive, send)

    return LimitedProtocol
