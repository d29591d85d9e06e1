"""Which of the served versions are in the engine's memory: all of them, or as many as a limit allows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from service.engines.engine import EngineError, ModelKey
from service.errors import DeadlinePassed, Unavailable
from service.loading import VersionLoader
from service.metrics import Metrics
from service.registry import ModelRegistry, ServedModel

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

IDLE_SECONDS = 60.0
"""How long nobody must have asked for a version before it is unloaded for the sake of a shadow."""


class Residency:
    """Loads versions and, beyond a limit of bytes, unloads those that nobody asked for the longest time.

    A version that is unloaded is served all the same: the first request for it has it loaded again and waits. Versions
    that requests have to name go first, then shadows, then defaults and canaries. A version that a request uses stays,
    and so does the last one left, however large.

    Args:
        loader: does the work.
        registry: knows the versions that are served.
        metrics: shows what is loaded.
        max_bytes: the limit, in bytes of scorer files; None for none.
    """

    def __init__(self, loader: VersionLoader, registry: ModelRegistry, metrics: Metrics, max_bytes: int | None) -> None:
        self._loader = loader
        self._registry = registry
        self._metrics = metrics
        self._max_bytes = max_bytes
        # One version comes or goes at a time.
        self._changing = asyncio.Lock()
        self._returning: dict[ModelKey, asyncio.Task[None]] = {}
        self._retry_at: dict[ModelKey, float] = {}
        self._crowded_until = 0.0

    @property
    def bytes(self) -> int:
        """How long the scorers of all loaded versions are together."""
        return sum(served.bytes for served in self._resident())

    async def load(self, key: ModelKey) -> ServedModel:
        """Load and check a version that is not served yet.

        Raises:
            ArtefactError, EngineError, SelfCheckError: see ``VersionLoader.load``.
        """
        async with self._changing:
            return await self._loader.load(key)

    async def fit(self) -> None:
        """Unload what is too much."""
        async with self._changing:
            await self._make_room(0)
            self._metrics.set_loaded_bytes(self.bytes)

    async def unload(self, served: ServedModel) -> None:
        """Let go for good of a version that is served no more, after the last request that uses it."""
        await served.released()
        async with self._changing:
            self._retry_at.pop(served.key, None)
            await self._loader.unload(served)
            self._metrics.set_loaded_bytes(self.bytes)

    async def ensure(self, served: ServedModel, deadline: float) -> None:
        """Wait until a version is loaded, whose lease the caller holds.

        Args:
            served: the version.
            deadline: on the event loop's clock.

        Raises:
            DeadlinePassed: it is not loaded in time; it goes on being loaded for the next one who asks.
            Unavailable: it cannot be loaded now.
        """
        if served.resident:
            return
        task = self._begin_return(served)
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(task)
        except TimeoutError:
            text = f"the deadline passed while {served.key} was being loaded"
            raise DeadlinePassed("DEADLINE_PASSED", text) from None
        if not served.resident:
            raise _not_loaded(served.key)

    async def bring_back(self, shadow: ServedModel) -> bool:
        """Load a shadow again whose lease the caller holds, unless callers could miss what would have to go for it.

        Returns:
            Whether it is loaded.
        """
        if not shadow.resident and (shadow.key in self._returning or self._has_spare(shadow.bytes)):
            with contextlib.suppress(Unavailable):
                await asyncio.shield(self._begin_return(shadow))
        return shadow.resident

    def retry(self) -> None:
        """Try again what could not be loaded, however short a time ago that was."""
        self._retry_at.clear()
        self._crowded_until = 0.0

    async def close(self) -> None:
        """Load nothing more."""
        tasks = list(self._returning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin_return(self, served: ServedModel) -> asyncio.Task[None]:
        """Load it again, unless that is under way.

        Raises:
            Unavailable: that failed a moment ago.
        """
        key, loop = served.key, asyncio.get_running_loop()
        task = self._returning.get(key)
        if task is None:
            if loop.time() < self._retry_at.get(key, 0.0):
                raise _not_loaded(key)
            task = self._returning[key] = loop.create_task(self._return(served))
            task.add_done_callback(lambda _: self._returning.pop(key, None))
        return task

    async def _return(self, served: ServedModel) -> None:
        # Held here too: whoever asked for it may give up, and what is being loaded must not be taken away meanwhile.
        with served.lease():
            async with self._changing:
                await self._make_room(served.bytes)
                try:
                    await self._loader.reload(served)
                except Exception as error:
                    self._retry_at[served.key] = asyncio.get_running_loop().time() + _RETRY_SECONDS
                    self._metrics.loaded(served.key.name, ok=False)
                    log.error("%s could not be loaded again: %s", served.key, error)
                    return
                self._retry_at.pop(served.key, None)
                self._metrics.loaded(served.key.name, ok=True)
                self._metrics.set_loaded_bytes(self.bytes)
                log.info("%s is loaded again", served.key)

    async def _make_room(self, needed: int) -> None:
        """Unload until so many bytes more would fit, or nothing more can go."""
        if self._max_bytes is None:
            return
        while (resident := self._resident()) and self.bytes + needed > self._max_bytes:
            free = self._in_turn(resident)
            if not free or (len(resident) == 1 and not needed):
                return
            victim = free[0]
            # From here on a request for it waits until it is loaded again, which begins after this.
            victim.resident = False
            try:
                await self._loader.evict(victim)
            except EngineError as error:
                log.error("%s could not be unloaded: %s", victim.key, error)
            self._metrics.evicted(victim.key)
            log.info("%s is unloaded until somebody asks for it: at most %d bytes", victim.key, self._max_bytes)

    def _resident(self) -> list[ServedModel]:
        served = (self._registry.get(key) for key in self._registry.loaded())
        return [model for model in served if model is not None and model.resident]

    def _in_turn(self, resident: list[ServedModel]) -> list[ServedModel]:
        """Those that no request uses, in the order in which they are unloaded."""
        free = (served for served in resident if not served.leased)
        return sorted(free, key=lambda served: (self._rank(served), served.used))

    def _rank(self, served: ServedModel) -> int:
        """Who needs it: those who name it, a shadow's comparisons, or also requests that name no version."""
        name, canary = served.key.name, self._registry.canary(served.key.name)
        if served is self._registry.default(name) or (canary is not None and served is canary[0]):
            return 2
        return 1 if served is self._registry.shadow(name) else 0

    def _has_spare(self, needed: int) -> bool:
        """Whether so many bytes would fit if only versions went that nobody asked for lately."""
        if self._max_bytes is None:
            return True
        now = time.monotonic()
        if now < self._crowded_until:
            return False
        resident = self._resident()
        excess = sum(served.bytes for served in resident) + needed - self._max_bytes
        for served in self._in_turn(resident):
            if excess <= 0 or now - served.used < IDLE_SECONDS:
                break
            excess -= served.bytes
        if excess > 0:
            # Looking through every version at each request would cost the callers something after all.
            self._crowded_until = now + _RETRY_SECONDS
        return excess <= 0


def _not_loaded(key: ModelKey) -> Unavailable:
    return Unavailable(
        "MODEL_NOT_LOADED",
        f"{key} was unloaded to save memory and cannot be loaded again now; the service's log says why",
        retry_after_seconds=_RETRY_SECONDS,
    )
