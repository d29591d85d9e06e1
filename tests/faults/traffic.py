"""Requests of every kind that the service takes, and of kinds that it refuses, each checked as it is answered."""

from __future__ import annotations

import asyncio
import gzip
import io
import random
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from publishing import FEATURES
from rotation import Truth

from flowmodel.runtime.noise import Draw
from service.client import AsyncDensityClient, DensityClient, InvalidRequestError, ModelNotFoundError
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.generated.inference import inference_service_pb2 as inference
from service.generated.inference.inference_service_pb2_grpc import GRPCInferenceServiceStub
from service.tensors import decode, encode

sys.path.append(str(Path(__file__).parents[1] / "service" / "web"))

from bodies import ARROW, BINARY, CSV, JSON, NDJSON, NPY, arrow, read_samples, read_scores, write_rows

TYPES = (JSON, CSV, NDJSON, BINARY, NPY, ARROW)
STREAMED = (CSV, NDJSON, BINARY, ARROW)
"""Types that are answered while they are read."""

POST = b"POST /v1/models/wine:logProb HTTP/1.1\r\nHost: h\r\n"
HALVES = (
    POST + b"Content-Type: text/csv\r\nContent-Length: 90\r\n\r\nalpha",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 16, 0, 5, 0, 0, 0, 1]) + b"half",
)
"""What a client sends before it vanishes."""

LARGE_ROWS = 20_000
STREAM_ROWS = 60_000
_FAILURES_KEPT = 50


class Traffic:
    """One account of everything that was asked.

    Args:
        grpc_address: of the service.
        http_address: of the service.
        truth: what the answers must be.
    """

    def __init__(self, grpc_address: str, http_address: str, truth: Truth) -> None:
        self.grpc, self.http, self.truth = grpc_address, http_address, truth
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def count(self, kind: str, outcome: str) -> None:
        with self._lock:
            self.answers[kind, outcome] += 1

    def fail(self, kind: str, error: Exception) -> None:
        """A request that was answered otherwise than it must be."""
        with self._lock:
            self.answers[kind, "WRONG"] += 1
            if len(self.failures) < _FAILURES_KEPT:
                self.failures.append(f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:400]}")

    def kinds(self) -> Counter[str]:
        """How many requests of each kind were answered as they must be."""
        total: Counter[str] = Counter()
        for (kind, outcome), number in self.answers.items():
            if outcome != "WRONG":
                total[kind] += number
        return total


class Caller:
    """Asks one thing after the other, on connections of its own.

    Args:
        traffic: the account.
        number: which caller it is; another one asks other things.
    """

    def __init__(self, traffic: Traffic, number: int) -> None:
        self._traffic, self._truth = traffic, traffic.truth
        self._chance = random.Random(number)
        self._numbers = np.random.default_rng(number)

    def run(self, stopping: threading.Event) -> None:
        # A connection for each caller: channels with the same options share one otherwise.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        with (
            DensityClient(self._traffic.grpc) as self._client,
            grpc.insecure_channel(self._traffic.grpc, options) as self._channel,
            httpx.Client(base_url=self._traffic.http, timeout=60, trust_env=False) as self._http,
        ):
            for kind in self._plan(stopping):
                name = kind.__name__.replace("_", " ")
                try:
                    self._traffic.count(name, kind(self))
                except Exception as error:
                    self._traffic.fail(name, error)

    def _plan(self, stopping: threading.Event) -> Iterator[Callable[[Caller], str]]:
        """Each kind once, then any, until it is to stop."""
        yield from self._chance.sample(list(KINDS), len(KINDS))
        while not stopping.is_set():
            yield from self._chance.choices(list(KINDS), list(KINDS.values()))

    def one_row(self) -> str:
        return self._score(self._rows(1))

    def many_rows(self) -> str:
        return self._score(self._rows(LARGE_ROWS))

    def named_version(self) -> str:
        """The default one must answer; where it changes meanwhile, another one may not be loaded any more."""
        since, rows = self._truth.mark(), self._rows(5)
        version = self._chance.choice(sorted(self._truth.allowed(since)))
        try:
            scores = self._client.score("wine", rows, version=version)
        except ModelNotFoundError as error:
            if self._truth.allowed(since) == {version}:
                raise
            return error.code
        assert scores.version == version
        self._truth.check_scores(version, rows, scores.log_prob)
        return "OK"

    def bad_row(self) -> str:
        rows = self._rows(7)
        rows[-1, 1] = np.nan
        return self._score(rows)

    def sample(self) -> str:
        since, seed, count = self._truth.mark(), self._chance.getrandbits(53), self._chance.choice((1, 100, 5000))
        drawn = self._client.draw("wine", count, seed=seed)
        self._truth.check_version(drawn.version, since)
        self._truth.check_samples(drawn.version, Draw(seed, 0, count), drawn.samples, drawn.log_prob)
        return "OK"

    def stream_of_rows(self) -> str:
        since, rows = self._truth.mark(), self._rows(STREAM_ROWS)
        scores = list(self._client.stream_score("wine", iter(np.array_split(rows, 23))))
        (version,) = {answer.version for answer in scores}
        self._truth.check_version(version, since)
        self._truth.check_scores(version, rows, np.concatenate([answer.log_prob for answer in scores]))
        return "OK"

    def stream_of_samples(self) -> str:
        since, seed = self._truth.mark(), self._chance.getrandbits(53)
        chunks = list(self._client.stream_draw("wine", STREAM_ROWS, seed=seed, chunk_rows=7000))
        (version,) = {drawn.version for drawn in chunks}
        self._truth.check_version(version, since)
        samples, log_prob = (
            np.concatenate([getattr(drawn, name) for drawn in chunks]) for name in ("samples", "log_prob")
        )
        self._truth.check_samples(version, Draw(seed, 0, STREAM_ROWS), samples, log_prob)
        return "OK"

    def http_rows(self) -> str:
        """A body of any type, answered in any type, deflated or not."""
        kind, wanted, rows = self._chance.choice(TYPES), self._chance.choice(TYPES), self._rows(50)
        body, headers = write_rows(kind, rows), {"Content-Type": kind, "Accept": wanted}
        if self._chance.random() < 0.3:
            body, headers = gzip.compress(body, 1), headers | {"Content-Encoding": "gzip"}
        since = self._truth.mark()
        answer = self._http.post("/v1/models/wine:logProb", content=body, headers=headers)
        return self._check_http(answer, wanted, rows, since)

    def http_stream(self) -> str:
        """A body longer than is read at once, answered while it comes."""
        kind, rows = self._chance.choice(STREAMED), self._rows(STREAM_ROWS)
        body = write_rows(kind, rows) if kind != ARROW else _arrow(rows)
        since = self._truth.mark()
        answer = self._http.post("/v1/models/wine:logProb", content=_pieces(body), headers={"Content-Type": kind})
        return self._check_http(answer, kind, rows, since)

    def http_sample(self) -> str:
        since, seed, wanted = self._truth.mark(), self._chance.getrandbits(53), self._chance.choice(TYPES)
        question = {"count": 100, "seed": seed, "with_log_prob": True}
        answer = self._http.post("/v1/models/wine:sample", json=question, headers={"Accept": wanted})
        assert answer.status_code == 200, answer.text
        version = answer.headers["Density-Version"]
        self._truth.check_version(version, since)
        drawn = read_samples(wanted, answer.content, 4).astype(np.float32)
        self._truth.check_samples(version, Draw(seed, 0, 100), drawn[:, :3], drawn[:, 3])
        return "OK"

    def open_inference(self) -> str:
        since, rows = self._truth.mark(), self._rows(20)
        given = inference.ModelInferRequest.InferInputTensor(name="rows", datatype="FP32", shape=rows.shape)
        request = inference.ModelInferRequest(model_name="wine", inputs=[given], raw_input_contents=[rows.tobytes()])
        answer = GRPCInferenceServiceStub(self._channel).ModelInfer(request, timeout=60)
        self._truth.check_version(answer.model_version, since)
        log_prob = np.frombuffer(answer.raw_output_contents[0], "<f4")
        self._truth.check_scores(answer.model_version, rows, log_prob)
        return "OK"

    def open_inference_over_http(self) -> str:
        since, rows = self._truth.mark(), self._rows(20)
        given = {"name": "rows", "datatype": "FP32", "shape": rows.shape, "data": rows.ravel().tolist()}
        answer = self._http.post("/v2/models/wine/infer", json={"inputs": [given]})
        assert answer.status_code == 200, answer.text
        values = answer.json()
        self._truth.check_version(values["model_version"], since)
        self._truth.check_scores(
            values["model_version"], rows, np.array(values["outputs"][0]["data"], np.float64).astype(np.float32)
        )
        return "OK"

    def refused_over_grpc(self) -> str:
        stub = DensityServiceStub(self._channel)
        request, code = self._chance.choice(
            (
                (pb.LogProbRequest(model="wine", rows=encode(np.zeros((2, 4), np.float32))), "INVALID_ARGUMENT"),
                (pb.LogProbRequest(model="wine", rows=pb.Tensor(data_type=1, shape=[1, 3])), "INVALID_ARGUMENT"),
                (pb.LogProbRequest(model="beer", rows=encode(self._rows(1))), "NOT_FOUND"),
                (pb.LogProbRequest(model="wine", version="999999", rows=encode(self._rows(1))), "NOT_FOUND"),
            )
        )
        try:
            answer = stub.LogProb(request, timeout=60)
        except grpc.RpcError as error:
            given = error.code().name
        else:
            given = f"{answer}"
        assert given == code, f"{given} to {request}, which is {code}"
        return code

    def refused_over_http(self) -> str:
        path, kind, body, status = self._chance.choice(
            (
                ("wine:logProb", JSON, b"{", 400),
                ("wine:logProb", CSV, b"alpha,beta\n1,2\n", 400),
                ("wine:logProb", NPY, self._chance.randbytes(300), 400),
                ("wine:logProb", ARROW, self._chance.randbytes(300), 400),
                ("wine:logProb", BINARY, b"12345", 400),
                ("wine:logProb", "image/png", b"1", 415),
                ("wine:sample", JSON, b'{"count": 0}', 400),
                ("beer:logProb", JSON, b'{"rows": [[1, 2, 3]]}', 404),
            )
        )
        answer = self._http.post(f"/v1/models/{path}", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, f"{path} {kind}: {answer.status_code} {answer.text}"
        return str(status)

    def too_late(self) -> str:
        """A deadline that the rows may just keep, or not."""
        since, rows = self._truth.mark(), self._rows(LARGE_ROWS)
        timeout = self._chance.choice((0.0005, 0.005, 0.02))
        request = pb.LogProbRequest(model="wine", rows=encode(rows))
        try:
            answer = DensityServiceStub(self._channel).LogProb(request, timeout=timeout)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return error.code().name
        self._truth.check_version(answer.version, since)
        self._truth.check_scores(answer.version, rows, decode(answer.log_prob, "log_prob"))
        return "OK"

    def too_late_over_http(self) -> str:
        since, rows = self._truth.mark(), self._rows(LARGE_ROWS)
        headers = {"Content-Type": BINARY, "Request-Timeout": self._chance.choice(("0.0005", "0.005", "0.02"))}
        answer = self._http.post("/v1/models/wine:logProb", content=rows.tobytes(), headers=headers)
        return "504" if answer.status_code == 504 else self._check_http(answer, BINARY, rows, since)

    def cancelled(self) -> str:
        request = pb.LogProbRequest(model="wine", rows=encode(self._rows(LARGE_ROWS)))
        call = DensityServiceStub(self._channel).LogProb.future(request, timeout=60)
        if self._chance.random() < 0.5:
            self._client.score("wine", self._rows(1))
        call.cancel()
        return call.code().name

    def stream_left(self) -> str:
        """A stream whose reader goes after the first chunk."""
        for stream in (
            self._client.stream_sample("wine", 10**8),
            self._client.stream_log_prob("wine", (self._rows(1000) for _ in range(1000))),
        ):
            next(stream)
            stream.close()
        return "left"

    def answer_left(self) -> str:
        """A streamed answer over HTTP whose reader goes after its beginning."""
        question = {"count": 10**8}
        with self._http.stream("POST", "/v1/models/wine:sample", json=question, headers={"Accept": BINARY}) as answer:
            assert answer.status_code == 200, answer.read()
            next(answer.iter_raw())
        return "left"

    def vanished(self) -> str:
        """Half a request of either transport, and a connection that is reset."""
        address = self._chance.choice((self._traffic.grpc, self._traffic.http.removeprefix("http://")))
        half = self._chance.choice((*HALVES, self._chance.randbytes(64)))
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(half)
        return "left"

    def new_connections(self) -> str:
        with DensityClient(self._traffic.grpc) as client:
            client.models()
        with httpx.Client(base_url=self._traffic.http, timeout=60, trust_env=False) as client:
            assert client.get("/v1/models/wine").status_code == 200
        return "OK"

    def looked_at(self) -> str:
        health = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service="density.v1.DensityService")
        assert health.Check(request, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
        for path in ("/metrics", "/readyz", "/v2/models/wine"):
            answer = self._http.get(path)
            assert answer.status_code == 200, answer.text
        return "OK"

    def _rows(self, most: int) -> np.ndarray:
        return self._numbers.standard_normal((int(self._numbers.integers(1, most + 1)), 3)).astype(np.float32)

    def _score(self, rows: np.ndarray) -> str:
        since = self._truth.mark()
        scores = self._client.score("wine", rows)
        self._truth.check_version(scores.version, since)
        self._truth.check_scores(scores.version, rows, scores.log_prob)
        return "OK"

    def _check_http(self, answer: httpx.Response, wanted: str, rows: np.ndarray, since: int) -> str:
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        version = answer.headers["Density-Version"]
        self._truth.check_version(version, since)
        self._truth.check_scores(version, rows, read_scores(wanted, answer.content).log_prob)
        return "OK"


KINDS: dict[Callable[[Caller], str], int] = {
    Caller.one_row: 40,
    Caller.many_rows: 4,
    Caller.named_version: 8,
    Caller.bad_row: 4,
    Caller.sample: 8,
    Caller.stream_of_rows: 2,
    Caller.stream_of_samples: 2,
    Caller.http_rows: 16,
    Caller.http_stream: 2,
    Caller.http_sample: 8,
    Caller.open_inference: 6,
    Caller.open_inference_over_http: 6,
    Caller.refused_over_grpc: 4,
    Caller.refused_over_http: 4,
    Caller.too_late: 3,
    Caller.too_late_over_http: 3,
    Caller.cancelled: 4,
    Caller.stream_left: 2,
    Caller.answer_left: 2,
    Caller.vanished: 4,
    Caller.new_connections: 2,
    Caller.looked_at: 2,
}
"""What is asked, and how often beside the rest."""


class AsyncCaller:
    """Streams of the asynchronous client, one of which always ends in a refusal.

    Args:
        traffic: the account.
    """

    KIND = "asyncio"

    def __init__(self, traffic: Traffic) -> None:
        self._traffic, self._truth = traffic, traffic.truth
        self._numbers = np.random.default_rng(0)

    def run(self, stopping: threading.Event) -> None:
        asyncio.run(self._run(stopping))

    async def _run(self, stopping: threading.Event) -> None:
        async with AsyncDensityClient(self._traffic.grpc) as client:
            while not stopping.is_set():
                try:
                    await asyncio.gather(self._scores(client), self._draws(client), self._refused(client))
                    self._traffic.count(self.KIND, "OK")
                except Exception as error:
                    self._traffic.fail(self.KIND, error)

    async def _scores(self, client: AsyncDensityClient) -> None:
        since, rows = self._truth.mark(), self._numbers.standard_normal((STREAM_ROWS, 3)).astype(np.float32)
        scores = [answer async for answer in client.stream_score("wine", iter(np.array_split(rows, 20)))]
        (version,) = {answer.version for answer in scores}
        self._truth.check_version(version, since)
        self._truth.check_scores(version, rows, np.concatenate([answer.log_prob for answer in scores]))

    async def _draws(self, client: AsyncDensityClient) -> None:
        since, seed = self._truth.mark(), int(self._numbers.integers(2**53))
        drawn = await client.draw("wine", 500, seed=seed)
        self._truth.check_version(drawn.version, since)
        self._truth.check_samples(drawn.version, Draw(seed, 0, 500), drawn.samples, drawn.log_prob)

    async def _refused(self, client: AsyncDensityClient) -> None:
        chunks: list[Any] = [np.zeros((500, 3), np.float32)] * 20
        chunks[10] = np.zeros((500, 2), np.float32)
        answered = 0
        try:
            async for _ in client.stream_log_prob("wine", chunks):
                answered += 1
        except InvalidRequestError:
            pass
        assert answered == 10, f"{answered} chunks answered before the wrong one; 10 expected"


def _pieces(body: bytes) -> Iterator[bytes]:
    stream = io.BytesIO(body)
    while piece := stream.read(65_536):
        yield piece


def _arrow(rows: np.ndarray) -> bytes:
    """Record batches of a thousand rows."""
    return arrow(dict(zip(FEATURES, rows.T, strict=True)), batch_rows=1000)
