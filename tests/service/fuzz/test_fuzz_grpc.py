"""Random and mutated bytes at every method of the gRPC port, known from the server's own reflection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from conftest import Running
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from leaks import Watch
from mutation import case_random, mutated, random_message

from service.client.answers import Answers
from service.generated.density.v1 import density_service_pb2 as pb
from service.tensors import encode

AT_ONCE = 16
ANSWERS_READ = 3
"""Of a stream; then the caller goes away, which is one more thing to bear."""

FORESEEN = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    # grpc.health.v1.Health/List, which the library declares and does not have.
    grpc.StatusCode.UNIMPLEMENTED,
}

ROWS = encode(np.zeros((3, 3), np.float32))
CONTEXT = encode(np.zeros((3, 2), np.float32))
GOOD = [
    pb.LogProbRequest(model="wine", rows=ROWS),
    pb.LogProbRequest(model="pair", version="1", rows=ROWS, context=CONTEXT),
    pb.SampleRequest(model="wine", count=3, seed=1, with_log_prob=True),
    pb.StreamLogProbRequest(model="wine", rows=ROWS, chunk=1),
    pb.StreamSampleRequest(model="wine", count=3, seed=1),
    pb.GetModelRequest(model="wine"),
    pb.ListModelsRequest(page_size=1),
    reflection_pb2.ServerReflectionRequest(list_services="", host="x"),
    reflection_pb2.ServerReflectionRequest(file_by_filename="density/v1/density_service.proto"),
]


def methods(target: str) -> list[MethodDescriptor]:
    """Every method that the server says it has."""
    with grpc.insecure_channel(target) as channel:
        question = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(question, timeout=10)
    names = [service.name for service in answer.list_services_response.service]
    return [method for name in names for method in descriptor_pool.Default().FindServiceByName(name).methods]


def messages(chance: random.Random, method: MethodDescriptor) -> list[bytes]:
    """What one call sends: good messages, any messages of the type, either of them changed, or noise."""

    def one() -> bytes:
        if chance.random() < 0.05:
            return chance.randbytes(chance.choice((0, 1, 8, 200, 70_000)))
        good = [message for message in GOOD if message.DESCRIPTOR is method.input_type]
        message = chance.choice(good) if good and chance.random() < 0.5 else random_message(chance, method.input_type)
        data = message.SerializeToString()
        return mutated(chance, data) if chance.random() < 0.6 else data

    return [one() for _ in range(chance.choice((1, 1, 2, 4)) if method.client_streaming else 1)]


async def answer(channel: grpc.aio.Channel, method: MethodDescriptor, sent: list[bytes]) -> grpc.StatusCode:
    """The code a call ends with; OK too when its caller has read enough and leaves."""
    call: Any = channel.stream_stream(f"/{method.containing_service.full_name}/{method.name}")(iter(sent), timeout=60)
    answers = Answers(call)
    try:
        for _ in range(ANSWERS_READ):
            await answers.next()
            if method.full_name == "grpc.health.v1.Health.Watch":
                break
        return grpc.StatusCode.OK
    except EOFError:
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await answers.close()


async def attack(target: str, cases: int) -> list[str]:
    """What went wrong, by the number of the case."""
    found, numbers, every, watch = [], iter(range(cases)), methods(target), Watch(cases)

    async def work(channel: grpc.aio.Channel) -> None:
        for number in numbers:
            chance = case_random("grpc", number)
            method = chance.choice(every)
            sent = messages(chance, method)
            code = await answer(channel, method, sent)
            if code not in FORESEEN:
                found.append(f"case {number}: {method.full_name} answered {code} to {[part.hex() for part in sent]}")
            watch.tick()

    async with grpc.aio.insecure_channel(target) as channel:
        await asyncio.gather(*(work(channel) for _ in range(AT_ONCE)))
    watch.check()
    return found


def test_every_method_bears_any_bytes(target: Running, share: Callable[[float], int]) -> None:
    found = asyncio.run(attack(target.grpc, share(0.4)))
    assert not found, "\n".join(found[:10])
    with grpc.insecure_channel(target.grpc) as channel:
        log_prob = channel.unary_unary("/density.v1.DensityService/LogProb", None, pb.LogProbResponse.FromString)
        assert log_prob(GOOD[0].SerializeToString(), timeout=20).version == "2"
    for gauge in ("LogProb", "Sample", "StreamLogProb", "StreamSample"):
        assert target.metric("density_inflight_requests", method=gauge) == 0
