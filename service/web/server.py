"""The HTTP server on its port, in the event loop that is running already."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from service.errors import PortTakenError
from service.gateway import Gateway
from service.metrics import Metrics
from service.security.admission import Admission
from service.security.certificates import Certificates
from service.settings import Settings
from service.web.app import WebApp
from service.web.gate import Gate
from service.web.identified import Identified
from service.web.protocol import limited_protocol


class _WithoutCutOffs(logging.Filter):
    """Leaves out that an answer was not completed: that was on purpose, and the exchange has logged why."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "without completing response" not in record.getMessage()


_WITHOUT_CUT_OFFS = _WithoutCutOffs()
"""One for all servers of the process: a logger holds the same filter only once."""


_TICKS_A_SECOND = 10
"""How often uvicorn does what it does now and then."""
_LOOK_SECONDS = 10.0
"""Connections are looked at so often at least, and in each quarter of the time that a client may stand still."""


class _QuietServer(uvicorn.Server):
    """Uvicorn that leaves signals to whoever runs the process, and lets go of clients that stand still."""

    def __init__(self, config: uvicorn.Config, idle_seconds: float) -> None:
        super().__init__(config)
        self._look_ticks = max(1, int(_TICKS_A_SECOND * min(_LOOK_SECONDS, idle_seconds / 4)))

    async def on_tick(self, counter: int) -> bool:
        """What is done a few times a second."""
        if counter % self._look_ticks == 0:
            for connection in list(self.server_state.connections):
                connection.let_go()  # type: ignore[union-attr]
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """An ASGI application on one port.

    Args:
        app: answers.
        host: address to listen on.
        port: 0 takes a free one.
        option: that chooses the port, for the error.
        settings: limits of connections, and how long to drain.
        metrics: counts connections that were refused.
        certificates: for TLS; None speaks plain text.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        option: str,
        settings: Settings,
        metrics: Metrics,
        certificates: Certificates | None = None,
    ) -> None:
        self._host, self._port, self._option = host, port, option
        self._shared = settings.processes > 1
        config = uvicorn.Config(
            app,
            http=limited_protocol(settings, metrics),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Callers are told apart by the address they really have, not by one that they write into a header.
            proxy_headers=False,
            # It is only ever added to the time, which may as well be a fraction.
            timeout_keep_alive=settings.http_keepalive_seconds,  # type: ignore[arg-type]
            timeout_graceful_shutdown=max(1, math.ceil(settings.drain_seconds)),
        )
        config.load()
        logging.getLogger("uvicorn.error").addFilter(_WITHOUT_CUT_OFFS)
        if certificates is not None:
            config.ssl = certificates.server_context()
        self._server = _QuietServer(config, settings.stream_idle_seconds)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen.

        Returns:
            The port, which is a free one when the settings say 0.

        Raises:
            PortTakenError: another program has the port, or the address is not one of this machine.
        """
        listener = self._listen()
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Take no more connections, and end when the requests under way are answered or the draining time is over."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving

    def force(self) -> None:
        """Wait no longer for requests under way."""
        self._server.force_exit = True

    def _listen(self) -> socket.socket:
        host, port = self._host, self._port
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if os.name == "posix":
                # Without this, a port stays taken for a minute after a service on it has ended.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            raise PortTakenError(
                f"cannot listen for HTTP on {host}:{port}: {error.strerror}; "
                f"choose another one with {self._option}, or 0 for a free one"
            ) from None
        listener.setblocking(False)
        return listener


class WebServer(HttpServer):
    """The gateway over HTTP.

    Args:
        gateway: answers.
        settings: address and how long to drain.
        admission: who may call.
        certificates: for TLS; None speaks plain text.
    """

    def __init__(
        self, gateway: Gateway, settings: Settings, admission: Admission, certificates: Certificates | None = None
    ) -> None:
        self.app = WebApp(gateway).app
        super().__init__(
            Identified(Gate(self.app, admission)),
            settings.host,
            settings.http_port,
            option="--http-port",
            settings=settings,
            metrics=gateway.metrics,
            certificates=certificates,
        )
