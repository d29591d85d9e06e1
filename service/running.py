"""One gateway as a process: started, told to end by signals, ended."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Literal

from service.announcement import ready_text, waiting_text
from service.service import Service

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

News = Literal["waiting", "ready", "draining"]
"""What a gateway says of itself: that it is up without a model, that it answers, that a caller has told it to end."""


class Running:
    """A service that runs until it is told to stop.

    Args:
        service: not started yet.
        say: is called with what is new, and a text for whoever started the service.
        load_first: load the models before listening, where others answer meanwhile.
    """

    def __init__(self, service: Service, say: Callable[[News, str], None], *, load_first: bool = False) -> None:
        self._service = service
        self._say = say
        self._load_first = load_first
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run the service until a signal, or ``stop``, ends it.

        Raises:
            PortTakenError: a port cannot be listened on.
            EngineError: the engine cannot be started.
        """
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop)
        working = asyncio.create_task(self._work())
        ends = [asyncio.create_task(event.wait()) for event in (self._stopping, self._service.gateway.stopping)]
        try:
            await asyncio.wait((working, *ends), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ends, working):
                task.cancel()
            (outcome,) = await asyncio.gather(working, return_exceptions=True)
            if self._service.gateway.draining:
                self._say("draining", "")
            await self._service.stop()
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)
        if isinstance(outcome, Exception):
            raise outcome

    def stop(self) -> None:
        """Let requests under way finish and end; the second time, do not wait for them."""
        if self._stopping.is_set():
            self._service.hurry()
            return
        log.info("stopping: requests under way have %g s to finish", self._service.settings.drain_seconds)
        self._stopping.set()

    async def _work(self) -> None:
        """Start everything, say so, and wait; ends only by an error or by being cancelled."""
        service = self._service
        if self._load_first:
            await service.load()
            ports = await service.listen()
        else:
            ports = await service.listen()
            await service.load()
        if service.gateway.unready_reason is not None:
            self._say("waiting", waiting_text(service, ports))
        await service.ready()
        self._say("ready", ready_text(service, ports))
        await asyncio.Event().wait()
