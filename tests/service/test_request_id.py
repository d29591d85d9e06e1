"""Request ids over both transports, in answers, errors and logs; connections kept alive."""

from __future__ import annotations

import logging
import socket
import struct
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import plain_http
import pytest
from conftest import Running, Start

from service.client import DensityClient, ModelNotFoundError
from service.engines.engine import EngineError
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.request_id import RequestIdFilter
from service.security.tokens import add_token
from service.tensors import encode

ROWS = {"rows": [[1, 2, 3]]}


@pytest.mark.parametrize("path", ["wine:logProb", "beer:logProb", "wine:nonsense"])
def test_http_gives_the_callers_id_back(wine: Running, path: str) -> None:
    answer = plain_http.post(f"{wine.http}/v1/models/{path}", json=ROWS, headers={"X-Request-ID": "order 17"})
    assert answer.headers.get_list("x-request-id") == ["order 17"]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a\tb", "caf\xe9"])
def test_http_makes_an_id_where_there_is_none_to_use(wine: Running, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given.encode("latin-1")}
    made = [plain_http.get(f"{wine.http}/healthz", headers=headers).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    assert all(len(request_id) == 16 for request_id in made)


def test_who_is_not_let_in_gets_an_id_too(start: Start, published: Path, tmp_path: Path) -> None:
    add_token(tmp_path / "tokens", "somebody", ["score"])
    service = start(published, token_file=tmp_path / "tokens")
    answer = plain_http.post(f"{service.http}/v1/models/wine:logProb", json=ROWS, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (401, "mine")
    with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
        ask(channel, "wine", metadata=(("x-request-id", "mine"),))
    assert dict(raised.value.trailing_metadata())["x-request-id"] == "mine"


def ask(channel: grpc.Channel, model: str, **options: Any) -> Any:
    request = pb.LogProbRequest(model=model, rows=encode(np.ones((1, 3), np.float32)))
    return DensityServiceStub(channel).LogProb.with_call(request, timeout=10, **options)


def test_grpc_gives_the_callers_id_back(wine: Running) -> None:
    with grpc.insecure_channel(wine.grpc) as channel:
        _, call = ask(channel, "wine", metadata=(("x-request-id", "order-17"),))
        assert dict(call.trailing_metadata())["x-request-id"] == "order-17"
        with pytest.raises(grpc.RpcError) as raised:
            ask(channel, "beer", metadata=(("x-request-id", "order-18"),))
        assert dict(raised.value.trailing_metadata())["x-request-id"] == "order-18"
        with pytest.raises(grpc.RpcError) as raised:
            ask(channel, "beer")
        assert len(dict(raised.value.trailing_metadata())["x-request-id"]) == 16


def test_an_error_keeps_its_details_beside_the_id(wine: Running) -> None:
    with DensityClient(wine.grpc) as client, pytest.raises(ModelNotFoundError) as refused:
        client.log_prob("beer", [[1.0, 2, 3]])
    assert refused.value.reason == "MODEL_NOT_FOUND"


def test_the_log_says_which_request_it_was(start: Start, published: Path) -> None:
    service = start(published, faults=True)
    written: list[str] = []

    class Written(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    def fail(given: np.ndarray) -> None:
        raise EngineError("it broke")

    service.service.engine.check = fail
    handler = Written()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(logging.Formatter("%(name)s%(request)s: %(message)s"))
    log = logging.getLogger("service.gateway")
    log.addHandler(handler)
    try:
        plain_http.post(f"{service.http}/v1/models/wine:logProb", json=ROWS, headers={"X-Request-ID": "http-1"})
        with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError):
            ask(channel, "wine", metadata=(("x-request-id", "grpc-1"),))
        log.warning("between requests")
    finally:
        log.removeHandler(handler)
    assert written == [
        "service.gateway [http-1]: the engine failed on a request: it broke",
        "service.gateway [grpc-1]: the engine failed on a request: it broke",
        "service.gateway: between requests",
    ]


def test_a_silent_http_connection_is_closed(start: Start) -> None:
    service = start(http_keepalive_seconds=0.2)
    host, port = service.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_silent_grpc_connection_is_asked_whether_it_lives(start: Start) -> None:
    service = start(grpc_keepalive_seconds=1)
    host, port = service.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        asked = False
        while not asked:
            length, kind, flags = struct.unpack(">I", b"\0" + exactly(connection, 3))[0], *exactly(connection, 2)
            exactly(connection, 4 + length)
            asked = (kind, flags) == (6, 0)


def exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        assert part, "the server closed the connection"
        received += part
    return received
