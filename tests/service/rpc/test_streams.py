"""StreamLogProb and StreamSample from outside: order, errors, flow control, cancellation, draining, taking up again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from conftest import Running, Start
from gates import engine_held, in_background, wait_for_call, wait_for_queue, wait_until
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.client import (
    AsyncDensityClient,
    DensityClient,
    DensityError,
    InternalServiceError,
    InvalidRequestError,
    ModelNotFoundError,
    UnauthenticatedError,
)
from service.client.streams import UNANSWERED
from service.engines.engine import EngineError
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.ordered import AHEAD
from service.rpc.servicer import DensityServicer
from service.security.tokens import add_token
from service.tensors import decode, encode


@pytest.fixture(scope="module")
def client(wine: Running) -> Iterator[DensityClient]:
    with DensityClient(wine.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def stub(wine: Running) -> Iterator[Any]:
    with grpc.insecure_channel(wine.grpc) as channel:
        yield DensityServiceStub(channel)


@pytest.fixture
def many() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((20_000, 3)).astype(np.float32)


def chunk(number: int, rows: np.ndarray, **fields: Any) -> pb.StreamLogProbRequest:
    return pb.StreamLogProbRequest(**{"model": "wine", "chunk": number, "rows": encode(rows)} | fields)


def reason(error: grpc.RpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    return info.reason


def active(service: Running) -> int:
    return service.service.gateway._active


@pytest.mark.parametrize("sizes", [[20_000], [1] * 30, [4096, 1, 9000, 3]])
def test_streamed_scores_are_those_of_log_prob(client: DensityClient, many: np.ndarray, sizes: list[int]) -> None:
    ends = np.cumsum(sizes)
    chunks = [many[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    answers = list(client.stream_log_prob("wine", iter(chunks)))
    assert [len(answer) for answer in answers] == sizes
    np.testing.assert_array_equal(np.concatenate(answers), client.log_prob("wine", many[: ends[-1]]))


def test_one_array_is_cut_into_chunks_and_may_lie_on_disk(client: DensityClient, tmp_path: Path) -> None:
    rows = np.random.default_rng(2).standard_normal((200_000, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    answers = list(client.stream_log_prob("wine", np.load(tmp_path / "rows.npy", mmap_mode="r"), version=1))
    assert len(answers) > 2
    # What one message holds is less than these rows, so that the client itself sends them in parts.
    np.testing.assert_array_equal(np.concatenate(answers)[:80_000], client.log_prob("wine", rows[:80_000], version=1))


def test_contexts_come_with_their_chunks_or_one_for_all(client: DensityClient, many: np.ndarray) -> None:
    context = many[:100, :2]
    expected = client.log_prob("pair", many[:100], context)
    pairs = ((many[:100][start : start + 30], context[start : start + 30]) for start in range(0, 100, 30))
    np.testing.assert_array_equal(np.concatenate(list(client.stream_log_prob("pair", pairs))), expected)
    whole = np.concatenate(list(client.stream_log_prob("pair", many[:100], context)))
    np.testing.assert_array_equal(whole, expected)
    shared = np.concatenate(list(client.stream_log_prob("pair", many[:100], context[:1])))
    np.testing.assert_array_equal(shared, client.log_prob("pair", many[:100], context[:1]))


def test_a_bad_row_is_counted_within_its_chunk(client: DensityClient, many: np.ndarray) -> None:
    bad = many[:20].copy()
    bad[13, 1] = np.nan
    first, second = client.stream_score("wine", [bad[:10], bad[10:]])
    assert first.row_errors == []
    assert [error.row for error in second.row_errors] == [3]
    assert np.isnan(second.log_prob).sum() == 1
    assert second.version == "2"


def test_no_chunks_are_no_answers(client: DensityClient, stub: Any) -> None:
    assert list(client.stream_log_prob("wine", [])) == []
    assert list(stub.StreamLogProb(iter(()), timeout=10)) == []


@pytest.mark.parametrize(
    ("third", "text"),
    [
        (chunk(7, np.ones((4, 2))), "in chunk 7: shape [4, 2] given, [N, 3] expected"),
        (
            chunk(7, np.ones((4, 3)), model="pair"),
            "in chunk 7: 'pair' given; one version of one model answers a stream, here wine/2",
        ),
        (chunk(7, np.ones((4, 3)), version="1"), "in chunk 7: '1' given"),
        (
            pb.StreamLogProbRequest(chunk=7, rows=pb.Tensor(shape=[1, 3], data_type=1, data=b"123")),
            "has 3 bytes; 12 exp",
        ),
        (chunk(7, np.ones((40_000, 3))), "in chunk 7: 960000 bytes given; at most 524288 in one chunk"),
    ],
    ids=["width", "model", "version", "tensor", "bytes"],
)
def test_a_wrong_chunk_ends_the_stream_after_the_answers_before_it(
    start: Start, published: Path, third: pb.StreamLogProbRequest, text: str
) -> None:
    service = start(published, max_chunk_bytes=512 * 1024)
    with grpc.insecure_channel(service.grpc) as channel:
        good = [chunk(5, np.ones((2, 3))), chunk(6, np.ones((3, 3)), model="")]
        call = DensityServiceStub(channel).StreamLogProb(iter([*good, third]), timeout=20)
        answered = []
        with pytest.raises(grpc.RpcError) as raised:
            answered.extend(answer.chunk for answer in call)
    assert answered == [5, 6]
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in raised.value.details()


def test_streams_of_unknown_models_and_bad_counts_are_refused(client: DensityClient, stub: Any) -> None:
    with pytest.raises(ModelNotFoundError):
        list(client.stream_log_prob("beer", [[[1.0, 2, 3]]]))
    with pytest.raises(InvalidRequestError, match="0 given; 1 to 1000000000 expected"):
        list(client.stream_sample("wine", 0))
    with pytest.raises(InvalidRequestError, match="chunk_rows: -1 given"):
        list(client.stream_sample("wine", 5, chunk_rows=-1))
    with pytest.raises(InvalidRequestError, match="context: has 2 rows; 5 expected, or 1"):
        list(client.stream_sample("pair", 5, context=np.ones((2, 2))))
    with pytest.raises(InvalidRequestError, match="missing; pair takes one"):
        list(client.stream_sample("pair", 5))


def test_streamed_samples_are_those_of_sample(client: DensityClient) -> None:
    whole = client.draw("wine", 5000, seed=9)
    chunks = list(client.stream_draw("wine", 5000, seed=9, chunk_rows=700))
    assert [len(drawn.samples) for drawn in chunks] == [700] * 7 + [100]
    np.testing.assert_array_equal(np.concatenate([drawn.samples for drawn in chunks]), whole.samples)
    np.testing.assert_array_equal(np.concatenate([drawn.log_prob for drawn in chunks]), whole.log_prob)
    assert {(drawn.seed, drawn.version) for drawn in chunks} == {(9, "2")}
    rest = np.concatenate(list(client.stream_sample("wine", 1000, seed=9, start=4000, chunk_rows=300)))
    np.testing.assert_array_equal(rest, whole.samples[4000:])


def test_contexts_of_samples(client: DensityClient, many: np.ndarray) -> None:
    context = many[:10, :2]
    each = np.concatenate(list(client.stream_sample("pair", 10, seed=1, context=context, chunk_rows=3)))
    np.testing.assert_array_equal(each, client.sample("pair", 10, seed=1, context=context))
    shared = np.concatenate(list(client.stream_sample("pair", 10, seed=1, context=context[:1], chunk_rows=3)))
    np.testing.assert_array_equal(shared, client.sample("pair", 10, seed=1, context=context[:1]))


def test_a_seed_that_is_not_given_is_told(stub: Any) -> None:
    answers = list(stub.StreamSample(pb.StreamSampleRequest(model="wine", count=10, chunk_rows=4), timeout=10))
    assert len({answer.seed for answer in answers}) == 1
    assert [answer.start for answer in answers] == [0, 4, 8]
    assert not answers[0].HasField("log_prob")
    again = stub.Sample(pb.SampleRequest(model="wine", count=10, seed=answers[0].seed), timeout=10)
    np.testing.assert_array_equal(
        np.concatenate([decode(answer.samples, "") for answer in answers]), decode(again.samples, "")
    )


async def test_the_asyncio_client_streams_alike(wine: Running, client: DensityClient, many: np.ndarray) -> None:
    async def chunks() -> Any:
        for start in range(0, 9000, 1000):
            yield many[start : start + 1000]

    async with AsyncDensityClient(wine.grpc) as streaming:
        answers = [answer async for answer in streaming.stream_log_prob("wine", chunks())]
        drawn = [samples async for samples in streaming.stream_sample("wine", 3000, seed=4, chunk_rows=1000)]
        with pytest.raises(InvalidRequestError):
            async for _ in streaming.stream_log_prob("wine", np.ones((3, 2))):
                pass
    np.testing.assert_array_equal(np.concatenate(answers), client.log_prob("wine", many[:9000]))
    np.testing.assert_array_equal(np.concatenate(drawn), client.sample("wine", 3000, seed=4))


def test_a_client_that_reads_slowly_is_drawn_for_slowly(start: Start, published: Path) -> None:
    service = start(published, faults=True)
    with DensityClient(service.grpc) as client:
        with client_stream(client.stream_sample("wine", 10**8, seed=1, chunk_rows=20_000)) as samples:
            next(samples)
            # Other callers are served all the time; while they are, the stream could draw on, if nothing held it back.
            for _ in range(100):
                client.sample("wine", 1)
            drawn_once = sum(service.service.engine.calls)
            for _ in range(100):
                client.sample("wine", 1)
            assert sum(service.service.engine.calls) - drawn_once < 20_000 + 200
            # What was drawn and not read: the few chunks ahead, and what fits into the buffers of the connection.
            assert drawn_once < 100 * 20_000
            next(samples)
        wait_until(service, lambda: active(service) == 0)


def client_stream(samples: Iterator[Any]) -> Any:
    class Closing:
        def __enter__(self) -> Iterator[Any]:
            return samples

        def __exit__(self, *error: object) -> None:
            samples.close()

    return Closing()


def test_chunks_are_read_no_further_than_answered(start: Start, published: Path) -> None:
    service = start(published, faults=True, max_engine_calls=1)
    rows, taken = np.ones((80_000, 3), np.float32), []

    def chunks() -> Iterator[pb.StreamLogProbRequest]:
        for number in range(1000):
            taken.append(number)
            yield chunk(number, rows)

    with grpc.insecure_channel(service.grpc) as channel, engine_held(service):
        stub = DensityServiceStub(channel)
        call = stub.StreamLogProb(chunks())
        wait_for_call(service)
        for _ in range(200):
            stub.GetModel(pb.GetModelRequest(model="wine"), timeout=10)
        # A chunk is near a mebibyte: a few are read ahead, and the connection's own buffers hold some more.
        assert AHEAD <= len(taken) < 4 * AHEAD
        call.cancel()
        wait_until(service, lambda: active(service) == 0)


def test_the_client_takes_chunks_no_further_than_it_has_answers(start: Start, published: Path) -> None:
    service = start(published, faults=True, max_engine_calls=1)
    taken: list[int] = []

    def chunks() -> Iterator[np.ndarray]:
        for number in range(100):
            taken.append(number)
            yield np.ones((2, 3))

    with DensityClient(service.grpc) as client:
        answers = client.stream_log_prob("wine", chunks())
        with engine_held(service):
            first = in_background(lambda: next(answers))
            wait_for_call(service)
            wait_until(service, lambda: len(taken) == UNANSWERED)
        first.result(10)
        assert len(taken) == UNANSWERED
        next(answers)
        assert len(taken) == UNANSWERED + 1
        answers.close()


def test_cancelling_ends_the_work(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True, max_engine_calls=1)
    service.service.engine.calls.clear()
    open_end = threading.Event()

    def chunks() -> Iterator[pb.StreamLogProbRequest]:
        for number in range(AHEAD):
            yield chunk(number, rows)
        open_end.wait(20)

    with grpc.insecure_channel(service.grpc) as channel:
        stub = DensityServiceStub(channel)
        with engine_held(service):
            computing = stub.LogProb.future(pb.LogProbRequest(model="wine", rows=encode(rows[:1])), timeout=20)
            wait_for_call(service)
            call = stub.StreamLogProb(chunks())
            queue = service.service.registry.resolve("wine").log_prob
            wait_until(service, lambda: queue.queue_rows == AHEAD * len(rows))
            call.cancel()
            wait_until(service, lambda: queue.queue_rows == 0)
        computing.result()
        open_end.set()
        wait_until(service, lambda: active(service) == 0)
    assert service.service.engine.calls == [1]
    assert service.metric("density_requests_total", method="StreamLogProb", code="CANCELLED", model="wine", version="2")


def test_only_the_first_chunk_is_refused_by_a_full_queue(start: Start, published: Path, many: np.ndarray) -> None:
    service = start(published, faults=True, max_engine_calls=1, max_queue_rows=1000)
    with DensityClient(service.grpc, timeout=30) as client:
        # One chunk fills the queue; those after it wait for room.
        answers = np.concatenate(list(client.stream_log_prob("wine", iter(np.split(many, 10)))))
        np.testing.assert_array_equal(answers[:900], client.log_prob("wine", many[:900]))
        with grpc.insecure_channel(service.grpc) as channel:
            stub = DensityServiceStub(channel)
            requests = [pb.LogProbRequest(model="wine", rows=encode(many[:count])) for count in (1, 1000)]
            with engine_held(service):
                waiting = [stub.LogProb.future(requests[0], timeout=20)]
                wait_for_call(service)
                waiting.append(stub.LogProb.future(requests[1], timeout=20))
                wait_for_queue(service, 1000)
                with pytest.raises(grpc.RpcError) as raised:
                    next(stub.StreamLogProb(iter([chunk(0, many[:10])]), timeout=20))
                assert reason(raised.value) == "QUEUE_FULL"
            for call in waiting:
                call.result()


def test_a_stream_that_stands_still_is_ended(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, stream_idle_seconds=0.2)
    ended = threading.Event()

    def chunks() -> Iterator[pb.StreamLogProbRequest]:
        yield chunk(0, rows)
        ended.wait(20)

    with grpc.insecure_channel(service.grpc) as channel:
        call = DensityServiceStub(channel).StreamLogProb(chunks())
        assert next(call).chunk == 0
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        ended.set()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(raised.value) == "STREAM_IDLE"


def test_a_model_that_fails_ends_the_stream_with_its_error(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published, faults=True)

    def poisoned(given: np.ndarray) -> None:
        if (given == 666).any():
            raise EngineError("poisoned")

    service.service.engine.check = poisoned
    with DensityClient(service.grpc) as client:
        answers = client.stream_log_prob("wine", [rows, rows, np.full_like(rows, 666), rows])
        assert len([next(answers), next(answers)]) == 2
        with pytest.raises(InternalServiceError, match="poisoned"):
            next(answers)


def test_a_stream_outlives_its_server(start: Start, published: Path, many: np.ndarray) -> None:
    """The client takes both kinds of stream up again on the next server, and nobody sees that there were two."""
    first = start(published)
    port = first.service.ports.grpc
    with DensityClient(first.grpc) as client:
        expected = client.log_prob("wine", many, version=1)
        samples = client.sample("wine", 20_000, seed=3, version=1)
        scoring = client.stream_log_prob("wine", iter(np.split(many, 100)), version=1)
        drawing = client.stream_sample("wine", 20_000, seed=3, version=1, chunk_rows=100)
        scored, drawn = [next(scoring)], [next(drawing)]
        first.run(first.service.stop())
        start(published, grpc_port=port)
        scored.extend(scoring)
        drawn.extend(drawing)
    np.testing.assert_array_equal(np.concatenate(scored), expected)
    np.testing.assert_array_equal(np.concatenate(drawn), samples)


def test_a_service_that_stops_ends_its_streams_between_chunks(start: Start, published: Path, rows: np.ndarray) -> None:
    service = start(published)
    ended = threading.Event()

    def chunks() -> Iterator[pb.StreamLogProbRequest]:
        yield chunk(0, rows)
        ended.wait(20)

    with grpc.insecure_channel(service.grpc) as channel:
        call = DensityServiceStub(channel).StreamLogProb(chunks())
        assert next(call).chunk == 0
        stopping = in_background(lambda: service.run(service.service.stop()))
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        ended.set()
        stopping.result(20)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(raised.value) == "DRAINING"


class Gone:
    """The context of a call whose client left while an answer was being written, before its task was cancelled."""

    written = 0

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def write(self, message: Any) -> None:
        self.written += 1
        if self.written == 2:
            raise grpc.aio.InternalError("send_message failed")


def test_a_client_that_leaves_during_a_write_is_no_failure(wine: Running, caplog: pytest.LogCaptureFixture) -> None:
    context = Gone()
    stream = DensityServicer(wine.service.gateway).StreamSample
    with pytest.raises(CancelledError):
        wine.run(stream(pb.StreamSampleRequest(model="wine", count=100, chunk_rows=10), context))
    assert context.written == 2
    assert not caplog.records
    assert wine.metric("density_requests_total", method="StreamSample", code="CANCELLED", model="wine", version="2")


def test_a_failing_source_of_chunks_fails_as_itself(client: DensityClient, wine: Running, rows: np.ndarray) -> None:
    def chunks() -> Iterator[np.ndarray]:
        yield rows
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(client.stream_log_prob("wine", chunks()))
    wait_until(wine, lambda: active(wine) == 0)


async def test_streams_ask_for_a_token_and_its_scope(
    start: Start, published: Path, rows: np.ndarray, tmp_path: Path
) -> None:
    tokens = {scope: add_token(tmp_path / "tokens", scope, [scope]) for scope in ("score", "sample")}
    service = start(published, token_file=tmp_path / "tokens")
    with DensityClient(service.grpc, token=tokens["score"]) as client:
        assert len(next(client.stream_log_prob("wine", rows))) == len(rows)
        with pytest.raises(DensityError) as refused:
            next(client.stream_sample("wine", 10))
    assert refused.value.code == "PERMISSION_DENIED"
    async with AsyncDensityClient(service.grpc, token=tokens["sample"]) as streaming:
        assert [len(part) async for part in streaming.stream_sample("wine", 10)] == [10]
        with pytest.raises(DensityError) as refused:
            await anext(streaming.stream_log_prob("wine", rows))
    assert refused.value.code == "PERMISSION_DENIED"
    with DensityClient(service.grpc) as client, pytest.raises(UnauthenticatedError):
        next(client.stream_sample("wine", 10))
