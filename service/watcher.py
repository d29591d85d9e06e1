"""Watches the store and keeps the newest versions of every model loaded, checked and answering."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.store import ModelStore, PublishedModel
from flowmodel.errors import ArtefactError
from service.engines.engine import Draw, Engine, EngineError, EngineUnavailable, ModelKey
from service.errors import Unavailable
from service.metrics import Metrics
from service.registry import ModelRegistry, ServedModel
from service.settings import Settings

log = logging.getLogger(__name__)

_WARM_UP_CALLS = 3
"""TorchScript profiles a module on its first calls and compiles it on the next; no request should wait for that."""

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0


class SelfCheckError(Exception):
    """A loaded model does not answer what it answered when it was published."""


_EXPECTED = (ArtefactError, EngineError, SelfCheckError, OSError, ValueError)
"""What says by itself what is wrong with a version."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A version that could not be loaded, and when to try again."""

    attempts: int
    retry_at: float


class StoreWatcher:
    """Brings the registry in line with the store, again and again.

    A version answers only after its files' checksums, the engine's load and its self check have passed; until then, and
    when any of them fails, the versions before it go on answering. A version that leaves is unloaded after the last
    request that uses it.

    Args:
        store: where versions are published.
        engine: what loads them.
        registry: what requests look them up in.
        settings: how many versions to keep and how often to look.
        metrics: loads are counted here.
    """

    def __init__(
        self, store: ModelStore, engine: Engine, registry: ModelRegistry, settings: Settings, metrics: Metrics
    ) -> None:
        self._store = store
        self._engine = engine
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._failures: dict[ModelKey, _Failure] = {}
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
            log.error("looking at the store %s failed: %s", self._settings.store, error)
        except Exception:
            log.exception("looking at the store %s failed", self._settings.store)

    async def refresh(self) -> None:
        """Look at the store once: load what is new, retire what is old or gone."""
        available = await asyncio.to_thread(self._scan)
        for name in sorted(available.keys() | set(self._registry.names())):
            await self._refresh_model(name, available.get(name, []))
        self._forget_failures(available)
        self._registry.loading = False
        self._registry.changed.set()

    async def close(self) -> None:
        """Answer what still waits, without waiting for its engine calls."""
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)
        stopped = Unavailable("DRAINING", "the service stopped before the rows were computed", retry_after_seconds=1.0)
        for key in self._registry.loaded():
            served = self._registry.remove(key)
            if served is not None:
                await served.close(stopped)

    def _scan(self) -> dict[str, list[int]]:
        """Versions of every model in the store, newest first."""
        found = {name: sorted(self._store.versions(name), reverse=True) for name in self._store.names()}
        # A store that went away, even while it was read, looks like an empty one; one that was emptied is still there.
        if len(self._registry) and not self._store.root.is_dir():
            raise FileNotFoundError(f"the store {self._store.root} is not there now")
        return found

    async def _refresh_model(self, name: str, versions: list[int]) -> None:
        """Keep the newest versions that can be loaded, as many as the settings say, and let the others go."""
        keep: set[ModelKey] = set()
        for version in versions:
            if len(keep) == self._settings.loaded_versions:
                break
            key = ModelKey(name, version)
            if key in self._registry or await self._load(key):
                keep.add(key)
        for served in self._registry.versions(name):
            if served.key not in keep:
                self._retire(served)
        newest = self._registry.versions(name)
        self._metrics.set_default(name, newest[0].key.version if newest else None)

    async def _load(self, key: ModelKey) -> bool:
        """Whether a version now answers; one that failed a moment ago is not tried again yet."""
        now = asyncio.get_running_loop().time()
        failure = self._failures.get(key)
        if failure is not None and now < failure.retry_at:
            return False
        if key in self._retiring:
            await self._retiring[key]
        try:
            served = await self._prepare(key)
        except Exception as error:
            # Whatever is wrong with one version must not keep the others from being served.
            attempts = 1 if failure is None else failure.attempts + 1
            wait = min(_FIRST_RETRY_SECONDS * 2 ** (attempts - 1), _LAST_RETRY_SECONDS)
            self._failures[key] = _Failure(attempts, now + wait)
            self._metrics.loaded(key.name, ok=False)
            text = str(error) if isinstance(error, _EXPECTED) else f"its manifest cannot be used ({error!r})"
            log.error("%s could not be loaded, trying again in %g s: %s", key, wait, text)
            return False
        self._failures.pop(key, None)
        self._registry.add(served)
        self._metrics.loaded(key.name, ok=True)
        log.info("%s answers now", key)
        return True

    async def _prepare(self, key: ModelKey) -> ServedModel:
        """Load one version and see that it answers as it did when it was published."""
        published = await asyncio.to_thread(self._open, key)
        await self._engine.load(published)
        try:
            manifest = published.manifest
            await self._self_check(key, manifest)
            served = ServedModel(key, manifest, self._engine, self._settings, self._metrics)
            self._metrics.add_version(key, self._engine.name, manifest.dtype, _quantiles(manifest))
        except BaseException:
            with contextlib.suppress(EngineError):
                await self._engine.unload(key)
            raise
        return served

    def _open(self, key: ModelKey) -> PublishedModel:
        published = self._store.open(key.name, key.version)
        published.verify()
        return published

    async def _self_check(self, key: ModelKey, manifest: Manifest) -> None:
        """Score the manifest's own rows, which also warms the model up, and compare.

        Raises:
            SelfCheckError: an answer is further off than the manifest allows.
        """
        check = manifest.self_check
        rows = np.asarray(check["rows"], dtype=np.float64).reshape(-1, manifest.event_size)
        context = None if check.get("context") is None else np.asarray(check["context"], dtype=np.float64)
        if len(rows):
            for _ in range(_WARM_UP_CALLS):
                answered = await self._engine.log_prob(key, rows, context)
            off = _largest_difference(answered, np.asarray(check["log_prob"], dtype=np.float64))
            if not off <= float(check["tolerance"]):
                raise SelfCheckError(
                    f"it answers log-densities up to {off:.3g} nats off those in its manifest, where "
                    f"{float(check['tolerance']):.3g} is allowed; publish it again with this version of torch"
                )
        one = None if context is None else context[:1]
        if context is None or len(context):
            samples, _ = await self._engine.sample(key, [Draw(0, 0, 1)], one)
            if samples.shape != (1, manifest.event_size):
                raise SelfCheckError(f"it draws rows of shape {samples.shape}; (1, {manifest.event_size}) expected")

    def _retire(self, served: ServedModel) -> None:
        """Take a version away from new requests, and unload it when the last request is done with it."""
        self._registry.remove(served.key)
        task = asyncio.get_running_loop().create_task(self._unload(served))
        self._retiring[served.key] = task
        task.add_done_callback(lambda _: self._retiring.pop(served.key, None))

    async def _unload(self, served: ServedModel) -> None:
        await served.released()
        try:
            await self._engine.unload(served.key)
        except EngineUnavailable:
            log.info("%s is gone with its engine", served.key)
        except EngineError as error:
            log.error("%s could not be unloaded: %s", served.key, error)
        self._metrics.remove_version(served.key, self._engine.name, served.manifest.dtype)
        log.info("%s is unloaded", served.key)

    def _forget_failures(self, available: Mapping[str, list[int]]) -> None:
        """Versions that left the store need no second attempt."""
        self._failures = {
            key: failure for key, failure in self._failures.items() if key.version in available.get(key.name, [])
        }


def _largest_difference(answered: np.ndarray, published: np.ndarray) -> float:
    """Largest absolute difference, 0 where both are the same infinity, NaN counting as infinitely far."""
    if answered.shape != published.shape:
        return math.inf
    with np.errstate(invalid="ignore"):
        difference = np.where(answered == published, 0.0, np.abs(answered.astype(np.float64) - published))
    return float(np.nan_to_num(difference, nan=math.inf, posinf=math.inf).max(initial=0.0))


def _quantiles(manifest: Manifest) -> list[float]:
    """Quantiles of the held-out log-density; none when the model was published without held-out rows."""
    return [float(value) for value in (manifest.reference_log_prob or {}).get("log_prob", [])]
