"""The Python client against a real service: what it sends, splits, joins, retries and raises."""

from __future__ import annotations

import asyncio
import inspect
import socket
from concurrent import futures

import grpc
import numpy as np
import pytest

from service.client import (
    AsyncDensityClient,
    DeadlineExceededError,
    DensityClient,
    DensityError,
    InvalidRequestError,
    ModelNotFoundError,
    UnavailableError,
    messages,
)
from service.errors import Unavailable
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import (
    DensityServiceServicer,
    add_DensityServiceServicer_to_server,
)
from service.rpc.status import to_status


@pytest.fixture
def client(wine):
    with DensityClient(wine.grpc) as client:
        yield client


def test_float32_float64_and_lists_give_the_same(client, rows):
    expected = client.log_prob("wine", rows)
    assert expected.shape == (7,)
    assert expected.dtype == np.float32
    assert np.array_equal(client.log_prob("wine", rows.astype(np.float64)), expected)
    assert np.array_equal(client.log_prob("wine", rows.tolist()), expected)
    assert np.array_equal(client.log_prob("wine", np.asfortranarray(rows)), expected)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([["1", "2", "3"]], "rows: <U1 given; float32, float64 or whole numbers expected"),
        ([[1, 2, 3j]], "rows: complex128 given; float32, float64"),
        ([[True, False, True]], "rows: bool given; float32, float64"),
        (np.zeros((1, 3), "datetime64[D]"), "rows: datetime64[D] given; float32, float64"),
        (np.array([[1, "two", 3]], object), "rows: object given; numbers expected in every cell: could not convert"),
        (None, "rows: 'None' given; float32"),
        ([[1, 2, 3], [4, 5]], "rows: of unequal length given; an array"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_before_it_is_sent(client, given, text):
    with pytest.raises(InvalidRequestError) as refused:
        client.log_prob("wine", given)
    assert f"INVALID_ARGUMENT: {text}" in str(refused.value)
    with pytest.raises(InvalidRequestError) as refused:
        list(client.stream_log_prob("wine", [given]))
    assert text in str(refused.value)
    assert refused.value.reason == "WRONG_TYPE"


def test_numbers_held_as_objects_are_numbers(client, rows):
    held = rows.astype(np.float64).astype(object)
    held[2, 0] = None
    expected = client.log_prob("wine", rows)
    expected[2] = np.nan
    np.testing.assert_array_equal(client.log_prob("wine", held), expected)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"seed": -1}, "seed: -1 given; 0 to 18446744073709551615 expected"),
        ({"seed": 2**64}, "seed: 18446744073709551616 given; 0 to"),
        ({"seed": 1.5}, "seed: 1.5 given; a whole number expected"),
        ({"count": 2.5}, "count: 2.5 given; a whole number expected"),
        ({"count": 2**63}, "count: 9223372036854775808 given; "),
    ],
)
def test_a_seed_or_count_that_the_wire_cannot_carry_is_refused_by_name(client, given, text):
    asked = {"count": 2, "seed": 3} | given
    with pytest.raises(InvalidRequestError) as refused:
        client.sample("wine", **asked)
    assert text in str(refused.value)
    with pytest.raises(InvalidRequestError) as refused:
        list(client.stream_sample("wine", **asked))
    assert text in str(refused.value)


def test_a_version_can_be_named(client, rows):
    assert client.score("wine", rows).version == "2"
    first = client.score("wine", rows, version=1)
    assert first.version == "1"
    assert not np.array_equal(first.log_prob, client.log_prob("wine", rows))


def test_a_bad_row_is_nan_and_says_why(client, rows):
    rows[3, 1] = np.nan
    scores = client.score("wine", rows)
    assert np.isnan(scores.log_prob).tolist() == [False, False, False, True, False, False, False]
    assert [(error.row, "beta" in error.message) for error in scores.row_errors] == [(3, True)]


def test_large_rows_are_split_and_joined(client, monkeypatch):
    rows = np.random.default_rng(1).standard_normal((1000, 3)).astype(np.float32)
    rows[777, 0] = np.inf
    whole = client.score("wine", rows)
    monkeypatch.setattr(messages, "REQUEST_BYTES", 12 * 64)
    split = client.score("wine", rows)
    assert np.array_equal(split.log_prob, whole.log_prob, equal_nan=True)
    assert [error.row for error in split.row_errors] == [777]


def test_samples_repeat_by_seed_however_they_are_split(client, monkeypatch):
    samples, log_prob = client.sample("wine", 3000, seed=7, with_log_prob=True)
    assert samples.shape == (3000, 3)
    np.testing.assert_allclose(client.log_prob("wine", samples), log_prob, atol=1e-4)
    monkeypatch.setattr(messages, "FIRST_SAMPLES", 10)
    monkeypatch.setattr(messages, "REQUEST_BYTES", 12 * 500)
    assert np.array_equal(client.sample("wine", 3000, seed=7), samples)
    drawn = client.draw("wine", 5)
    assert np.array_equal(client.sample("wine", 5, seed=drawn.seed), drawn.samples)
    assert not np.array_equal(client.sample("wine", 5), client.sample("wine", 5))


def test_contexts_for_each_row_or_one_for_all(client, rows, monkeypatch):
    context = np.random.default_rng(2).standard_normal((7, 2)).astype(np.float32)
    each = client.log_prob("pair", rows, context)
    monkeypatch.setattr(messages, "REQUEST_BYTES", 12 * 2)
    assert np.array_equal(client.log_prob("pair", rows, context), each)
    one = client.log_prob("pair", rows, context[:1])
    assert one[0] == each[0]
    assert one[1] != each[1]
    assert client.sample("pair", 7, seed=1, context=context).shape == (7, 3)


def test_models_are_described(client):
    assert [model.name for model in client.models()] == ["pair", "wine"]
    wine = client.model("wine")
    assert wine.default_version == "2"
    assert wine.versions[0].feature_names == ("alpha", "beta", "gamma")
    assert client.model("pair").versions[0].context_names == ("left", "right")


def test_errors_are_typed_and_name_the_field(client, rows):
    with pytest.raises(InvalidRequestError, match=r"shape \[7, 2\] given") as caught:
        client.log_prob("wine", rows[:, :2])
    assert list(caught.value.violations) == ["rows"]
    assert caught.value.reason
    with pytest.raises(ModelNotFoundError, match="no model 'beer'; loaded: pair, wine"):
        client.log_prob("beer", rows)
    with pytest.raises(InvalidRequestError, match="count: 0 given"):
        client.sample("wine", 0)
    with pytest.raises(InvalidRequestError, match="1000000000000 given; at most"):
        client.sample("wine", 10**12)
    for empty in (np.zeros((0, 3)), np.float64(3.0)):
        with pytest.raises(InvalidRequestError):
            client.log_prob("wine", empty)


async def ask_everything(target, rows):
    async with AsyncDensityClient(target) as client:
        log_prob, samples, models, model = await asyncio.gather(
            client.log_prob("wine", rows), client.sample("wine", 4, seed=3), client.models(), client.model("wine")
        )
        with pytest.raises(ModelNotFoundError):
            await client.log_prob("beer", rows)
        return log_prob, samples, models, model


def test_the_asynchronous_client_answers_alike(client, wine, rows):
    log_prob, samples, models, model = asyncio.run(ask_everything(wine.grpc, rows))
    assert np.array_equal(log_prob, client.log_prob("wine", rows))
    assert np.array_equal(samples, client.sample("wine", 4, seed=3))
    assert models == client.models()
    assert model == client.model("wine")


def test_both_clients_offer_the_same():
    def offered(kind):
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(member).parameters) for name, member in members if name[0] != "_"}

    assert offered(DensityClient) == offered(AsyncDensityClient)


class Flaky(DensityServiceServicer):
    """Answers only after it has failed a number of times."""

    def __init__(self, failures, code):
        self.failures, self.code, self.calls = failures, code, 0

    def GetModel(self, request, context):
        self.calls += 1
        if self.calls <= self.failures:
            context.abort(self.code, "away for a moment")
        return pb.GetModelResponse(model=pb.Model(name=request.model, default_version="1"))


@pytest.mark.parametrize(
    ("failures", "code", "answered", "calls"),
    [
        (2, grpc.StatusCode.UNAVAILABLE, True, 3),
        (1, grpc.StatusCode.CANCELLED, True, 2),
        (1, grpc.StatusCode.RESOURCE_EXHAUSTED, False, 1),
        (1, grpc.StatusCode.INTERNAL, False, 1),
    ],
)
def test_what_the_service_being_away_leads_to_is_retried_and_nothing_else(failures, code, answered, calls):
    flaky = Flaky(failures, code)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_DensityServiceServicer_to_server(flaky, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with DensityClient(f"127.0.0.1:{port}") as client:
            if answered:
                assert client.model("wine").default_version == "1"
            else:
                with pytest.raises(DensityError, match="away for a moment"):
                    client.model("wine")
    finally:
        server.stop(None).wait()
    assert flaky.calls == calls


class Restarting(DensityServiceServicer):
    """Says of its first calls when to come back, and to gRPC that it is not to repeat them by itself."""

    def __init__(self, failures):
        self.failures, self.calls = failures, 0

    def GetModel(self, request, context):
        self.calls += 1
        if self.calls <= self.failures:
            status = to_status(Unavailable("ENGINE", "it restarts", retry_after_seconds=0.01))
            context.set_trailing_metadata((*status.trailing_metadata, ("grpc-retry-pushback-ms", "-1")))
            context.abort(status.code, status.details)
        return pb.GetModelResponse(model=pb.Model(name=request.model, default_version="1"))


@pytest.fixture
def restarting():
    """Starts such services."""
    servers = []

    def start(failures):
        server = grpc.server(futures.ThreadPoolExecutor(2))
        servicer = Restarting(failures)
        add_DensityServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return servicer, f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


def test_a_service_that_says_when_to_come_back_is_asked_until_it_answers(restarting):
    servicer, target = restarting(failures=12)
    with DensityClient(target) as client:
        assert client.model("wine").default_version == "1"
    assert servicer.calls == 13

    async def ask(target):
        async with AsyncDensityClient(target, timeout=None) as client:
            return await client.model("wine")

    servicer, target = restarting(failures=12)
    assert asyncio.run(ask(target)).default_version == "1"
    assert servicer.calls == 13


def test_and_not_beyond_the_timeout(restarting):
    servicer, target = restarting(failures=10**9)
    with DensityClient(target) as client, pytest.raises((UnavailableError, DeadlineExceededError)):
        client.model("wine", timeout=0.5)
    assert servicer.calls > 1


def test_nobody_there_is_unavailable_or_too_late():
    with socket.socket() as taken:
        # Bound and not listening: connections to it are refused.
        taken.bind(("127.0.0.1", 0))
        with (
            DensityClient(f"127.0.0.1:{taken.getsockname()[1]}", timeout=20) as client,
            pytest.raises(UnavailableError),
        ):
            client.model("wine")
