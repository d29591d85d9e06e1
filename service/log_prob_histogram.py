"""Histograms of log-densities, whose buckets each version brings."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
from prometheus_client import values
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service.engines.engine import ModelKey
from service.tensors import FloatArray

_FEW = 4
"""So many log-densities are counted one by one sooner than all together."""


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
        counts += _counted(bounds, log_prob)

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


class SharedLogProbHistogram(LogProbHistogram):
    """The same, counted in files from which all gateways' counts are added up."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments)
        self._values: dict[ModelKey, list[Any]] = {}

    def add(self, key: ModelKey, bounds: Sequence[float]) -> None:
        """Begin a version's histogram, or go on with it."""
        super().add(key, bounds)
        if key not in self._values:
            names = [*map(_bound_text, self._counts[key][0]), "+Inf"]
            labels = ("model", "version", "le")
            self._values[key] = [
                values.ValueClass(
                    "histogram",
                    self._name,
                    f"{self._name}_bucket",
                    labels,
                    (key.name, str(key.version), name),
                    self._text,
                )
                for name in names
            ]

    def observe(self, key: ModelKey, log_prob: FloatArray) -> None:
        """Count log-densities ``[N]``; NaN is no answer and not counted."""
        if key not in self._counts:
            return
        rows = _counted(self._counts[key][0], log_prob)
        for bucket in np.flatnonzero(rows):
            self._values[key][bucket].inc(float(rows[bucket]))


def _counted(bounds: np.ndarray, log_prob: FloatArray) -> np.ndarray:
    """How many log-densities fall into each bucket."""
    answered = log_prob[~np.isnan(log_prob)]
    return np.bincount(np.searchsorted(bounds, answered, side="left"), minlength=len(bounds) + 1)


def _bound_text(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
