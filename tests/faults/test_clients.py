"""Clients that vanish, cancel, dawdle, send halves or poison: the others notice nothing, and nothing stays behind."""

from __future__ import annotations

import socket
import subprocess
import sys

import grpc
import numpy as np
import pytest
from load import Load, check_right
from publishing import publish
from served import Served, wait_until

from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.tensors import encode

POST = b"POST /v1/models/wine:logProb HTTP/1.1\r\nHost: h\r\nContent-Type: text/csv\r\n"

ASKS_WITHOUT_END = """
import sys
from service.client import DensityClient
import numpy as np
with DensityClient(sys.argv[1]) as client:
    while True:
        client.log_prob("wine", np.zeros((20000, 3), np.float32))
        print("asked", flush=True)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store for one service that all of these clients meet."""
    store = tmp_path_factory.mktemp("clients") / "store"
    publish(store, 1)
    return store


@pytest.fixture(scope="module")
def served(store):
    served = Served(store, "inprocess", stream_idle_seconds=1, request_head_seconds=1, default_timeout_seconds=3)
    yield served
    served.close()


@pytest.fixture
def load(served):
    """Others, who are to notice nothing."""
    return Load(served.grpc, clients=2)


@pytest.fixture
def serve_slow(tmp_path):
    """Starts a service of a model that takes its time, with its store."""
    started = []

    def begin(**settings):
        publish(tmp_path / "slow", 2, width=256)
        started.append(Served(tmp_path / "slow", "inprocess", **settings))
        return started[-1], tmp_path / "slow"

    yield begin
    for served in started:
        served.close()


def others_are_answered(load: Load, store) -> None:
    load.wait_for(20, "OK")
    answers = load.stop()
    assert {answer.code for answer in answers} == {"OK"}
    check_right(load, store, answers)


def all_is_well(served: Served, load: Load, store) -> None:
    others_are_answered(load, store)
    wait_until(lambda: served.metric("density_inflight_requests") == 0, "no request is under way any more")
    wait_until(lambda: served.metric("density_queue_rows") == 0, "no row waits any more")
    assert not any("Traceback" in line for line in served.errors), "\n".join(served.errors)


def test_a_client_that_is_killed(served, load, store, rounds):
    for _ in range(rounds):
        program = [sys.executable, "-c", ASKS_WITHOUT_END, served.grpc]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout.readline() == "asked\n"
            client.kill()
    all_is_well(served, load, store)


def test_clients_that_cancel(served, load, store, rounds):
    request = pb.LogProbRequest(model="wine", rows=encode(np.zeros((50_000, 3), np.float32)))
    with grpc.insecure_channel(served.grpc) as channel:
        for _ in range(20 * rounds):
            call = DensityServiceStub(channel).LogProb.future(request)
            call.cancel()
            assert call.code() is grpc.StatusCode.CANCELLED
    all_is_well(served, load, store)


def test_a_stream_that_is_not_read(served, load, store):
    with grpc.insecure_channel(served.grpc) as channel:
        stream = DensityServiceStub(channel).StreamSample(pb.StreamSampleRequest(model="wine", count=10**8))
        next(stream)
        drawn = served.metric("density_rows_total")
        others_are_answered(load, store)
        # Flow control holds the engine back: of a hundred million samples only a window's worth is drawn ahead.
        assert served.metric("density_rows_total") - drawn < 10**7
        stream.cancel()
    wait_until(lambda: served.metric("density_inflight_requests") == 0, "the stream is given up")


@pytest.mark.parametrize(
    "half",
    [
        POST + b"Content-Length: 100\r\n\r\nx0,x1",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r",
        b"POST /v1/mod",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x10\x00\x05\x00\x00\x00\x01half a frame",
        bytes(range(256)),
    ],
    ids=["body", "chunk", "head", "frame", "noise"],
)
@pytest.mark.parametrize("port", ["http", "grpc"])
def test_half_a_message_and_then_silence_or_the_end(served, load, store, half, port):
    host, _, number = getattr(served, port).removeprefix("http://").rpartition(":")
    silent = [socket.create_connection((host, int(number)), timeout=30) for _ in range(5)]
    for connection in silent:
        connection.sendall(half)
    silent.pop().close()
    try:
        all_is_well(served, load, store)
    finally:
        for connection in silent:
            connection.close()


@pytest.mark.parametrize("engine", ["inprocess", "torchserve"])
def test_one_poisoned_request_in_each_batch_spoils_its_own_row_alone(serve, store, engine):
    served = serve(engine)
    good, poisoned = Load(served.grpc, clients=4), Load(served.grpc, clients=1, poisoned=2)
    good.wait_for(30)
    poisoned.wait_for(10)
    for load in (poisoned, good):
        answers = load.stop()
        assert {answer.code for answer in answers} == {"OK"}
        check_right(load, store, answers)


def test_a_queue_ten_times_oversubscribed_refuses_at_once_and_answers_the_rest(serve_slow):
    served, store = serve_slow(max_queue_rows=2000, max_rows_per_batch=500, threads=1)
    crowd = Load(served.grpc, clients=40, rows=500)
    crowd.wait_for(3)
    answers = crowd.stop()
    codes = crowd.codes()
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}, codes
    refused = [answer for answer in answers if answer.code == "RESOURCE_EXHAUSTED"]
    assert {(answer.reason, answer.hint) for answer in refused} == {("QUEUE_FULL", True)}
    check_right(crowd, store, answers)
    assert served.metric("density_rejected_total") == len(refused)


def test_deadlines_shorter_than_the_queue_are_kept_and_the_patient_are_answered(serve_slow):
    served, store = serve_slow(max_rows_per_batch=500, threads=1)
    patient, hasty = Load(served.grpc, clients=8, rows=2000), Load(served.grpc, clients=8, rows=2000, timeout=0.005)
    hasty.wait_for(5, "DEADLINE_EXCEEDED")
    patient.wait_for(5, "OK")
    answers, missed = patient.stop(), hasty.stop()
    assert {answer.code for answer in answers} == {"OK"}
    assert {answer.code for answer in missed} <= {"OK", "DEADLINE_EXCEEDED"}
    check_right(patient, store, answers)
    check_right(hasty, store, missed)
