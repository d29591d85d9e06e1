"""Watches the store and keeps the versions it asks for loaded, checked and answering."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flowmodel.artefact.serving import Serving
from flowmodel.artefact.store import ModelStore
from flowmodel.errors import ArtefactError, ServingError
from service.engines.engine import EngineError, ModelKey
from service.errors import Unavailable
from service.loading import SelfCheckError
from service.metrics import Metrics
from service.registry import ModelRegistry, ServedModel
from service.residency import Residency
from service.settings import Settings

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0

_EXPECTED = (ArtefactError, EngineError, SelfCheckError, OSError, ValueError)
"""What says by itself what is wrong with a version."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that could not be loaded, why, and when to try again."""

    reason: str
    attempts: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the store has of one model: its versions, and which of them shall answer or why that cannot be told."""

    versions: list[int]
    serving: Serving | ServingError


class StoreWatcher:
    """Brings the registry in line with the store, again and again.

    A version answers only after its files' checksums, the engine's load and its self check have passed; until then, and
    when any of them fails, the versions before it go on answering. A version that leaves is unloaded after the last
    request that uses it. The same holds for ``serving.json``: while it cannot be read, what answers goes on answering.

    Args:
        store: where versions are published.
        residency: loads and unloads them.
        registry: what requests look them up in.
        settings: how many versions to keep and how often to look.
        metrics: loads are counted here.
    """

    def __init__(
        self,
        store: ModelStore,
        residency: Residency,
        registry: ModelRegistry,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.store = store
        self._residency = residency
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._looking = asyncio.Lock()
        self._failures: dict[ModelKey, Failure] = {}
        self._problems: dict[str, str] = {}
        self._shelves: dict[str, Shelf] = {}
        self._retiring: dict[ModelKey, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look at the store for ever; cancel to end."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.store_poll_seconds)

    async def look(self) -> None:
        """Refresh; whatever is wrong with the store, what is loaded goes on answering."""
        try:
            await self.refresh()
        except OSError as error:
            log.error("looking at the store %s failed: %s", self.store.place, error)
        except Exception:
            log.exception("looking at the store %s failed", self.store.place)

    async def refresh(self) -> None:
        """Look at the store once: load what is new, switch the defaults, retire what is old or gone."""
        async with self._looking:
            shelves = self._shelves = await asyncio.to_thread(self._scan)
            for name in sorted(shelves.keys() | set(self._registry.names())):
                await self._refresh_model(name, shelves.get(name, Shelf([], Serving())))
            self._forget(shelves)
            self._registry.unserved = sorted(
                name for name, shelf in shelves.items() if shelf.versions and not self._registry.versions(name)
            )
            self._registry.loading = False
            self._registry.changed.set()

    def shelf(self, name: str) -> Shelf | None:
        """What the store had of a model at the last look."""
        return self._shelves.get(name)

    def names(self) -> list[str]:
        """Models that the store had at the last look, in order."""
        return sorted(self._shelves)

    def failure(self, key: ModelKey) -> Failure | None:
        """Why a version could not be loaded."""
        return self._failures.get(key)

    def problem(self, name: str) -> str:
        """What is wrong with a model's choice of versions; empty when nothing is."""
        return self._problems.get(name, "")

    def retry(self) -> None:
        """Try versions that could not be loaded again at the next look, however short a time ago they failed."""
        self._failures.clear()
        self._residency.retry()

    async def idle(self) -> None:
        """Wait until every version that left is unloaded."""
        while self._retiring:
            await asyncio.wait(list(self._retiring.values()))

    async def close(self) -> None:
        """Answer what still waits, without waiting for its engine calls."""
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)
        await self._residency.close()
        stopped = Unavailable("DRAINING", "the service stopped before the rows were computed", retry_after_seconds=1.0)
        for key in self._registry.loaded():
            served = self._registry.remove(key)
            if served is not None:
                await served.close(stopped)

    def _scan(self) -> dict[str, Shelf]:
        """Every model in the store, its versions newest first."""
        found = {name: self._shelf(name) for name in self.store.names()}
        # A store that went away, even while it was read, looks like an empty one; one that was emptied is still there.
        if len(self._registry) and not self.store.exists():
            raise FileNotFoundError(f"the store {self.store.place} is not there now")
        return found

    def _shelf(self, name: str) -> Shelf:
        versions = sorted(self.store.versions(name), reverse=True)
        try:
            return Shelf(versions, self.store.serving(name))
        except ServingError as error:
            return Shelf(versions, error)

    async def _refresh_model(self, name: str, shelf: Shelf) -> None:
        """Load what the store asks for, switch to it, and let what it does not ask for go."""
        if isinstance(shelf.serving, ServingError):
            self._report(name, f"{shelf.serving}; until then what answers now goes on, and nothing new begins")
            self._retire_all_but(name, {ModelKey(name, version) for version in shelf.versions})
            return
        serving, versions = shelf.serving, shelf.versions
        problems: list[str] = []
        default = await self._default(name, serving, versions, problems)
        # At once: the other versions may take their time.
        self._route(name, default)
        await self._residency.fit()
        keep = {default.key} if default is not None else set()
        for version in serving.servable(versions):
            if len(keep) >= self._settings.loaded_versions:
                break
            if (served := await self._loaded(ModelKey(name, version))) is not None:
                keep.add(served.key)
                await self._residency.fit()
        previous = serving.previous_of(versions) if self._settings.loaded_versions > 1 else None
        if previous is not None and (served := await self._loaded(ModelKey(name, previous))) is not None:
            keep.add(served.key)
        canary = await self._beside(default, serving.canary and serving.canary.version, "canary", problems)
        shadow = await self._beside(default, serving.shadow, "shadow", problems)
        keep |= {served.key for served in (canary, shadow) if served is not None}
        weight = serving.canary.weight if serving.canary is not None else 0.0
        self._route(name, default, (canary, weight) if canary is not None else None, shadow)
        self._retire_all_but(name, keep)
        await self._residency.fit()
        self._report(name, "; ".join(problems))

    async def _default(
        self, name: str, serving: Serving, versions: list[int], problems: list[str]
    ) -> ServedModel | None:
        """The version to answer requests that name none: the one asked for, or what comes nearest."""
        if serving.default is not None and serving.default_of(versions) is None:
            why = "is retired" if serving.default in versions else "is not in the store"
            problems.append(f"version {serving.default}, which is to answer by default, {why}")
        present = self._registry.default(name)
        for version in serving.candidates(versions):
            served = await self._loaded(ModelKey(name, version))
            if served is not None:
                return served
            if (
                serving.default is not None
                and present is not None
                and present.key.version in serving.servable(versions)
            ):
                return present
        return None

    async def _beside(
        self, default: ServedModel | None, version: int | None, role: str, problems: list[str]
    ) -> ServedModel | None:
        """The canary or shadow of a default version, if it can be loaded and takes the same rows."""
        if version is None or default is None or version == default.key.version:
            return None
        served = await self._loaded(ModelKey(default.key.name, version))
        if served is None:
            problems.append(f"version {version}, the {role}, cannot be loaded")
        elif served.signature != default.signature:
            problems.append(f"version {version}, the {role}, takes other columns than version {default.key.version}")
            return None
        return served

    def _route(
        self,
        name: str,
        default: ServedModel | None,
        canary: tuple[ServedModel, float] | None = None,
        shadow: ServedModel | None = None,
    ) -> None:
        before = self._registry.default(name)
        self._registry.route(name, default, canary, shadow)
        if default is not before and default is not None:
            log.info("%s answers by default now%s", default.key, f", instead of {before.key}" if before else "")
        self._metrics.set_default(name, default.key.version if default is not None else None)

    async def _loaded(self, key: ModelKey) -> ServedModel | None:
        """A version that answers; None if it cannot be loaded, or failed a moment ago and is not tried again yet."""
        served = self._registry.get(key)
        if served is not None:
            return served
        now = asyncio.get_running_loop().time()
        failure = self._failures.get(key)
        if failure is not None and now < failure.retry_at:
            return None
        if key in self._retiring:
            await self._retiring[key]
        try:
            served = await self._residency.load(key)
        except Exception as error:
            # Whatever is wrong with one version must not keep the others from being served.
            attempts = 1 if failure is None else failure.attempts + 1
            wait = min(_FIRST_RETRY_SECONDS * 2 ** (attempts - 1), _LAST_RETRY_SECONDS)
            text = str(error) if isinstance(error, _EXPECTED) else f"its manifest cannot be used ({error!r})"
            self._failures[key] = Failure(text, attempts, now + wait)
            self._metrics.loaded(key.name, ok=False)
            log.error("%s could not be loaded, trying again in %g s: %s", key, wait, text)
            return None
        self._failures.pop(key, None)
        self._registry.add(served)
        self._metrics.loaded(key.name, ok=True)
        log.info("%s answers now", key)
        return served

    def _retire_all_but(self, name: str, keep: Iterable[ModelKey]) -> None:
        """Take versions away from new requests, and unload each when the last request is done with it."""
        for served in self._registry.versions(name):
            if served.key not in keep:
                self._retire(served)

    def _retire(self, served: ServedModel) -> None:
        self._registry.remove(served.key)
        task = asyncio.get_running_loop().create_task(self._residency.unload(served))
        self._retiring[served.key] = task
        task.add_done_callback(lambda _: self._retiring.pop(served.key, None))

    def _report(self, name: str, problem: str) -> None:
        """Log what is wrong with a model's choice of versions, once."""
        if problem and self._problems.get(name) != problem:
            log.error("%s: %s", name, problem)
        self._problems[name] = problem

    def _forget(self, shelves: Mapping[str, Shelf]) -> None:
        """Versions and models that left the store need no second attempt."""
        self._failures = {
            key: failure
            for key, failure in self._failures.items()
            if key.name in shelves and key.version in shelves[key.name].versions
        }
        self._problems = {name: problem for name, problem in self._problems.items() if name in shelves and problem}
