"""Metrics alone: labels stay bounded and the log-density histogram counts as it should."""

from __future__ import annotations

import contextlib

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from service.engines.engine import ModelKey
from service.log_prob_histogram import LogProbHistogram
from service.metrics import Metrics

KEY = ModelKey("wine", 1)


def buckets(histogram: LogProbHistogram) -> dict[str, float]:
    (family,) = histogram.collect()
    return {sample.labels["le"]: sample.value for sample in family.samples}


def test_log_densities_fall_into_cumulative_buckets() -> None:
    histogram = LogProbHistogram()
    histogram.add(KEY, [-2.0, -10.0, -2.0, np.inf])
    histogram.observe(KEY, np.array([-np.inf, -10.0, -9.0, -2.0, 5.0, np.nan]))
    histogram.observe(KEY, np.array([-3.0], np.float32))
    assert buckets(histogram) == {"-10.0": 2, "-2.0": 5, "+Inf": 6}


def test_a_model_without_reference_has_one_bucket() -> None:
    histogram = LogProbHistogram()
    histogram.add(KEY, [])
    histogram.observe(KEY, np.array([-1.0, 2.0]))
    assert buckets(histogram) == {"+Inf": 2}


async def test_what_a_version_has_to_itself_ends_with_it() -> None:
    metrics = Metrics()
    metrics.add_version(KEY, "inprocess", "float32", [-1.0])
    metrics.operation("LogProb", KEY)
    metrics.remove_version(KEY, "inprocess", "float32")
    metrics.scored(KEY, np.zeros(1), 0)
    text = (await metrics.exposition(""))[0].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    gauges = ("density_model_info", "density_queue_rows", "density_log_prob_bucket")
    assert not [sample for sample in samples if sample.name in gauges]


def test_a_failed_request_is_counted_with_its_code() -> None:
    metrics = Metrics()
    with contextlib.suppress(ValueError), metrics.request("Sample") as request:
        request.code = "INTERNAL"
        raise ValueError("no")
    labels = {"method": "Sample", "code": "INTERNAL", "model": "_OTHER", "version": ""}
    assert metrics.registry.get_sample_value("density_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("density_inflight_requests", {"method": "Sample"}) == 0


def test_refusals_are_exported_before_the_first_one() -> None:
    registry = Metrics().registry
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
        assert registry.get_sample_value("density_rejected_total", {"reason": reason}) == 0
