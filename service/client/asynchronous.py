"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from numpy.typing import ArrayLike, NDArray

from service.client.answers import Answers
from service.client.channel import call_metadata, channel_options
from service.client.errors import from_rpc_error
from service.client.messages import (
    Calls,
    FloatArray,
    ModelInfo,
    Request,
    Response,
    Result,
    Samples,
    Scores,
    draw_calls,
    list_calls,
    model_info,
    score_calls,
)
from service.client.patience import Patience
from service.client.streams import Chunk, DrawStream, ScoreStream, async_row_chunks, deadline_after, seconds_until
from service.client.tls import TLS, channel_security
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub


class AsyncDensityClient:
    """Scores rows and draws samples over gRPC in asyncio; every method as in :class:`~service.client.DensityClient`.

    Args:
        target: ``host:port``, or any gRPC target.
        timeout: seconds allowed for each call, retries included; ``None`` for no limit of the client's own.
        token: what ``flowmodel token new`` printed, where the service asks for one.
        tls: ``True`` for TLS with the usual authorities, or a :class:`~service.client.TLS`; plain text without.
        credentials: channel credentials of another kind, instead of ``tls``.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float | None = 60.0,
        token: str | None = None,
        tls: TLS | bool = False,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.timeout = timeout
        self._metadata = call_metadata(token)
        chosen, options = channel_security(tls, credentials)
        options += channel_options()
        if chosen is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, chosen, options)
        self._stub: Any = DensityServiceStub(self._channel)

    async def log_prob(
        self,
        model: str,
        rows: ArrayLike,
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> FloatArray:
        """Log-densities ``[N]`` of rows ``[N, D]``."""
        return (await self.score(model, rows, context, version=version, timeout=timeout)).log_prob

    async def score(
        self,
        model: str,
        rows: ArrayLike,
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Scores:
        """As :meth:`log_prob`, with the errors of single rows and the version that answered."""
        return await self._drive(score_calls(model, rows, context, version), self._stub.LogProb, timeout)

    async def sample(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        with_log_prob: bool = False,
        timeout: float | None = None,
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Samples ``[count, *event_shape]``, with ``with_log_prob`` also their log-densities ``[count]``."""
        drawn = await self.draw(model, count, seed=seed, context=context, version=version, timeout=timeout)
        return (drawn.samples, drawn.log_prob) if with_log_prob else drawn.samples

    async def draw(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Samples:
        """As :meth:`sample`, with the log-densities, the seed that repeats the draw, and the version that answered."""
        return await self._drive(draw_calls(model, count, seed, context, version), self._stub.Sample, timeout)

    async def stream_log_prob(
        self,
        model: str,
        rows: NDArray[Any] | Iterable[Chunk] | AsyncIterable[Chunk],
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[FloatArray]:
        """As :meth:`DensityClient.stream_log_prob`; the chunks may come from an asynchronous iterable too."""
        async for scores in self.stream_score(model, rows, context, version=version, timeout=timeout):
            yield scores.log_prob

    async def stream_sample(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        start: int = 0,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        chunk_rows: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[FloatArray]:
        """As :meth:`DensityClient.stream_sample`."""
        draws = self.stream_draw(
            model,
            count,
            seed=seed,
            start=start,
            context=context,
            version=version,
            chunk_rows=chunk_rows,
            timeout=timeout,
        )
        async for drawn in draws:
            yield drawn.samples

    async def stream_score(
        self,
        model: str,
        rows: NDArray[Any] | Iterable[Chunk] | AsyncIterable[Chunk],
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Scores]:
        """As :meth:`stream_log_prob`, with the errors of single rows, counted within each chunk."""
        stream, chunks, deadline = ScoreStream(model, version), async_row_chunks(rows, context), deadline_after(timeout)
        more = True
        while more or stream.unanswered:
            # gRPC takes the requests from this queue in a task of its own, so that answers are read meanwhile.
            sending: asyncio.Queue[Any] = asyncio.Queue()
            for request in stream.again() if more else [*stream.again(), None]:
                sending.put_nowait(request)
            call = self._stub.StreamLogProb(_sent(sending), timeout=seconds_until(deadline), metadata=self._metadata)
            answers = Answers(call)
            try:
                while more or stream.unanswered:
                    while more and not stream.full:
                        chunk = await anext(chunks, None)
                        more = chunk is not None
                        sending.put_nowait(None if chunk is None else stream.request(*chunk))
                    if not stream.unanswered:
                        break
                    yield stream.receive(await answers.next())
            except (grpc.RpcError, EOFError) as error:
                await asyncio.sleep(stream.pause(error))
            finally:
                sending.put_nowait(None)
                await answers.close()

    async def stream_draw(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        start: int = 0,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        chunk_rows: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Samples]:
        """As :meth:`stream_sample`, with the log-densities, the seed that repeats the draw, and the version."""
        stream = DrawStream(model, count, seed, start, context, version, chunk_rows)
        deadline = deadline_after(timeout)
        while not stream.done:
            call = self._stub.StreamSample(stream.request(), timeout=seconds_until(deadline), metadata=self._metadata)
            answers = Answers(call)
            try:
                while not stream.done:
                    yield stream.receive(await answers.next())
            except (grpc.RpcError, EOFError) as error:
                await asyncio.sleep(stream.pause(error))
            finally:
                await answers.close()

    async def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """One model: its loaded versions, its features, its default version."""
        return model_info((await self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout)).model)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every loaded model."""
        return await self._drive(list_calls(), self._stub.ListModels, timeout)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _drive(self, calls: Calls[Request, Response, Result], method: Any, timeout: float | None) -> Result:
        try:
            request = next(calls)
            while True:
                request = calls.send(await self._call(method, request, timeout))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        patience = Patience(self.timeout if timeout is None else timeout)
        while True:
            try:
                return await method(request, timeout=patience.left(), metadata=self._metadata)
            except grpc.RpcError as raised:
                error = from_rpc_error(raised)
            await asyncio.sleep(patience.pause(error))


async def _sent(queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while (message := await queue.get()) is not None:
        yield message
