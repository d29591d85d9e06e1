"""One gateway of several: a process that the parent starts as ``python -m service.processes.gateway FD``."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import sys
from pathlib import Path

from prometheus_client import disable_created_metrics

from service.engines import create
from service.engines.engine import EngineError
from service.engines.torchserve.shared import SharedTorchServe
from service.errors import PortTakenError
from service.metrics import Metrics
from service.process_setup import allow_files, new_loop, write_log
from service.processes.channel import Channel
from service.running import Running
from service.security.certificates import CertificateError
from service.security.tokens import TokenFileError
from service.service import Service
from service.settings import Settings
from service.shared_metrics import SharedMetrics

log = logging.getLogger(__name__)


async def run(end: socket.socket) -> int:
    """Be what the parent says over its end of a socket pair; returns the exit code."""
    channel = await Channel.over(end)
    begin = await channel.receive()
    if begin is None:
        return 1
    settings, number, folder = Settings(**begin["settings"]), int(begin["number"]), Path(begin["folder"])
    write_log(settings.log_level, f"gateway-{number}")
    allow_files(settings)
    shared_metrics = SharedMetrics(folder)
    shared_metrics.join(number)
    torchserve = SharedTorchServe()
    torchserve.told(begin["torchserve"])
    orphaned = asyncio.Event()
    try:
        engine = create(settings, torchserve, folder / "leases")
        service = Service(settings, engine, Metrics(shared_metrics))
        running = Running(
            service, lambda topic, text: channel.send({"say": topic, "text": text}), load_first=begin["again"]
        )
        listening = asyncio.create_task(_listen(channel, torchserve, running, orphaned))
        await running.run()
        listening.cancel()
    except (PortTakenError, EngineError, TokenFileError, CertificateError) as error:
        channel.send({"say": "failed", "text": str(error)})
        return 1
    finally:
        await channel.close()
    if orphaned.is_set():
        # The parent was killed, and cannot remove it.
        shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _listen(channel: Channel, torchserve: SharedTorchServe, running: Running, orphaned: asyncio.Event) -> None:
    """Hear from the parent where TorchServe is; without a parent, end."""
    while (message := await channel.receive()) is not None:
        torchserve.told(message["torchserve"])
    log.warning("the parent is gone; this gateway ends")
    orphaned.set()
    running.stop()


def main() -> None:
    """Run, and end this process."""
    # The time each series began, which would double the length of /metrics.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    with asyncio.Runner(loop_factory=new_loop) as runner:
        sys.exit(runner.run(run(socket.socket(fileno=int(sys.argv[1])))))


if __name__ == "__main__":
    main()
