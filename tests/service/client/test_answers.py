"""A stream that ends while the client is sending: asyncio's client tells the status that the service gave."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from service.client import AsyncDensityClient, DensityClient, InvalidRequestError
from service.client.answers import Answers
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import (
    DensityServiceServicer,
    add_DensityServiceServicer_to_server,
)
from service.tensors import encode

ANSWERED = 3
STREAMS = 100
"""Without ``Answers``, nearly every stream of asyncio ends wrongly here."""


class Breaks(DensityServiceServicer):
    """Answers a few chunks, whether they have come or not, and ends the stream while others are on their way."""

    def StreamLogProb(self, requests, context):
        next(requests)
        for number in range(ANSWERED):
            yield pb.StreamLogProbResponse(model="wine", version="1", chunk=number, log_prob=encode(np.zeros(1)))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "what the service said")


@pytest.fixture
def target():
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_DensityServiceServicer_to_server(Breaks(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


CHUNKS = [np.ones((2000, 3), np.float32)] * 20


async def test_the_status_is_the_one_that_the_service_gave(target):
    async with AsyncDensityClient(target) as client:
        for _ in range(STREAMS):
            stream = client.stream_log_prob("wine", CHUNKS)
            for _ in range(ANSWERED):
                await anext(stream)
            with pytest.raises(InvalidRequestError, match="what the service said"):
                await anext(stream)


def test_and_so_it_is_without_asyncio(target):
    with DensityClient(target) as client:
        for _ in range(STREAMS):
            stream = client.stream_log_prob("wine", CHUNKS)
            for _ in range(ANSWERED):
                next(stream)
            with pytest.raises(InvalidRequestError, match="what the service said"):
                next(stream)


class Broken:
    """A call that gRPC ends with its own status, which the service's own follows late or never."""

    def __init__(self, later: grpc.StatusCode | None) -> None:
        self.later, self.looks = later, 0

    def __aiter__(self) -> Any:
        return self._unread()

    async def _unread(self) -> Any:
        yield "an answer"
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
        )

    def add_done_callback(self, callback: Any) -> None:
        callback(self)

    def cancel(self) -> bool:
        return False

    async def code(self) -> grpc.StatusCode:
        self.looks += 1
        return grpc.StatusCode.INTERNAL if self.later is None or self.looks < 3 else self.later

    async def details(self) -> str:
        return "Internal error from Core" if self.later is None or self.looks < 3 else "the service's"

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    trailing_metadata = initial_metadata

    async def debug_error_string(self) -> str:
        return ""


async def read_all(answers: Answers) -> list[Any]:
    read = []
    try:
        while True:
            read.append(await answers.next())
    except EOFError:
        return read
    finally:
        await answers.close()


@pytest.mark.parametrize(
    ("later", "shown"),
    [
        (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        # Which our client repeats.
        (None, grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_a_status_that_comes_late_is_waited_for_and_one_that_never_comes_is_worth_repeating(later, shown):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await read_all(Answers(Broken(later), status_seconds=0.1 if later is None else 60))
    assert raised.value.code() is shown
    assert "Core" not in raised.value.details()


async def test_a_stream_that_ended_well_is_no_error():
    assert await read_all(Answers(Broken(grpc.StatusCode.OK))) == ["an answer"]
