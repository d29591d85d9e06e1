"""The models that answer now: which versions are loaded, which one is the default, and who is still using them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from flowmodel.artefact.manifest import Manifest
from service.batcher import Batcher, Call, Chunk
from service.engines.engine import Draw, Engine, ModelKey
from service.errors import NotFound, Unavailable
from service.metrics import Metrics, OperationMetrics
from service.settings import Settings
from service.signature import Signature
from service.tensors import FloatArray


@dataclass(frozen=True, slots=True)
class ScorePayload:
    """Finite rows ``[N, D]`` to score and their contexts ``[N, C]``, if the model takes any."""

    rows: FloatArray
    context: FloatArray | None


@dataclass(frozen=True, slots=True)
class DrawPayload:
    """Which stream to draw from, where in it to begin, and the contexts ``[N, C]``."""

    seed: int
    start: int
    context: FloatArray | None


class ServedModel:
    """One loaded version, with a batcher in front of each of its operations.

    Attributes:
        key: name and version.
        manifest: as published.
        signature: what requests are checked against.
        log_prob: batches of ``ScorePayload``, answered with log-densities ``[N]``.
        sample: batches of ``DrawPayload``, answered with samples ``[N, D]`` and log-densities ``[N]``.
    """

    def __init__(self, key: ModelKey, manifest: Manifest, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self.key = key
        self.manifest = manifest
        self.signature = Signature(
            model=key.name,
            event_shape=tuple(manifest.event_shape),
            context_shape=None if manifest.context_shape is None else tuple(manifest.context_shape),
            feature_names=tuple(manifest.feature_names),
            context_names=tuple(manifest.context_names),
        )
        self._engine = engine
        self.log_prob_metrics = metrics.operation("LogProb", key)
        self.sample_metrics = metrics.operation("Sample", key)
        self.log_prob = self._batcher(self._call_log_prob, self.log_prob_metrics, settings)
        self.sample = self._batcher(self._call_sample, self.sample_metrics, settings)
        self._leases = 0
        self._released = asyncio.Event()
        self._released.set()

    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.float64]:
        """Type of the answers."""
        return np.dtype(np.float64) if self.manifest.dtype == "float64" else np.dtype(np.float32)

    @contextlib.contextmanager
    def lease(self) -> Iterator[ServedModel]:
        """Keep the version loaded while a request uses it."""
        self._leases += 1
        self._released.clear()
        try:
            yield self
        finally:
            self._leases -= 1
            if not self._leases:
                self._released.set()

    async def released(self) -> None:
        """Wait until no request uses the version."""
        await self._released.wait()

    async def close(self, error: Exception) -> None:
        """Answer whatever still waits with the error."""
        await asyncio.gather(self.log_prob.close(error), self.sample.close(error))

    def _batcher(self, call: Call, observer: OperationMetrics, settings: Settings) -> Batcher:
        return Batcher(
            call,
            max_batch_rows=settings.max_rows_per_batch,
            max_queue_rows=settings.max_queue_rows,
            max_calls=settings.engine_calls,
            observer=observer,
        )

    async def _call_log_prob(self, chunks: Sequence[Chunk]) -> tuple[FloatArray, ...]:
        payloads = [cast(ScorePayload, chunk.work.payload) for chunk in chunks]
        rows = _join([payload.rows[chunk.start : chunk.stop] for payload, chunk in zip(payloads, chunks, strict=True)])
        context = _contexts([payload.context for payload in payloads], chunks)
        return (await self._engine.log_prob(self.key, rows, context),)

    async def _call_sample(self, chunks: Sequence[Chunk]) -> tuple[FloatArray, ...]:
        payloads = [cast(DrawPayload, chunk.work.payload) for chunk in chunks]
        draws = [
            Draw(payload.seed, payload.start + chunk.start, chunk.rows)
            for payload, chunk in zip(payloads, chunks, strict=True)
        ]
        context = _contexts([payload.context for payload in payloads], chunks)
        return await self._engine.sample(self.key, draws, context)


class ModelRegistry:
    """Loaded versions by model name; changed by the store's watcher, read by every request."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, ServedModel]] = {}
        self.loading = True
        """Whether the store's first models are still on their way."""
        self.changed = asyncio.Event()
        """Set whenever a version came or went; cleared by whoever acts on it."""

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, key: ModelKey) -> bool:
        return key.version in self._models.get(key.name, {})

    def names(self) -> list[str]:
        """Names of the models that answer, in order."""
        return sorted(self._models)

    def versions(self, name: str) -> list[ServedModel]:
        """Loaded versions of a model, newest first; empty when there is none."""
        return [served for _, served in sorted(self._models.get(name, {}).items(), reverse=True)]

    def loaded(self) -> list[ModelKey]:
        """Every loaded version."""
        return [served.key for name in self.names() for served in self.versions(name)]

    def resolve(self, name: str, version: str = "") -> ServedModel:
        """The version that answers a request.

        Args:
            name: a model.
            version: in decimal digits; empty for the newest loaded one.

        Raises:
            NotFound: no such model or version is loaded.
            Unavailable: perhaps it is, but the first models are still being loaded.
        """
        versions = self._models.get(name)
        if versions:
            if not version:
                return versions[max(versions)]
            # str(int) is compared so that "03" and "+3" are not second names of "3".
            for number, served in versions.items():
                if str(number) == version:
                    return served
        if self.loading:
            raise Unavailable("STARTING", "the service is starting and still loads its models", retry_after_seconds=1.0)
        if not versions:
            known = ", ".join(self.names()) or "none yet; publish one into the store"
            raise NotFound(
                "MODEL_NOT_FOUND",
                f"no model {name!r}; loaded: {known}" if name else f"no model named in the request; loaded: {known}",
                resource_type="model",
                resource_name=f"models/{name}",
            )
        loaded = ", ".join(str(served.key.version) for served in self.versions(name))
        raise NotFound(
            "VERSION_NOT_FOUND",
            f"no version {version!r} of {name} is loaded; loaded: {loaded}",
            resource_type="version",
            resource_name=f"models/{name}/versions/{version}",
        )

    def add(self, served: ServedModel) -> None:
        """Let a version answer; the newest one is the default from this moment."""
        self._models.setdefault(served.key.name, {})[served.key.version] = served
        self.changed.set()

    def remove(self, key: ModelKey) -> ServedModel | None:
        """Let no new request reach a version; those that have it keep it."""
        versions = self._models.get(key.name, {})
        served = versions.pop(key.version, None)
        if not versions:
            self._models.pop(key.name, None)
        self.changed.set()
        return served


def _join(parts: Sequence[FloatArray]) -> FloatArray:
    """The parts one after the other; a single one as it is."""
    joined: FloatArray = np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)
    return joined


def _contexts(contexts: Sequence[FloatArray | None], chunks: Sequence[Chunk]) -> FloatArray | None:
    parts = [
        context[chunk.start : chunk.stop]
        for context, chunk in zip(contexts, chunks, strict=True)
        if context is not None
    ]
    return _join(parts) if parts else None
