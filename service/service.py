"""The whole service: engine, models, gateway, gRPC and HTTP, started in order and stopped in the opposite one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from flowmodel.artefact.remote_store import open_store
from service.admin.server import AdminServer
from service.engines import create
from service.engines.engine import Engine
from service.gateway import Gateway
from service.loading import VersionLoader
from service.memory import give_back
from service.metrics import Metrics
from service.registry import ModelRegistry
from service.residency import Residency
from service.rpc.server import RpcServer
from service.security.admission import Admission, is_loopback
from service.security.certificates import Certificates
from service.settings import Settings
from service.watcher import StoreWatcher
from service.web.server import WebServer

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 1.0
"""How long answers that are ready may take to reach their clients once no request is under way."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the servers listen."""

    grpc: int
    http: int
    admin: int | None = None


class Service:
    """Everything that ``flowmodel serve`` runs, in the event loop it is started in.

    Args:
        settings: see ``service.settings``.
        engine: instead of the one that the settings name.
        metrics: instead of ones of its own.

    Example:
        >>> settings = Settings(engine="inprocess", grpc_port=0, http_port=0, store="no/models")
        >>> async def main():
        ...     async with Service(settings) as service:
        ...         return service.gateway.unready_reason
        >>> asyncio.run(main())
        'no model in the store yet'
    """

    def __init__(self, settings: Settings, engine: Engine | None = None, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.engine = create(settings) if engine is None else engine
        self.metrics = Metrics() if metrics is None else metrics
        self.registry = ModelRegistry()
        store = open_store(settings.store, settings.store_cache)
        loader = VersionLoader(store, self.engine, settings, self.metrics)
        residency = Residency(loader, self.registry, self.metrics, settings.max_loaded_bytes)
        self.gateway = Gateway(settings, self.engine, self.registry, residency, self.metrics)
        self.watcher = StoreWatcher(store, residency, self.registry, settings, self.metrics)
        admission = Admission(settings, self.metrics)
        certificates = Certificates.from_settings(settings)
        self._rpc = RpcServer(self.gateway, settings, admission, certificates)
        self._web = WebServer(self.gateway, settings, admission, certificates)
        self._admin = AdminServer.from_settings(settings, self.gateway, self.watcher, certificates)
        self._tasks: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()
        self._ready = asyncio.Event()

    async def listen(self) -> Ports:
        """Open the ports; until models are loaded, health says that the service is not ready.

        Raises:
            PortTakenError: a port cannot be listened on.
        """
        if self.settings.token_file is None and not is_loopback(self.settings.host):
            log.warning(
                "anybody who reaches %s can ask for everything: no tokens are asked for (the setting token_file)",
                self.settings.host,
            )
        return Ports(
            grpc=await self._rpc.start(),
            http=await self._web.start(),
            admin=await self._admin.start() if self._admin is not None else None,
        )

    async def load(self) -> None:
        """Start the engine, load what the store holds, and watch both from then on.

        Raises:
            EngineError: the engine cannot be started.
        """
        self._tasks.append(asyncio.create_task(self._report_health()))
        self._tasks.append(asyncio.create_task(give_back()))
        await self.engine.start()
        await self.watcher.look()
        self._tasks.append(asyncio.create_task(self.watcher.run()))

    async def ready(self) -> None:
        """Wait until at least one model can be asked."""
        await self._ready.wait()

    async def stop(self) -> None:
        """Say that no more requests are wanted, let those under way finish, and end everything."""
        self.gateway.stopping.set()
        await self._rpc.leave()
        closing_web = asyncio.create_task(self._web.stop())
        drained = await self._drain()
        if not drained:
            self._web.force()
        await self._rpc.stop(_FLUSH_SECONDS if drained else 0)
        await closing_web
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._admin is not None:
            await self._admin.stop()
        await self.gateway.shadows.close()
        await self.watcher.close()
        await self.engine.close()

    def hurry(self) -> None:
        """Stop waiting for requests under way; they are answered UNAVAILABLE."""
        self._hurry.set()

    async def __aenter__(self) -> Self:
        try:
            self.ports = await self.listen()
            await self.load()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _drain(self) -> bool:
        """Whether every request under way was answered within the draining time."""
        idle, hurry = asyncio.create_task(self.gateway.idle()), asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait((idle, hurry), timeout=self.settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
            return idle.done()
        finally:
            idle.cancel()
            hurry.cancel()

    async def _report_health(self) -> None:
        """Keep gRPC health in step with the models at once, and with the engine at every look at the store."""
        while True:
            self.registry.changed.clear()
            await self._rpc.report_health()
            if self.gateway.unready_reason is None:
                self._ready.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.store_poll_seconds):
                    await self.registry.changed.wait()
