"""Limits of one client and of all: buckets on a clock of the test's, and refusals as a client sees them."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import plain_http
import pytest
from conftest import Running, Start
from gates import engine_held, in_background, wait_for_call, wait_until
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.client import DensityClient, LimitExceededError, QueueFullError
from service.errors import LimitExceeded
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.rpc.gate import _address
from service.security import limits
from service.security.limits import Bucket, Limits, network
from service.security.tokens import add_token
from service.settings import Settings, SettingsError, load_settings
from service.tensors import encode

ROWS = np.zeros((4, 3), np.float32)


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_holds_a_second_and_fills_at_its_rate(clock: Clock) -> None:
    bucket = Bucket(5.0, clock)
    assert [bucket.take(1) for _ in range(6)] == [0.0] * 5 + [0.2]
    clock.now += 0.2
    assert [bucket.take(1), bucket.take(1)] == [0.0, 0.2]
    clock.now += 60
    assert bucket.full
    assert [bucket.take(2), bucket.take(3), bucket.take(1)] == [0.0, 0.0, 0.2]


def test_the_rate_holds_in_the_long_run_whatever_is_taken(clock: Clock) -> None:
    bucket, began, amounts = Bucket(100.0, clock), clock.now, np.random.default_rng(0).integers(1, 500, 1000).tolist()
    for amount in amounts:
        if wait := bucket.take(amount):
            clock.now += wait
            assert bucket.take(amount) == 0
    # All but what was in the bucket at first and what is owed at last came in at the rate.
    assert sum(amounts) - 500 <= 100 * (clock.now - began) <= sum(amounts)


def test_a_slow_rate_lets_one_through_at_a_time(clock: Clock) -> None:
    bucket = Bucket(0.1, clock)
    assert [bucket.take(1), bucket.take(1)] == [0.0, 10.0]


def test_reservations_queue_up_and_are_given_back(clock: Clock) -> None:
    bucket = Bucket(10.0, clock)
    assert [bucket.reserve(10), bucket.reserve(10), bucket.reserve(10)] == [0.0, 1.0, 2.0]
    bucket.give_back(10)
    assert bucket.reserve(10) == 2.0


def test_clients_that_are_quiet_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_CLIENTS", 50)
    all_of_them = Limits(Settings(client_requests_per_second=1), clock)
    for number in range(200):
        with all_of_them.request("", f"192.0.2.{number}"):
            pass
    assert len(all_of_them) == 50
    clock.now += 10
    for number in range(200):
        with all_of_them.request("", f"198.51.100.{number}"):
            clock.now += 1
    assert len(all_of_them) < 5


def test_a_client_is_its_token_or_its_network(clock: Clock) -> None:
    all_of_them = Limits(Settings(client_requests_per_second=1), clock)
    for token, peer in (("a", "192.0.2.1"), ("b", "192.0.2.1"), ("", "192.0.2.1"), ("", "2001:db8::1")):
        with all_of_them.request(token, peer):
            pass
    for token, peer, text in (
        ("a", "192.0.2.9", "the token 'a' asks for more requests in a second .* client_requests_per_second"),
        ("", "2001:db8::ffff", "the address 2001:db8::/64"),
    ):
        with pytest.raises(LimitExceeded, match=text) as raised, all_of_them.request(token, peer):
            pass
        assert raised.value.retry_after_seconds == 1.0


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:%5B2001:db8::7%5D:4711", "2001:db8::7"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_a_grpc_peer_is_its_address(peer: str, address: str) -> None:
    assert _address(peer) == address


def test_an_address_that_is_none_is_a_client_too() -> None:
    assert (network("unix"), network("")) == ("unix", "unknown")


def refusal(service: Running, rows: np.ndarray = ROWS) -> tuple[str, float]:
    """Reason and pause of a refused gRPC call, having seen HTTP say the same."""
    with grpc.insecure_channel(service.grpc) as channel:
        call = DensityServiceStub(channel).LogProb.future(
            pb.LogProbRequest(model="wine", rows=encode(rows)), timeout=20
        )
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        first, second = rpc_status.from_call(call).details
        assert first.Unpack(info)
        assert second.Unpack(retry)
    answer = plain_http.post(f"{service.http}/v1/models/wine:logProb", json={"rows": rows.tolist()})
    assert answer.status_code == 429
    assert answer.json()["error"]["details"][0]["reason"] == info.reason
    assert int(answer.headers["retry-after"]) >= 1
    return info.reason, retry.retry_delay.ToTimedelta().total_seconds()


def test_requests_in_a_second(start: Start, published: Path) -> None:
    service = start(published, client_requests_per_second=0.001)
    with DensityClient(service.grpc) as client:
        client.log_prob("wine", ROWS)
        with pytest.raises(LimitExceededError, match=r"the address 127\.0\.0\.1 asks for more requests") as raised:
            client.log_prob("wine", ROWS)
    assert isinstance(raised.value, QueueFullError)
    assert 900 < raised.value.retry_after_seconds <= 1000
    reason, pause = refusal(service)
    assert (reason, 900 < pause <= 1000) == ("TOO_FAST", True)
    assert service.metric("density_rejected_total", reason="too_fast") == 3
    assert plain_http.get(f"{service.http}/healthz").status_code == 200


def test_rows_in_a_second(start: Start, published: Path) -> None:
    service = start(published, client_rows_per_second=0.001)
    with DensityClient(service.grpc) as client:
        assert client.sample("wine", 4, seed=1).shape == (4, 3)
        with pytest.raises(LimitExceededError, match="asks for more rows in a second"):
            client.sample("wine", 4)
        assert client.models()
    reason, pause = refusal(service)
    # Four rows were taken, of which the bucket held one.
    assert (reason, 3900 < pause <= 4000) == ("TOO_FAST", True)


def test_each_token_has_limits_of_its_own(start: Start, published: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first, second = (add_token(path, name, ["score"]) for name in ("first", "second"))
    service = start(published, token_file=path, client_requests_per_second=0.001)
    for token in (first, second):
        with DensityClient(service.grpc, token=token) as client:
            client.log_prob("wine", ROWS)
            with pytest.raises(LimitExceededError, match=r"the token '(first|second)' asks for more"):
                client.log_prob("wine", ROWS)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("client_concurrent_requests", "TOO_MANY_AT_ONCE"), ("max_concurrent_requests", "OVERLOADED")],
)
def test_requests_at_once(start: Start, published: Path, setting: str, reason: str) -> None:
    service = start(published, faults=True, **{setting: 1})
    with DensityClient(service.grpc) as client:
        with engine_held(service):
            first = in_background(lambda: client.log_prob("wine", ROWS))
            wait_for_call(service)
            assert refusal(service) == (reason, 1.0)
        assert first.result(20).shape == (4,)
        assert client.log_prob("wine", ROWS).shape == (4,)


def test_a_stream_waits_for_its_rows(start: Start, published: Path) -> None:
    rate = 100_000
    service = start(published, client_rows_per_second=rate)
    count = rate + rate // 5
    with DensityClient(service.grpc) as client:
        drawn = sum(len(chunk.samples) for chunk in client.stream_draw("wine", count, seed=1, chunk_rows=rate // 10))
    assert drawn == count
    assert service.metric("density_rejected_total", reason="too_fast") == 0


@contextlib.contextmanager
def connections(service: Running, count: int) -> Iterator[list[socket.socket]]:
    """Open HTTP connections that the service knows of."""
    server = service.service._web._server
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", service.service.ports.http)
        opened = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(count)]
        wait_until(service, lambda: len(server.server_state.connections) >= count)
        yield opened


def test_http_connections(start: Start, published: Path) -> None:
    service = start(published, max_connections=3)
    with connections(service, 3):
        answer = plain_http.get(f"{service.http}/healthz")
        assert answer.status_code == 429
        assert answer.json()["error"]["details"][0]["reason"] == "TOO_MANY_CONNECTIONS"
        assert answer.headers["connection"] == "close"
    wait_until(service, lambda: not service.service._web._server.server_state.connections)
    assert plain_http.get(f"{service.http}/healthz").status_code == 200
    assert service.metric("density_rejected_total", reason="too_many_connections") == 1


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HTTP/1.1\r\nHost:", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET"]
)
def test_a_head_that_does_not_come_ends_the_connection(start: Start, published: Path, sent: bytes) -> None:
    service = start(published, request_head_seconds=0.2)
    with connections(service, 1) as (connection,):
        connection.sendall(sent)
        answers = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(4096):
                answers += part
        assert answers.count(b"HTTP/1.1 200 OK") == (b"\r\n\r\n" in sent)


def test_nothing_is_kept_of_a_connection_that_was_reset(start: Start, published: Path) -> None:
    service = start(published)
    with connections(service, 1) as (connection,):
        (kept,) = map(weakref.ref, service.service._web._server.server_state.connections)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
        # A connection that does not linger is reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def gone() -> bool:
        gc.collect()
        return kept() is None

    wait_until(service, gone)


def test_a_client_that_reads_nothing_does_not_keep_its_connection(start: Start, published: Path) -> None:
    service = start(published, stream_idle_seconds=0.2)
    body = b'{"count": 100000000, "seed": 6}'
    head = f"POST /v1/models/wine:sample HTTP/1.1\r\nHost: x\r\nAccept: text/csv\r\nContent-Length: {len(body)}\r\n"
    with connections(service, 1) as (connection,):
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert connection.recv(8) == b"HTTP/1.1"
        wait_until(service, lambda: not service.service._web._server.server_state.connections)
        arrived = b""
        while part := connection.recv(1 << 20):
            arrived = (arrived + part)[-10:]
        assert not arrived.endswith(b"0\r\n\r\n"), "the answer has no end"


def test_grpc_connections(start: Start, published: Path) -> None:
    service = start(published, max_connections=1)
    alone = [("grpc.use_local_subchannel_pool", 1)]

    def ask(channel: grpc.Channel) -> grpc.StatusCode:
        return DensityServiceStub(channel).ListModels.future(pb.ListModelsRequest(), timeout=20).code()

    with grpc.insecure_channel(service.grpc, alone) as first:
        assert ask(first) is grpc.StatusCode.OK
        with grpc.insecure_channel(service.grpc, alone) as second:
            assert ask(second) is grpc.StatusCode.UNAVAILABLE
        assert ask(first) is grpc.StatusCode.OK


def test_calls_on_one_connection_wait_their_turn(start: Start, published: Path) -> None:
    service = start(published, faults=True, max_concurrent_streams=2)
    with grpc.insecure_channel(service.grpc) as channel:
        # Until the limit has reached the client, calls too many are refused instead of kept back.
        grpc.channel_ready_future(channel).result(20)
        stub: Any = DensityServiceStub(channel)
        request = pb.LogProbRequest(model="wine", rows=encode(ROWS))
        with engine_held(service):
            calls = [stub.LogProb.future(request, timeout=20) for _ in range(6)]
            wait_for_call(service)
            wait_until(service, lambda: service.metric("density_inflight_requests", method="LogProb") == 2)
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    "setting",
    [
        "max_concurrent_requests",
        "max_connections",
        "max_concurrent_streams",
        "request_head_seconds",
        "client_requests_per_second",
        "client_rows_per_second",
        "client_concurrent_requests",
    ],
)
def test_a_wrong_limit_is_refused_by_its_name(setting: str) -> None:
    for value in ("0", "-1", "many"):
        with pytest.raises(SettingsError, match=f"--{setting.replace('_', '-')}: .*given '{value}'"):
            load_settings(options={setting: value})
