"""What Prometheus sees: requests, rows, batches, queues, and the log-densities themselves.

Counted alike for gRPC and HTTP. Labels are bounded: a model's name is a label only when the model is loaded, any
other is ``_OTHER``, and what a version has to itself disappears with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from service.engines.engine import ModelKey
from service.log_prob_histogram import LogProbHistogram, SharedLogProbHistogram
from service.shared_metrics import SharedMetrics
from service.tensors import FloatArray

OTHER = "_OTHER"
"""The model label of requests for models that are not loaded, and of requests that name none."""

METHODS = ("LogProb", "Sample", "StreamLogProb", "StreamSample", "GetModel", "ListModels")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DIFFERENCES = (1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 100.0)
_ROWS = tuple(float(2**power) for power in range(0, 15, 2))


@dataclass(slots=True)
class Request:
    """The account of one request; who answers it fills in what it learns.

    Attributes:
        method: as the RPC is called.
        model: label of the model.
        version: label of the version.
        code: name of the gRPC status code it ended with.
        affinity: what stays the same when the request is repeated, its id or its seed; empty when it has neither.
    """

    method: str
    model: str = OTHER
    version: str = ""
    code: str = "OK"
    affinity: str = ""


class Metrics:
    """All metrics of one gateway, in a registry of their own.

    Args:
        shared: where several gateways keep their counts, which each of them then exposes added up.

    Example:
        >>> metrics = Metrics()
        >>> with metrics.request("LogProb") as request:
        ...     request.model, request.version = "wine", "3"
        >>> metrics.registry.get_sample_value(
        ...     "density_requests_total", {"method": "LogProb", "code": "OK", "model": "wine", "version": "3"}
        ... )
        1.0
    """

    def __init__(self, shared: SharedMetrics | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._shared = shared is not None
        if shared is None:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self._exposed = self.registry if shared is None else shared.registry()
        self._requests = self._counter("requests", "Requests answered.", "method", "code", "model", "version")
        self._durations = self._histogram(
            "request_duration_seconds", "From the request's arrival to its answer.", _SECONDS, "method", "model"
        )
        self._inflight = self._gauge("inflight_requests", "Requests being answered now.", "livesum", "method")
        self._rows = self._counter("rows", "Rows scored or drawn.", "method", "model", "version")
        self._row_errors = self._counter("row_errors", "Rows answered NaN.", "model", "version")
        self._batch_rows = self._histogram("batch_rows", "Rows of one engine call.", _ROWS, "method", "model")
        self._queue_rows = self._gauge(
            "queue_rows", "Rows that wait for the engine.", "livesum", "method", "model", "version"
        )
        self._queue_waits = self._histogram(
            "queue_wait_seconds", "From a request's arrival to its first engine call.", _SECONDS, "method", "model"
        )
        self._engine_durations = self._histogram(
            "engine_duration_seconds", "Duration of one engine call.", _SECONDS, "method", "model"
        )
        self._rejected = self._counter("rejected", "Requests not computed, by why.", "reason")
        self._loads = self._counter("model_loads", "Attempts to load a model version.", "model", "result")
        self._info = self._gauge(
            "model_info", "Loaded model versions; always 1.", "livemax", "model", "version", "engine", "dtype"
        )
        self._loaded_bytes = self._gauge("loaded_bytes", "Length of the scorers of loaded versions.", "livemax")
        self._evictions = self._counter("model_evictions", "Versions unloaded to save memory.", "model")
        self._default = self._gauge(
            "model_default_version", "Version that answers when none is named.", "livemax", "model"
        )
        histogram = SharedLogProbHistogram if self._shared else LogProbHistogram
        self._log_prob = histogram()
        self.registry.register(self._log_prob)
        self._shadow_rows = self._counter(
            "shadow_rows",
            "Rows for the shadow version: same or different, dropped, failed or unloaded.",
            "model",
            "version",
            "result",
        )
        self._shadow_differences = histogram(
            "density_shadow_difference_nats",
            "How far the shadow version's log-densities are from those answered, in nats.",
        )
        self.registry.register(self._shadow_differences)
        self._settled: dict[tuple[str, str, str, str], Callable[[], None]] = {}
        self._timed: dict[tuple[str, str], Callable[[float], None]] = {}
        for reason in (
            "queue_full",
            "expired",
            "cancelled",
            "draining",
            "unauthenticated",
            "permission_denied",
            "malformed",
            "overloaded",
            "too_fast",
            "too_many_at_once",
            "too_many_connections",
        ):
            self._rejected.labels(reason)
        self._running = {method: self._inflight.labels(method) for method in METHODS}

    @contextlib.contextmanager
    def request(self, method: str) -> Iterator[Request]:
        """Account for one request, from entry to exit; yields what its answerer fills in."""
        request, started = Request(method), time.perf_counter()
        self._running[method].inc()
        try:
            yield request
        finally:
            self._running[method].dec()
            self._settle(request, time.perf_counter() - started)

    def _settle(self, request: Request, seconds: float) -> None:
        """Count an answered request; looks labels up once for each combination."""
        labels = (request.method, request.code, request.model, request.version)
        count = self._settled.get(labels)
        if count is None:
            count = self._settled[labels] = self._requests.labels(*labels).inc
        count()
        observe = self._timed.get((request.method, request.model))
        if observe is None:
            observe = self._timed[request.method, request.model] = self._durations.labels(
                request.method, request.model
            ).observe
        observe(seconds)

    def rejected(self, reason: str) -> None:
        """A request was not computed."""
        self._rejected.labels(reason).inc()

    def loaded(self, model: str, *, ok: bool) -> None:
        """A version was loaded, or could not be."""
        self._loads.labels(model, "ok" if ok else "failed").inc()

    def set_loaded_bytes(self, total: int) -> None:
        """How long the scorers of all loaded versions are together."""
        self._loaded_bytes.set(total)

    def evicted(self, key: ModelKey) -> None:
        """A version was unloaded to save memory."""
        self._evictions.labels(key.name).inc()

    def operation(self, method: str, key: ModelKey) -> OperationMetrics:
        """The metrics of one operation of one version, for its batcher."""
        labels = (method, key.name)
        return OperationMetrics(
            rows=self._rows.labels(method, key.name, str(key.version)),
            batch_rows=self._batch_rows.labels(*labels),
            queue_rows=self._queue_rows.labels(method, key.name, str(key.version)),
            queue_waits=self._queue_waits.labels(*labels),
            engine_durations=self._engine_durations.labels(*labels),
            rejected=self._rejected,
        )

    def scored(self, key: ModelKey, log_prob: FloatArray, bad_rows: int) -> None:
        """Rows of one request were scored."""
        self._log_prob.observe(key, log_prob)
        if bad_rows:
            self._row_errors.labels(key.name, str(key.version)).inc(bad_rows)

    def compared(self, shadow: ModelKey, differences: FloatArray, tolerance: float) -> None:
        """Rows were scored by a shadow version too.

        Args:
            shadow: which one.
            differences: absolute differences ``[N]`` from what was answered, in nats.
            tolerance: what rounding explains.
        """
        different = int((differences > tolerance).sum())
        for result, rows in (("same", len(differences) - different), ("different", different)):
            self._shadow_rows.labels(shadow.name, str(shadow.version), result).inc(rows)
        self._shadow_differences.add_once(shadow, _DIFFERENCES)
        self._shadow_differences.observe(shadow, differences)

    def not_compared(self, shadow: ModelKey, result: str, rows: int) -> None:
        """Rows that a shadow version did not answer: ``"dropped"`` for lack of time, ``"failed"``, ``"unloaded"``."""
        self._shadow_rows.labels(shadow.name, str(shadow.version), result).inc(rows)

    def add_version(self, key: ModelKey, engine: str, dtype: str, reference: Sequence[float]) -> None:
        """A version answers from now on.

        Args:
            key: which one.
            engine: name of the engine that holds it.
            dtype: of its answers.
            reference: quantiles of its held-out log-density, which become the buckets of ``density_log_prob``.
        """
        self._info.labels(key.name, str(key.version), engine, dtype).set(1)
        self._log_prob.add(key, reference)

    def set_default(self, model: str, version: int | None) -> None:
        """Which version answers when none is named; None when the model is gone."""
        if version is None:
            self._end(self._default, model)
        else:
            self._default.labels(model).set(version)

    def remove_version(self, key: ModelKey, engine: str, dtype: str) -> None:
        """A version is no longer loaded: its gauges and its log-density histogram end, its counters stay."""
        self._end(self._info, key.name, str(key.version), engine, dtype)
        for method in ("LogProb", "Sample"):
            self._end(self._queue_rows, method, key.name, str(key.version))
        self._log_prob.remove(key)
        self._shadow_differences.remove(key)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type, by an Accept header."""
        encode, content_type = choose_encoder(accept)
        if self._shared:
            # All gateways' files are read, and requests are answered meanwhile.
            return await asyncio.to_thread(encode, self._exposed), content_type
        return encode(self._exposed), content_type

    def _end(self, gauge: Gauge, *labels: str) -> None:
        """Expose a gauge no more; in files shared with other processes nothing is removed, and zero says the same."""
        if self._shared:
            gauge.labels(*labels).set(0)
        else:
            gauge.remove(*labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"density_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, together: Literal["livesum", "livemax"], *labels: str) -> Gauge:
        """A gauge, and what it is for several processes together: the sum over them, or the largest."""
        return Gauge(f"density_{name}", text, labels, registry=self.registry, multiprocess_mode=together)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"density_{name}", text, labels, buckets=buckets, registry=self.registry)


@dataclass(frozen=True, slots=True)
class OperationMetrics:
    """Bound metrics of one operation of one version; a ``BatchObserver``."""

    rows: Counter
    batch_rows: Histogram
    queue_rows: Gauge
    queue_waits: Histogram
    engine_durations: Histogram
    rejected: Counter

    def queued(self, rows: int) -> None:
        """The queue grew by so many rows, or shrank."""
        self.queue_rows.inc(rows)

    def waited(self, seconds: float) -> None:
        """A request's first rows left the queue after so long."""
        self.queue_waits.observe(seconds)

    def called(self, rows: int, seconds: float) -> None:
        """An engine call with so many rows took so long."""
        self.batch_rows.observe(rows)
        self.engine_durations.observe(seconds)

    def computed(self, rows: int) -> None:
        """So many rows of one request were answered."""
        self.rows.inc(rows)

    def dropped(self, reason: str) -> None:
        """A request was refused or left the queue."""
        self.rejected.labels(reason).inc()
