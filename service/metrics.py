"""What Prometheus sees: requests, rows, batches, queues, and the log-densities themselves.

Counted alike for gRPC and HTTP. Labels are bounded: a model's name is a label only when the model is loaded, any
other is ``_OTHER``, and what a version has to itself disappears with it.
"""

from __future__ import annotations

import bisect
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service.engines.engine import ModelKey
from service.tensors import FloatArray

OTHER = "_OTHER"
"""The model label of requests for models that are not loaded, and of requests that name none."""

METHODS = ("LogProb", "Sample", "StreamLogProb", "StreamSample", "GetModel", "ListModels")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DIFFERENCES = (1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 100.0)
_ROWS = tuple(float(2**power) for power in range(0, 15, 2))


_FEW = 4
"""So many log-densities are counted one by one sooner than all together."""


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

    Example:
        >>> metrics = Metrics()
        >>> with metrics.request("LogProb") as request:
        ...     request.model, request.version = "wine", "3"
        >>> metrics.registry.get_sample_value(
        ...     "density_requests_total", {"method": "LogProb", "code": "OK", "model": "wine", "version": "3"}
        ... )
        1.0
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered.", "method", "code", "model", "version")
        self._durations = self._histogram(
            "request_duration_seconds", "From the request's arrival to its answer.", _SECONDS, "method", "model"
        )
        self._inflight = self._gauge("inflight_requests", "Requests being answered now.", "method")
        self._rows = self._counter("rows", "Rows scored or drawn.", "method", "model", "version")
        self._row_errors = self._counter("row_errors", "Rows answered NaN.", "model", "version")
        self._batch_rows = self._histogram("batch_rows", "Rows of one engine call.", _ROWS, "method", "model")
        self._queue_rows = self._gauge("queue_rows", "Rows that wait for the engine.", "method", "model", "version")
        self._queue_waits = self._histogram(
            "queue_wait_seconds", "From a request's arrival to its first engine call.", _SECONDS, "method", "model"
        )
        self._engine_durations = self._histogram(
            "engine_duration_seconds", "Duration of one engine call.", _SECONDS, "method", "model"
        )
        self._rejected = self._counter("rejected", "Requests not computed, by why.", "reason")
        self._loads = self._counter("model_loads", "Attempts to load a model version.", "model", "result")
        self._info = self._gauge(
            "model_info", "Loaded model versions; always 1.", "model", "version", "engine", "dtype"
        )
        self._loaded_bytes = self._gauge("loaded_bytes", "Length of the scorers of loaded versions.")
        self._evictions = self._counter("model_evictions", "Versions unloaded to save memory.", "model")
        self._default = self._gauge("model_default_version", "Version that answers when none is named.", "model")
        self._log_prob = LogProbHistogram()
        self.registry.register(self._log_prob)
        self._shadow_rows = self._counter(
            "shadow_rows",
            "Rows for the shadow version: same or different, dropped, failed or unloaded.",
            "model",
            "version",
            "result",
        )
        self._shadow_differences = LogProbHistogram(
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
            self._default.remove(model)
        else:
            self._default.labels(model).set(version)

    def remove_version(self, key: ModelKey, engine: str, dtype: str) -> None:
        """A version is no longer loaded: its gauges and its log-density histogram end, its counters stay."""
        self._info.remove(key.name, str(key.version), engine, dtype)
        for method in ("LogProb", "Sample"):
            self._queue_rows.remove(method, key.name, str(key.version))
        self._log_prob.remove(key)
        self._shadow_differences.remove(key)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type, by an Accept header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"density_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"density_{name}", text, labels, registry=self.registry)

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


def _bound_text(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


class LogProbHistogram(Collector):
    """``density_log_prob``: where the answered log-densities lie, in each version's own buckets.

    The bounds are the quantiles of the version's held-out rows, so that a bucket's share of the traffic can be read
    against the share it had when the model was published. A log-density is usually negative, so there is no sum, as
    OpenMetrics asks; minus infinity falls into the lowest bucket.

    Args:
        name: of the metric.
        text: what it says.
    """

    def __init__(
        self,
        name: str = "density_log_prob",
        text: str = "Log-densities answered, in nats, by quantiles of held-out rows.",
    ) -> None:
        self._name = name
        self._text = text
        self._counts: dict[ModelKey, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, key: ModelKey, bounds: Sequence[float]) -> None:
        """Begin a version's histogram with these upper bounds, in any order, repeated or not."""
        finite = np.unique([bound for bound in bounds if np.isfinite(bound)])
        self._counts[key] = (finite, np.zeros(len(finite) + 1, dtype=np.int64))

    def add_once(self, key: ModelKey, bounds: Sequence[float]) -> None:
        """Begin a version's histogram unless it has one."""
        if key not in self._counts:
            self.add(key, bounds)

    def remove(self, key: ModelKey) -> None:
        """End a version's histogram."""
        self._counts.pop(key, None)

    def observe(self, key: ModelKey, log_prob: FloatArray) -> None:
        """Count log-densities ``[N]``; NaN is no answer and not counted."""
        if key not in self._counts:
            return
        bounds, counts = self._counts[key]
        if len(log_prob) <= _FEW:
            for value in log_prob.tolist():
                if value == value:
                    counts[bisect.bisect_left(bounds, value)] += 1
            return
        answered = log_prob[~np.isnan(log_prob)]
        counts += np.bincount(np.searchsorted(bounds, answered, side="left"), minlength=len(counts))

    def describe(self) -> list[Metric]:
        """The metric without values."""
        return [self._family()]

    def collect(self) -> list[Metric]:
        """The metric with every version's buckets, cumulated."""
        family = self._family()
        for key, (bounds, counts) in self._counts.items():
            names = [*map(_bound_text, bounds), "+Inf"]
            buckets = [(name, float(count)) for name, count in zip(names, np.cumsum(counts), strict=True)]
            family.add_metric([key.name, str(key.version)], buckets, sum_value=None)
        return [family]

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(
            self._name,
            self._text,
            labels=["model", "version"],
        )
