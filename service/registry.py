"""The models that answer now: which versions are loaded, which one is the default, and who is still using them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from flowmodel.artefact.manifest import SCORER, Manifest
from service.batcher import AtOnce, Batcher, Call
from service.engines.engine import Draw, Engine, ModelKey
from service.errors import NotFound, Unavailable
from service.metrics import Metrics, OperationMetrics
from service.settings import Settings
from service.signature import Signature
from service.tensors import FloatArray
from service.work import Chunk


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
        resident: whether the engine has it loaded; what is not is loaded again for the first request.
        used: when it was last asked for, by ``time.monotonic``.
        bytes: how long its scorer is.
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
        self.log_prob = self._batcher(self._call_log_prob, self.log_prob_metrics, settings, self._log_prob_at_once)
        self.sample = self._batcher(self._call_sample, self.sample_metrics, settings)
        self.resident = True
        self.used = time.monotonic()
        self.bytes = int(manifest.files.get(SCORER, {}).get("bytes", 0))
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
        self.acquire()
        try:
            yield self
        finally:
            self.release()

    def acquire(self) -> None:
        """Begin a lease, which ``release`` ends."""
        self._leases += 1
        self.used = time.monotonic()
        if self._leases == 1:
            self._released.clear()

    def release(self) -> None:
        """End a lease."""
        self._leases -= 1
        if not self._leases:
            self._released.set()

    @property
    def tolerance(self) -> float:
        """How far a log-density may be from the published one by rounding, in nats."""
        return float(self.manifest.self_check.get("tolerance", 0.0))

    async def score(self, rows: FloatArray, context: FloatArray | None) -> FloatArray:
        """Log-densities ``[N]`` by an engine call of their own, past the queue of requests.

        Raises:
            EngineError: as the engine's ``log_prob``.
        """
        return await self._engine.log_prob(self.key, rows, context)

    @property
    def leased(self) -> bool:
        """Whether a request uses the version."""
        return self._leases > 0

    async def released(self) -> None:
        """Wait until no request uses the version."""
        await self._released.wait()

    async def close(self, error: Exception) -> None:
        """Answer whatever still waits with the error."""
        await asyncio.gather(self.log_prob.close(error), self.sample.close(error))

    def _batcher(
        self, call: Call, observer: OperationMetrics, settings: Settings, at_once: AtOnce | None = None
    ) -> Batcher:
        return Batcher(
            call,
            max_batch_rows=settings.max_rows_per_batch,
            max_queue_rows=settings.max_queue_rows,
            max_calls=settings.engine_calls,
            observer=observer,
            at_once=at_once,
        )

    def _log_prob_at_once(self, payload: object) -> tuple[FloatArray, ...] | None:
        rows, context = cast(ScorePayload, payload).rows, cast(ScorePayload, payload).context
        log_prob = self._engine.log_prob_at_once(self.key, rows, context)
        return None if log_prob is None else (log_prob,)

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


@dataclass(slots=True)
class _Model:
    """The loaded versions of one model, and which of them answers a request that names none."""

    versions: dict[int, ServedModel] = field(default_factory=dict)
    default: ServedModel | None = None
    canary: ServedModel | None = None
    weight: float = 0.0
    shadow: ServedModel | None = None
    requests: int = 0


class ModelRegistry:
    """Loaded versions by model name; changed by the store's watcher, read by every request."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self.loading = True
        """Whether the store's first models are still on their way."""
        self.unserved: list[str] = []
        """Models that the store has and of which no version could be loaded, in order."""
        self.changed = asyncio.Event()
        """Set whenever a version came or went; cleared by whoever acts on it."""

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, key: ModelKey) -> bool:
        return self.get(key) is not None

    def get(self, key: ModelKey) -> ServedModel | None:
        """A loaded version; None when it is not loaded."""
        model = self._models.get(key.name)
        return model.versions.get(key.version) if model is not None else None

    def names(self) -> list[str]:
        """Names of the models that answer, in order."""
        return sorted(self._models)

    def versions(self, name: str) -> list[ServedModel]:
        """Loaded versions of a model, newest first; empty when there is none."""
        model = self._models.get(name)
        return [served for _, served in sorted(model.versions.items(), reverse=True)] if model is not None else []

    def loaded(self) -> list[ModelKey]:
        """Every loaded version."""
        return [served.key for name in self.names() for served in self.versions(name)]

    def default(self, name: str) -> ServedModel | None:
        """The version that answers requests that name none."""
        model = self._models.get(name)
        return model.default if model is not None else None

    def canary(self, name: str) -> tuple[ServedModel, float] | None:
        """The version that answers a share of the requests that name none, and that share."""
        model = self._models.get(name)
        return (model.canary, model.weight) if model is not None and model.canary is not None else None

    def shadow(self, name: str) -> ServedModel | None:
        """The version that scores in the background what the default one scores."""
        model = self._models.get(name)
        return model.shadow if model is not None else None

    def resolve(self, name: str, version: str = "", affinity: str = "") -> ServedModel:
        """The version that answers a request.

        Args:
            name: a model.
            version: in decimal digits; empty for the default one, or the canary for its share of the requests.
            affinity: what stays the same when a request is repeated, such as its id, so that the same version answers.

        Raises:
            NotFound: no such model or version is loaded.
            Unavailable: perhaps it is, but the first models are still being loaded; or no default one is.
        """
        model = self._models.get(name)
        if model is not None:
            if not version and model.default is not None:
                if model.canary is not None and _share(model, name, affinity) < model.weight:
                    return model.canary
                return model.default
            # str(int) is compared so that "03" and "+3" are not second names of "3".
            for number, served in model.versions.items():
                if str(number) == version:
                    return served
        if self.loading:
            raise Unavailable("STARTING", "the service is starting and still loads its models", retry_after_seconds=1.0)
        if model is None:
            known = ", ".join(self.names()) or ("none" if self.unserved else "none yet; publish one into the store")
            if name in self.unserved:
                known += "; the store has it, but no version of it could be loaded: the service's log says why"
            raise NotFound(
                "MODEL_NOT_FOUND",
                f"no model {name!r}; loaded: {known}" if name else f"no model named in the request; loaded: {known}",
                resource_type="model",
                resource_name=f"models/{name}",
            )
        loaded = ", ".join(str(served.key.version) for served in self.versions(name))
        if not version:
            raise Unavailable(
                "NO_DEFAULT_VERSION",
                f"the default version of {name} could not be loaded, its service's log says why; name another one: "
                f"{loaded}",
                retry_after_seconds=1.0,
            )
        raise NotFound(
            "VERSION_NOT_FOUND",
            f"no version {version!r} of {name} is loaded; loaded: {loaded}",
            resource_type="version",
            resource_name=f"models/{name}/versions/{version}",
        )

    def add(self, served: ServedModel) -> None:
        """Let a version answer requests that name it."""
        self._models.setdefault(served.key.name, _Model()).versions[served.key.version] = served
        self.changed.set()

    def route(
        self,
        name: str,
        default: ServedModel | None,
        canary: tuple[ServedModel, float] | None = None,
        shadow: ServedModel | None = None,
    ) -> None:
        """Send requests that name no version to these loaded ones, from this moment."""
        model = self._models.get(name)
        if model is None:
            return
        model.default = default
        model.canary, model.weight = canary or (None, 0.0)
        model.shadow = shadow
        self.changed.set()

    def remove(self, key: ModelKey) -> ServedModel | None:
        """Let no new request reach a version; those that have it keep it."""
        model = self._models.get(key.name)
        served = model.versions.pop(key.version, None) if model is not None else None
        if model is not None and served is not None:
            self.route(
                key.name,
                None if model.default is served else model.default,
                (model.canary, model.weight) if model.canary is not None and model.canary is not served else None,
                None if model.shadow is served else model.shadow,
            )
            if not model.versions:
                del self._models[key.name]
        return served


_GOLDEN = (math.sqrt(5) - 1) / 2


def _share(model: _Model, name: str, affinity: str) -> float:
    """Where in [0, 1) a request falls: by its affinity, or in turns that spread evenly whatever the canary's weight."""
    if affinity:
        digest = hashlib.blake2b(f"{name}/{affinity}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
    model.requests += 1
    return model.requests * _GOLDEN % 1.0


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
