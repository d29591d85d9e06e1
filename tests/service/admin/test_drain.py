"""Draining over the admin API: at once nothing new is taken, what is under way is answered, and the process ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import numpy as np
import plain_http
import pytest
from conftest import Running
from gates import engine_held, in_background, wait_for_call, wait_for_queue
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from service.client import DensityClient
from service.security.tokens import add_token

PROGRAM = [sys.executable, "-c", "from service.command import serve; serve()"]


def test_what_is_under_way_is_told_and_answered_and_nothing_new_is_taken(
    service: Running, admin: httpx.Client, rows: np.ndarray
) -> None:
    nothing = {"draining": False, "requests": 0, "queued_rows": 0, "drain_seconds": 5.0}
    assert admin.get("/drain").json() == nothing
    with DensityClient(service.grpc) as client:
        with engine_held(service):
            first = in_background(lambda: client.score("wine", rows))
            wait_for_call(service)
            second = in_background(lambda: client.score("wine", rows))
            wait_for_queue(service, len(rows))
            waiting = {"draining": True, "requests": 2, "queued_rows": len(rows), "drain_seconds": 5.0}
            assert admin.post("/drain").json() == waiting
            assert admin.post("/drain").json() == waiting, "asked twice is as asked once"
            assert plain_http.get(f"{service.http}/readyz").status_code == 503
            refused = plain_http.post(f"{service.http}/v1/models/wine:logProb", json={"rows": rows.tolist()})
            assert refused.json()["error"]["details"][0]["reason"] == "DRAINING"
        for future in (first, second):
            assert len(future.result(10).log_prob) == len(rows)
    assert admin.get("/drain").json() == nothing | {"draining": True}


def test_a_drain_that_is_asked_for_wrongly_does_not_begin(service: Running, admin: httpx.Client) -> None:
    answer = admin.post("/drain", json={"seconds": 3})
    assert answer.status_code == 400
    assert "seconds: unknown" in answer.json()["error"]["message"]
    assert not service.service.gateway.draining


def test_it_is_logged_with_the_tokens_name(admin: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    admin.post("/drain")
    assert "draining, by the token 'operator': requests have 5 s to finish" in caplog.text


def test_health_says_so_and_the_process_ends_as_on_a_signal(published: Path, tokens: Path) -> None:
    secret = add_token(tokens, "operator", ["admin"])
    ports = ["--grpc-port", "0", "--http-port", "0", "--admin-port", "0"]
    process = subprocess.Popen(
        [*PROGRAM, "--engine", "inprocess", "--store", published, "--admin-token-file", tokens, *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = process.stdout.readline()
        address = re.search(r"gRPC (\S+), HTTP .*, admin API (\S+)/docs$", ready.rstrip())
        assert address, ready
        with grpc.insecure_channel(address[1]) as channel:
            watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            answer = plain_http.post(f"{address[2]}/admin/v1/drain", headers={"Authorization": f"Bearer {secret}"})
            assert answer.json()["draining"] is True
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
