"""Tokens from outside: who is let in over gRPC and HTTP, and what the others are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import plain_http
import pytest
from conftest import Loop, Running, Start, running
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from service.client import AsyncDensityClient, DensityClient, PermissionDeniedError, UnauthenticatedError
from service.errors import DOMAIN
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.security.tokens import add_token, remove_token
from service.tensors import encode

ROWS = np.zeros((2, 3), np.float32)
SCOPES = ("score", "sample", "admin")


class Guarded(Running):
    """A service that asks for tokens, and one token of each scope."""

    secrets: dict[str, str]
    path: Path


@pytest.fixture(scope="module")
def guarded(loop: Loop, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    secrets = {scope: add_token(path, f"may-{scope}", [scope]) for scope in SCOPES}
    with running(loop, published, token_file=path) as service:
        service.__class__ = Guarded
        service.secrets, service.path = secrets, path
        yield service


def ask(guarded: Running, method: str, token: str | None) -> grpc.StatusCode:
    requests = {
        "LogProb": pb.LogProbRequest(model="wine", rows=encode(ROWS)),
        "Sample": pb.SampleRequest(model="wine", count=2),
        "GetModel": pb.GetModelRequest(model="wine"),
        "ListModels": pb.ListModelsRequest(),
    }
    metadata = [("authorization", f"Bearer {token}")] if token is not None else []
    with grpc.insecure_channel(guarded.grpc) as channel:
        call = getattr(DensityServiceStub(channel), method).future(requests[method], timeout=10, metadata=metadata)
        code = call.code()
        if code is not grpc.StatusCode.OK:
            info = error_details_pb2.ErrorInfo()
            assert any(detail.Unpack(info) for detail in rpc_status.from_call(call).details)
            assert info.domain == DOMAIN
    return code


def fetch(guarded: Running, path: str, token: str | None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    if path.endswith(":logProb"):
        return plain_http.post(guarded.http + path, json={"rows": ROWS.tolist()}, headers=headers)
    if path.endswith(":sample"):
        return plain_http.post(guarded.http + path, json={"count": 2}, headers=headers)
    return plain_http.get(guarded.http + path, headers=headers)


WANTED = {"LogProb": "score", "Sample": "sample", "GetModel": None, "ListModels": None}
PATHS = {
    "/v1/models/wine:logProb": "score",
    "/v1/models/wine/versions/1:logProb": "score",
    "/v1/models/wine:sample": "sample",
    "/v1/models/wine": None,
    "/v1/models": None,
    "/metrics": None,
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", WANTED)
def test_a_grpc_method_wants_its_scope(guarded: Guarded, method: str, scope: str) -> None:
    allowed = WANTED[method] in (None, scope)
    expected = grpc.StatusCode.OK if allowed else grpc.StatusCode.PERMISSION_DENIED
    assert ask(guarded, method, guarded.secrets[scope]) is expected


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("path", PATHS)
def test_an_address_wants_its_scope(guarded: Guarded, path: str, scope: str) -> None:
    answer = fetch(guarded, path, guarded.secrets[scope])
    if PATHS[path] in (None, scope):
        assert answer.status_code == 200
        return
    assert answer.status_code == 403
    assert answer.json()["error"]["status"] == "PERMISSION_DENIED"
    assert answer.json()["error"]["details"][0]["reason"] == "SCOPE_MISSING"
    challenge = f'Bearer realm="density.v1", error="insufficient_scope", scope="{PATHS[path]}"'
    assert answer.headers["www-authenticate"] == challenge


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"inputs": [{"name": "rows", "shape": [2, 3], "datatype": "FP32", "data": [0.0] * 6}]}, "score"),
        ({"inputs": [], "parameters": {"count": 2}}, "sample"),
    ],
)
def test_open_inference_wants_the_scope_of_what_it_is_asked(
    guarded: Guarded, body: dict[str, Any], wanted: str, scope: str
) -> None:
    address = f"{guarded.http}/v2/models/wine/infer"
    answer = plain_http.post(address, json=body, headers={"Authorization": f"Bearer {guarded.secrets[scope]}"})
    assert answer.status_code == (200 if scope == wanted else 403)
    assert plain_http.post(address, json=body).status_code == 401


def test_open_inference_asks_its_probes_for_no_token(guarded: Guarded) -> None:
    assert fetch(guarded, "/v2/health/ready", None).status_code == 200
    with grpc.insecure_channel(guarded.grpc) as channel:
        codes = {
            method: channel.unary_unary(f"/inference.GRPCInferenceService/{method}").future(b"", timeout=20).code()
            for method in ("ServerLive", "ServerReady", "ServerMetadata", "ModelInfer")
        }
    assert codes["ServerLive"] is codes["ServerReady"] is grpc.StatusCode.OK
    assert codes["ServerMetadata"] is codes["ModelInfer"] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("token", "reason", "challenge"),
    [
        (None, "TOKEN_MISSING", 'Bearer realm="density.v1"'),
        ("guess", "TOKEN_UNKNOWN", 'Bearer realm="density.v1", error="invalid_token"'),
    ],
)
def test_who_is_not_known_is_told_how(guarded: Guarded, token: str | None, reason: str, challenge: str) -> None:
    before = guarded.metric("density_rejected_total", reason="unauthenticated")
    for method in WANTED:
        assert ask(guarded, method, token) is grpc.StatusCode.UNAUTHENTICATED
    for path in [*PATHS, "/v1/models/none", "/nowhere"]:
        answer = fetch(guarded, path, token)
        assert answer.status_code == 401
        assert answer.json()["error"]["details"][0]["reason"] == reason
        assert answer.headers["www-authenticate"] == challenge
    count = len(WANTED) + len(PATHS) + 2
    assert guarded.metric("density_rejected_total", reason="unauthenticated") == before + count


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"])
def test_probes_and_documentation_are_open(guarded: Guarded, path: str) -> None:
    assert fetch(guarded, path, None).status_code == 200


def test_health_and_reflection_are_open(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        question = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(question, timeout=10)
        assert answer.list_services_response.service


def test_a_body_of_somebody_unknown_is_not_waited_for(guarded: Guarded) -> None:
    with socket.create_connection(("127.0.0.1", guarded.service.ports.http), timeout=30) as connection:
        connection.sendall(b"POST /v1/models/wine:logProb HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_the_clients_present_a_token(guarded: Guarded) -> None:
    with DensityClient(guarded.grpc, token=guarded.secrets["score"]) as client:
        assert client.log_prob("wine", ROWS).shape == (2,)
        assert [model.name for model in client.models()] == ["pair", "wine"]
        with pytest.raises(PermissionDeniedError, match="'may-score' has the scope score; this needs sample") as raised:
            client.sample("wine", 2)
        assert raised.value.reason == "SCOPE_MISSING"
    with DensityClient(guarded.grpc) as client, pytest.raises(UnauthenticatedError, match="no token given"):
        client.log_prob("wine", ROWS)
    with pytest.raises(ValueError, match="has blanks or line ends"):
        DensityClient(guarded.grpc, token="secret\n")

    async def draw() -> Any:
        async with AsyncDensityClient(guarded.grpc, token=guarded.secrets["sample"]) as client:
            return await client.sample("wine", 2)

    assert asyncio.run(draw()).shape == (2, 3)


def test_a_running_service_follows_the_file(guarded: Guarded) -> None:
    secret = add_token(guarded.path, "late", ["score"])
    assert ask(guarded, "LogProb", secret) is grpc.StatusCode.OK
    remove_token(guarded.path, "late")
    assert ask(guarded, "LogProb", secret) is grpc.StatusCode.UNAUTHENTICATED
    assert fetch(guarded, "/v1/models", secret).status_code == 401


def test_bytes_that_are_no_message_are_told_so(start: Start, published: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = start(published)
    with grpc.insecure_channel(service.grpc) as channel:
        methods = [f"/density.v1.DensityService/{name}" for name in WANTED] + ["/grpc.health.v1.Health/Check"]
        for method in methods:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(method)(b"\xff\xff\xff", timeout=10)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "3 bytes given that are no message of" in raised.value.details()
        reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as raised:
            list(reflection(iter([b"\xff"]), timeout=10))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert service.metric("density_rejected_total", reason="malformed") == len(methods) + 1
    assert not caplog.records


def test_a_method_that_the_library_only_declares_is_no_failure(
    start: Start, published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(published)
    with grpc.insecure_channel(service.grpc) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/List").future(b"", timeout=10)
        assert call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not caplog.records


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_an_open_service_on_a_network_says_so_once(
    start: Start, published: Path, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    service = start(published, host=host)
    assert ask(service, "LogProb", None) is grpc.StatusCode.OK
    warnings = [record.getMessage() for record in caplog.records if record.name == "service.service"]
    assert len(warnings) == (host == "0.0.0.0")
    assert all("anybody who reaches 0.0.0.0 can ask for everything" in warning for warning in warnings)
