"""The gRPC server from outside: scores, samples, models, health, reflection, deadlines, cancellation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, Start, publish
from gates import engine_held, in_background, wait_for_call, wait_for_queue
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from service.engines.engine import EngineError, EngineUnavailable
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.tensors import decode, encode

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
READINESS = "density.v1.DensityService"


@pytest.fixture(scope="module")
def channel(wine: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(wine.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return DensityServiceStub(channel)


def request(rows: np.ndarray, **fields: Any) -> pb.LogProbRequest:
    return pb.LogProbRequest(**{"model": "wine", "rows": encode(rows)} | fields)


def test_rows_may_be_of_either_type(stub: Any, rows: np.ndarray) -> None:
    single = stub.LogProb(request(rows), timeout=10)
    double = stub.LogProb(request(rows.astype(np.float64)), timeout=10)
    assert single.log_prob.data_type == double.log_prob.data_type == pb.DATA_TYPE_FLOAT32
    assert single.log_prob.data == double.log_prob.data
    assert list(single.log_prob.shape) == [7]
    assert (single.model, single.version) == ("wine", "2")


def test_samples_do_not_depend_on_how_they_are_asked_for(stub: Any) -> None:
    whole = stub.Sample(pb.SampleRequest(model="wine", count=9000, seed=5, with_log_prob=True), timeout=10)
    part = stub.Sample(pb.SampleRequest(model="wine", count=10, seed=5, start=4090), timeout=10)
    samples = decode(whole.samples, "samples")
    assert samples.shape == (9000, 3)
    np.testing.assert_array_equal(decode(part.samples, "samples"), samples[4090:4100])
    assert not part.HasField("log_prob")
    scored = decode(stub.LogProb(request(samples), timeout=10).log_prob, "log_prob")
    # Inverting a rounded sample rounds once more at every step of the flow.
    np.testing.assert_allclose(scored, decode(whole.log_prob, "log_prob"), atol=1e-4)


def test_seeds_that_are_not_given_differ(stub: Any) -> None:
    seeds = {stub.Sample(pb.SampleRequest(model="wine", count=1), timeout=10).seed for _ in range(5)}
    assert len(seeds) == 5
    assert max(seeds) < 2**53


def test_models_are_described(stub: Any) -> None:
    model = stub.GetModel(pb.GetModelRequest(model="wine"), timeout=10).model
    assert (model.name, model.default_version) == ("wine", "2")
    assert [version.version for version in model.versions] == ["2", "1"]
    newest = model.versions[0]
    assert list(newest.feature_names) == ["alpha", "beta", "gamma"]
    assert list(newest.event_shape) == [3]
    assert newest.data_type == pb.DATA_TYPE_FLOAT32
    assert abs(newest.create_time.ToDatetime().timestamp() - time.time()) < 24 * 3600
    assert len(newest.reference_log_prob.log_prob) == len(newest.reference_log_prob.probabilities)
    pair = stub.GetModel(pb.GetModelRequest(model="pair", version="1"), timeout=10).model.versions[0]
    assert list(pair.context_shape) == [2]
    assert list(pair.context_names) == ["left", "right"]


def test_models_are_listed_in_pages(stub: Any) -> None:
    first = stub.ListModels(pb.ListModelsRequest(page_size=1), timeout=10)
    second = stub.ListModels(pb.ListModelsRequest(page_size=1, page_token=first.next_page_token), timeout=10)
    assert [model.name for model in [*first.models, *second.models]] == ["pair", "wine"]
    assert second.next_page_token == ""
    with pytest.raises(grpc.RpcError, match="page_size: -1 given"):
        stub.ListModels(pb.ListModelsRequest(page_size=-1), timeout=10)


def test_reflection_describes_the_service(channel: grpc.Channel) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=READINESS),
    ]
    services, files = reflection.ServerReflectionInfo(iter(questions), timeout=10)
    names = {service.name for service in services.list_services_response.service}
    assert {READINESS, "grpc.health.v1.Health"} <= names
    protos = files.file_descriptor_response.file_descriptor_proto
    described = [descriptor_pb2.FileDescriptorProto.FromString(proto) for proto in protos]
    assert "density/v1/density_service.proto" in {proto.name for proto in described}


def test_health_tells_living_from_ready(start: Start) -> None:
    service = start()
    with grpc.insecure_channel(service.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING
        assert health.Check(health_pb2.HealthCheckRequest(service=READINESS), timeout=10).status == NOT_SERVING


def test_health_watch_follows_the_first_model_and_the_end(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    service = start(store, store_poll_seconds=0.05)
    with grpc.insecure_channel(service.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=READINESS), timeout=30)
        assert next(watch).status == NOT_SERVING
        publish(store, "wine")
        assert next(watch).status == SERVING
        ending = in_background(lambda: service.run(service.service.stop()))
        assert next(watch).status == NOT_SERVING
        ending.result(10)


def test_a_deadline_reaches_the_queue(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True, max_engine_calls=1)
    with grpc.insecure_channel(service.grpc) as channel, engine_held(service):
        stub = DensityServiceStub(channel)
        computing = stub.LogProb.future(request(rows[:1]), timeout=20)
        wait_for_call(service)
        late = stub.LogProb.future(request(rows), timeout=2)
        wait_for_queue(service, len(rows))
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for_queue(service, 0)
    assert service.metric("density_rejected_total", reason="expired") == 1
    assert len(rows) not in service.service.engine.calls
    assert computing.cancel() or computing.done()


def test_a_cancelled_call_leaves_the_queue(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True, max_engine_calls=1)
    with grpc.insecure_channel(service.grpc) as channel:
        stub = DensityServiceStub(channel)
        with engine_held(service):
            computing = stub.LogProb.future(request(rows[:1]), timeout=20)
            wait_for_call(service)
            waiting = stub.LogProb.future(request(rows), timeout=20)
            wait_for_queue(service, len(rows))
            waiting.cancel()
            wait_for_queue(service, 0)
        assert len(computing.result().log_prob.data) == 4
    assert service.metric("density_rejected_total", reason="cancelled") == 1
    assert len(rows) not in service.service.engine.calls


def test_a_full_queue_says_when_to_come_back(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True, max_engine_calls=1, max_queue_rows=1)
    with grpc.insecure_channel(service.grpc) as channel:
        stub = DensityServiceStub(channel)
        with engine_held(service):
            computing = stub.LogProb.future(request(rows[:1]), timeout=20)
            wait_for_call(service)
            waiting = stub.LogProb.future(request(rows[:1]), timeout=20)
            wait_for_queue(service, 1)
            with pytest.raises(grpc.RpcError) as raised:
                stub.LogProb(request(rows), timeout=10)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        _, retry = rpc_status.from_call(raised.value).details
        info = error_details_pb2.RetryInfo()
        assert retry.Unpack(info)
        assert info.retry_delay.seconds == 1
        computing.result()
        waiting.result()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (EngineError("it broke\n  File secret.py"), grpc.StatusCode.INTERNAL, "failed on this request: it broke"),
        (EngineUnavailable("it restarts"), grpc.StatusCode.UNAVAILABLE, "it restarts"),
        (KeyError("bug"), grpc.StatusCode.INTERNAL, "scoring failed: KeyError"),
    ],
)
def test_an_engine_that_fails(
    start: Start, published: Path, rows: np.ndarray, error: Exception, code: grpc.StatusCode, text: str
) -> None:
    service = start(published, faults=True)

    def fail(given: np.ndarray) -> None:
        raise error

    service.service.engine.check = fail
    with grpc.insecure_channel(service.grpc) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            DensityServiceStub(channel).LogProb(request(rows), timeout=10)
        assert raised.value.code() is code
        assert text in raised.value.details()
        assert "secret" not in raised.value.details()


def test_one_poisoned_request_fails_alone(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True, max_engine_calls=1)

    def poisoned(given: np.ndarray) -> None:
        if (given == 666).any():
            raise EngineError("poisoned")

    service.service.engine.check = poisoned
    with grpc.insecure_channel(service.grpc) as channel:
        stub = DensityServiceStub(channel)
        with engine_held(service):
            calls = [stub.LogProb.future(request(rows), timeout=20)]
            wait_for_call(service)
            batch = [np.full_like(rows, 666) if index == 3 else rows for index in range(8)]
            calls += [stub.LogProb.future(request(part), timeout=20) for part in batch]
            wait_for_queue(service, 8 * len(rows))
        codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.INTERNAL) == 1
    assert codes[4] is grpc.StatusCode.INTERNAL
    assert 8 * len(rows) in service.service.engine.calls


def test_a_row_without_density_is_a_bad_row(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True)
    engine = service.service.engine
    scorer = engine.log_prob

    async def holes(*arguments: Any) -> np.ndarray:
        log_prob = np.array(await scorer(*arguments))
        log_prob[2], log_prob[3] = np.nan, -np.inf
        return log_prob

    engine.log_prob = holes
    with grpc.insecure_channel(service.grpc) as channel:
        answer = DensityServiceStub(channel).LogProb(request(rows), timeout=10)
    log_prob = decode(answer.log_prob, "log_prob")
    assert np.isnan(log_prob[2])
    assert log_prob[3] == -np.inf
    assert [error.row for error in answer.row_errors] == [2]
    assert "log-density is NaN" in answer.row_errors[0].error.message
