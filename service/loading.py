"""Loads one version: its files checked, the engine's copy warmed up, its answers compared with the published ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math

import numpy as np

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.store import ModelStore, PublishedModel
from service.engines.engine import Draw, Engine, EngineError, EngineUnavailable, ModelKey
from service.metrics import Metrics
from service.registry import ServedModel
from service.settings import Settings
from service.tensors import differences

log = logging.getLogger(__name__)

_WARM_UP_CALLS = 3
"""TorchScript profiles a module on its first calls and compiles it on the next; no request should wait for that."""


class SelfCheckError(Exception):
    """A loaded model does not answer what it answered when it was published."""


class VersionLoader:
    """Takes versions from the store into the engine and out of it again.

    Args:
        store: where versions are published.
        engine: what loads them.
        settings: of their batchers.
        metrics: loaded versions are shown there.
    """

    def __init__(self, store: ModelStore, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self._metrics = metrics

    async def load(self, key: ModelKey) -> ServedModel:
        """Load one version and see that it answers as it did when it was published.

        Raises:
            ArtefactError: a file is missing or not the one that was published, or the manifest cannot be read.
            EngineError: the engine cannot load it.
            SelfCheckError: it answers otherwise.
        """
        published = await asyncio.to_thread(self._open, key)
        manifest = published.manifest
        await self._take_in(published)
        try:
            served = ServedModel(key, manifest, self._engine, self._settings, self._metrics)
            self._metrics.add_version(key, self._engine.name, manifest.dtype, _quantiles(manifest))
        except BaseException:
            with contextlib.suppress(EngineError):
                await self._engine.unload(key)
            raise
        return served

    async def reload(self, served: ServedModel) -> None:
        """Load a version again that was evicted, checked as the first time.

        Raises:
            ArtefactError, EngineError, SelfCheckError: as ``load``.
        """
        await self._take_in(await asyncio.to_thread(self._open, served.key))
        served.resident = True

    async def evict(self, served: ServedModel) -> None:
        """Take a version out of the engine that goes on being served.

        Raises:
            EngineError: the engine keeps it.
        """
        await self._engine.unload(served.key)

    async def unload(self, served: ServedModel) -> None:
        """Let go of a version that nobody uses any more."""
        try:
            await self._engine.unload(served.key)
        except EngineUnavailable:
            log.info("%s is gone with its engine", served.key)
        except EngineError as error:
            log.error("%s could not be unloaded: %s", served.key, error)
        self._metrics.remove_version(served.key, self._engine.name, served.manifest.dtype)
        log.info("%s is unloaded", served.key)

    async def _take_in(self, published: PublishedModel) -> None:
        """Load into the engine what then answers as it did when it was published, or nothing."""
        await self._engine.load(published)
        key = ModelKey(published.name, published.version)
        try:
            await self._self_check(key, published.manifest)
        except BaseException:
            with contextlib.suppress(EngineError):
                await self._engine.unload(key)
            raise

    def _open(self, key: ModelKey) -> PublishedModel:
        published = self._store.open(key.name, key.version)
        published.verify()
        return published

    async def _self_check(self, key: ModelKey, manifest: Manifest) -> None:
        """Score the manifest's own rows, which also warms the model up, and compare."""
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


def _largest_difference(answered: np.ndarray, published: np.ndarray) -> float:
    """Largest absolute difference, infinite where the shapes differ."""
    if answered.shape != published.shape:
        return math.inf
    return float(differences(answered, published).max(initial=0.0))


def _quantiles(manifest: Manifest) -> list[float]:
    """Quantiles of the held-out log-density; none when the model was published without held-out rows."""
    return [float(value) for value in (manifest.reference_log_prob or {}).get("log_prob", [])]
