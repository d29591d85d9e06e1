"""One TorchServe for several gateways: kept by their parent, found and used by each of them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.engines.engine import EngineError, EngineUnavailable
from service.engines.torchserve.keys import KeyFile
from service.engines.torchserve.leases import Leases
from service.engines.torchserve.options import TorchServeOptions
from service.engines.torchserve.process import Ports, TorchServeProcess, back_off

log = logging.getLogger(__name__)

Whereabouts = dict[str, Any]
"""Where a TorchServe is, as JSON-able values: its process, its folder and its ports."""


class TorchServeKeeper:
    """Starts one TorchServe for others and starts it again whenever it ends.

    Args:
        options: see there.
        tell: is called with where it is whenever it has come up, and with None when it has ended.
    """

    def __init__(self, options: TorchServeOptions, tell: Callable[[Whereabouts | None], None]) -> None:
        self._options = options
        self._tell = tell

    async def run(self) -> None:
        """Keep it up until cancelled, which ends it.

        Raises:
            EngineError: the first start failed.
        """
        for life in itertools.count():
            for attempt in itertools.count():
                process = TorchServeProcess(self._options)
                try:
                    await process.start()
                    break
                except (EngineError, OSError) as error:
                    if life == 0:
                        raise
                    log.error("TorchServe did not come back: %s", error)
                finally:
                    if not process.up:
                        await process.stop()
                await back_off(attempt + 1)
            try:
                log.info("TorchServe is up, process %d", process.pid)
                process.leases_folder.mkdir()
                self._tell({"pid": process.pid, "folder": str(process.folder), "ports": list(process.ports)})
                await process.wait()
                log.warning("TorchServe ended; it is started again")
                self._tell(None)
            finally:
                await process.stop()


class SharedTorchServe:
    """What a gateway knows of the TorchServe that its parent keeps."""

    def __init__(self) -> None:
        self._life: SharedLife | None = None
        self._changed = asyncio.Event()

    def told(self, whereabouts: Whereabouts | None) -> None:
        """The parent says where it is, or that it is gone."""
        if self._life is not None:
            self._life.end()
        self._life = SharedLife(whereabouts) if whereabouts is not None else None
        self._changed.set()

    async def life(self, timeout_seconds: float) -> SharedLife:
        """The TorchServe that is up, waited for.

        Raises:
            EngineUnavailable: none came up within the time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._life is None:
                    self._changed.clear()
                    await self._changed.wait()
                return self._life
        except TimeoutError:
            raise EngineUnavailable(f"no TorchServe came up within {timeout_seconds:g} s") from None


class SharedLife:
    """One life of a TorchServe that somebody else keeps; as a ``TorchServeProcess`` is for its keeper.

    Args:
        whereabouts: see there.
    """

    def __init__(self, whereabouts: Whereabouts) -> None:
        folder = Path(whereabouts["folder"])
        self.pid = int(whereabouts["pid"])
        self.ports = Ports(*whereabouts["ports"])
        self.model_store = folder / "store"
        self.keys = KeyFile(folder / "key_file.json")
        self.leases = Leases(folder / "leases")
        self._ended = asyncio.Event()

    def end(self) -> None:
        """It is gone."""
        self._ended.set()

    async def start(self) -> None:
        """It is up already."""

    async def wait(self) -> None:
        """Return when it is gone."""
        await self._ended.wait()

    async def stop(self) -> None:
        """Use it no more; it goes on for the others."""
        self.leases.close()
