"""The parent of several gateway processes: starts them, watches them, ends them, and answers nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service.engines.engine import EngineError
from service.engines.torchserve.options import TorchServeOptions
from service.engines.torchserve.process import back_off
from service.engines.torchserve.shared import TorchServeKeeper, Whereabouts
from service.processes.channel import Channel, Message
from service.processes.ports import SharedPorts
from service.settings import Settings
from service.shared_metrics import FOLDER_VARIABLE, SharedMetrics

log = logging.getLogger(__name__)

_LONG_LIFE_SECONDS = 60.0
"""A gateway that lived so long and ends is started again at once."""
_ENDING_SECONDS = 20.0
"""How long a gateway may take to end, after the draining time."""


class ServiceFailedError(Exception):
    """The service could not be started; the text says why and what to change."""


class Parent:
    """Runs the processes of one service.

    It holds no model and no server, so little can go wrong with it: when it is killed, the others end.

    Args:
        settings: of the whole service.
        say: is called with the lines that a person waits for.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._said: set[str] = set()
        self._ready: dict[int, str] = {}
        self._failure: str | None = None
        self._stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._channels: dict[int, Channel] = {}
        self._torchserve: Whereabouts | None = None

    async def run(self) -> None:
        """Run until a signal ends the service.

        Raises:
            PortTakenError: a port cannot be listened on.
            ServiceFailedError: something else is missing.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        with SharedPorts(self._settings) as ports, _folder() as folder:
            keeper = asyncio.create_task(self._keep_torchserve())
            keepers = [
                asyncio.create_task(self._keep(number, ports, folder)) for number in range(self._settings.processes)
            ]
            try:
                await asyncio.gather(*keepers)
            finally:
                keeper.cancel()
                for task in keepers:
                    task.cancel()
                await asyncio.gather(keeper, *keepers, return_exceptions=True)
        if self._failure is not None:
            raise ServiceFailedError(self._failure)

    def stop(self) -> None:
        """Have every gateway finish what is under way and end; the second time, not wait for it."""
        if not self._stopping.is_set():
            log.info("stopping %d gateways", len(self._processes))
            self._stopping.set()
        for process in self._processes.values():
            _signal(process, signal.SIGTERM)

    async def _keep_torchserve(self) -> None:
        """Run the one TorchServe of all gateways, if it is to be a child."""
        if self._settings.engine != "torchserve" or self._settings.torchserve_address is not None:
            return
        try:
            await TorchServeKeeper(TorchServeOptions.from_settings(self._settings), self._tell).run()
        except (EngineError, OSError) as error:
            self._fail(str(error))

    def _tell(self, whereabouts: Whereabouts | None) -> None:
        self._torchserve = whereabouts
        for channel in self._channels.values():
            channel.send({"torchserve": whereabouts})

    async def _keep(self, number: int, ports: SharedPorts, folder: Path) -> None:
        """Start a gateway, and again whenever it ends, until the service stops."""
        metrics, attempt, loop = SharedMetrics(folder), 0, asyncio.get_running_loop()
        for life in itertools.count():
            began = loop.time()
            try:
                ending = await self._live(number, ports, folder, again=life > 0)
            except OSError as error:
                ending = f"it cannot be started: {error}"
            self._ready.pop(number, None)
            metrics.leave(number)
            if self._stopping.is_set():
                return
            attempt = 0 if loop.time() - began > _LONG_LIFE_SECONDS else attempt + 1
            log.error("gateway %d ended and is started again: %s", number, ending)
            waiting = asyncio.create_task(back_off(max(attempt - 1, 0)))
            stopped = asyncio.create_task(self._stopping.wait())
            await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            stopped.cancel()
            if self._stopping.is_set():
                return

    async def _live(self, number: int, ports: SharedPorts, folder: Path, *, again: bool) -> str:
        """One life of a gateway; returns how it ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-P", "-m", "service.processes.gateway", str(theirs.fileno())],
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, FOLDER_VARIABLE: str(folder)},
                # Ctrl-C reaches the whole group of a terminal, and it is the parent who says when to end.
                start_new_session=True,
            )
        self._processes[number] = process
        channel = self._channels[number] = await Channel.over(ours)
        ending = asyncio.create_task(self._insist(process))
        try:
            channel.send(
                {
                    "number": number,
                    "settings": self._settings_of(number, ports),
                    "folder": str(folder),
                    "torchserve": self._torchserve,
                    "again": again,
                }
            )
            if self._stopping.is_set():
                _signal(process, signal.SIGTERM)
            while (message := await channel.receive()) is not None:
                self._hear(number, message, again=again)
            return _ending(await process.wait())
        finally:
            ending.cancel()
            _signal(process, signal.SIGKILL)
            del self._processes[number], self._channels[number]
            await channel.close()

    def _settings_of(self, number: int, ports: SharedPorts) -> dict[str, Any]:
        """The settings of one gateway: the ports that were chosen, its share of the threads."""
        count, threads = self._settings.processes, self._settings.threads
        if self._settings.engine == "inprocess":
            threads = max(1, threads // count + (number < threads % count))
        own = {
            "grpc_port": ports.grpc,
            "http_port": ports.http,
            "admin_port": ports.admin if number == 0 else None,
            "threads": threads,
        }
        return self._settings.model_copy(update=own).model_dump(mode="json")

    def _hear(self, number: int, message: Message, *, again: bool) -> None:
        topic, text = message["say"], message["text"]
        if topic == "waiting":
            self._say_once("waiting", text)
        elif topic == "ready":
            self._ready[number] = text
            if len(self._ready) == self._settings.processes:
                # The first one knows of the admin API too.
                self._say_once("ready", self._ready[0])
        elif topic == "failed" and not again:
            self._fail(text)
        elif topic == "failed":
            log.error("gateway %d: %s", number, text)
        elif topic == "draining" and not self._stopping.is_set():
            self.stop()

    def _say_once(self, topic: str, text: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            self._say(text)

    def _fail(self, text: str) -> None:
        self._failure = self._failure or text
        self.stop()

    async def _insist(self, process: asyncio.subprocess.Process) -> None:
        """Kill a gateway that does not end in its time once the service stops."""
        await self._stopping.wait()
        await asyncio.sleep(self._settings.drain_seconds + _ENDING_SECONDS)
        log.error("the gateway with process id %d does not end, and is killed", process.pid)
        _signal(process, signal.SIGKILL)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """The folder that all processes share."""
    folder = Path(tempfile.mkdtemp(prefix="flowmodel-processes-"))
    (folder / "leases").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
