"""The methods of ``density.v1.DensityService``."""
# ruff: noqa: N802 - methods are named as the protocol names them

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import grpc.aio
from google.protobuf.message import Message

from service.description import describe_model, list_models, model_message
from service.errors import DeadlinePassed, InvalidRequest
from service.gateway import Gateway
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1 import density_service_pb2_grpc as pb_grpc
from service.registry import ServedModel
from service.rpc.call import CallAccount, Context, deadline_of, to_its_end
from service.rpc.status import row_error_message
from service.streams import DrawOrder, RowChunk, Streams
from service.tensors import decode, encode


class DensityServicer(pb_grpc.DensityServiceServicer):
    """Converts messages, delegates to the gateway, converts back.

    Args:
        gateway: answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def LogProb(self, request: pb.LogProbRequest, context: Context) -> pb.LogProbResponse:
        """Natural log-density of each row."""
        async with CallAccount(self._gateway, "LogProb", context) as account:
            with self._gateway.open(account, request.model, request.version) as served:
                rows = decode(request.rows, "rows")
                given = decode(request.context, "context") if request.HasField("context") else None
                scores = await self._gateway.log_prob(served, rows, given, deadline_of(self._gateway, context))
                return pb.LogProbResponse(
                    model=served.key.name,
                    version=str(served.key.version),
                    log_prob=encode(scores.log_prob),
                    row_errors=map(row_error_message, scores.row_errors),
                )

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:
        """Samples of a model."""
        async with CallAccount(self._gateway, "Sample", context) as account:
            if request.HasField("seed"):
                account.affinity = f"seed {request.seed}"
            with self._gateway.open(account, request.model, request.version) as served:
                drawn = await self._gateway.sample(
                    served,
                    count=request.count,
                    seed=request.seed if request.HasField("seed") else None,
                    context=decode(request.context, "context") if request.HasField("context") else None,
                    deadline=deadline_of(self._gateway, context),
                    start=request.start,
                )
                return pb.SampleResponse(
                    model=served.key.name,
                    version=str(served.key.version),
                    seed=drawn.seed,
                    samples=encode(drawn.samples),
                    log_prob=encode(drawn.log_prob) if request.with_log_prob else None,
                )

    # The streams write their answers themselves, instead of yielding them, to see when a client reads no more.
    async def StreamLogProb(  # type: ignore[override]
        self, requests: AsyncIterator[pb.StreamLogProbRequest], context: Context
    ) -> None:
        """Natural log-densities of chunks of rows, in their order."""
        async with CallAccount(self._gateway, "StreamLogProb", context) as account:
            streams = self._streams(context)
            first = await streams.attend(to_its_end(anext(requests, None)))
            if first is None:
                return
            with self._gateway.open(account, first.model, first.version) as served:
                chunks = self._chunks(streams, served, first, requests)
                async with contextlib.aclosing(streams.scores(served, chunks)) as answers:
                    async for chunk, scores in answers:
                        message = pb.StreamLogProbResponse(
                            model=served.key.name,
                            version=str(served.key.version),
                            chunk=chunk.number,
                            log_prob=encode(scores.log_prob),
                            row_errors=map(row_error_message, scores.row_errors),
                        )
                        await self._write(context, message)

    async def StreamSample(  # type: ignore[override]
        self, request: pb.StreamSampleRequest, context: Context
    ) -> None:
        """Samples of a model, chunk by chunk."""
        async with CallAccount(self._gateway, "StreamSample", context) as account:
            if request.HasField("seed"):
                account.affinity = f"seed {request.seed}"
            with self._gateway.open(account, request.model, request.version) as served:
                order = DrawOrder(
                    count=request.count,
                    seed=request.seed if request.HasField("seed") else None,
                    start=request.start,
                    context=decode(request.context, "context") if request.HasField("context") else None,
                    chunk_rows=request.chunk_rows,
                )
                async with contextlib.aclosing(self._streams(context).samples(served, order)) as answers:
                    async for start, drawn in answers:
                        message = pb.StreamSampleResponse(
                            model=served.key.name,
                            version=str(served.key.version),
                            seed=drawn.seed,
                            start=start,
                            samples=encode(drawn.samples),
                            log_prob=encode(drawn.log_prob) if request.with_log_prob else None,
                        )
                        await self._write(context, message)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """What one model takes."""
        async with CallAccount(self._gateway, "GetModel", context) as account:
            with self._gateway.open(account, request.model, request.version):
                described = describe_model(self._gateway.registry, request.model, request.version)
            return pb.GetModelResponse(model=model_message(described))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Every model that answers now."""
        async with CallAccount(self._gateway, "ListModels", context):
            if request.page_size < 0:
                raise InvalidRequest.of(
                    "INVALID_PAGE_SIZE", "page_size", f"{request.page_size} given; 0 or more expected"
                )
            models, token = list_models(self._gateway.registry, request.page_size, request.page_token)
            return pb.ListModelsResponse(models=map(model_message, models), next_page_token=token)

    async def _chunks(
        self,
        streams: Streams,
        served: ServedModel,
        first: pb.StreamLogProbRequest,
        requests: AsyncIterator[pb.StreamLogProbRequest],
    ) -> AsyncGenerator[RowChunk, None]:
        """The chunks of rows that a client sends."""
        most = self._gateway.settings.max_chunk_bytes
        message: pb.StreamLogProbRequest | None = first
        while message is not None:
            where = f"in chunk {message.chunk}"
            for name, expected in (("model", served.key.name), ("version", str(served.key.version))):
                given = getattr(message, name)
                if given not in ("", expected):
                    text = f"{where}: {given!r} given; one version of one model answers a stream, here {served.key}"
                    raise InvalidRequest.of("MODEL_CHANGED", name, text)
            size = len(message.rows.data) + len(message.context.data)
            if size > most:
                text = f"{where}: {size} bytes given; at most {most} in one chunk (the setting max_chunk_bytes)"
                raise InvalidRequest.of("CHUNK_TOO_LARGE", "rows", text)
            rows = decode(message.rows, "rows")
            given_context = decode(message.context, "context") if message.HasField("context") else None
            yield RowChunk(message.chunk, rows, given_context)
            message = await streams.attend(to_its_end(anext(requests, None)))

    async def _write(self, context: Context, message: Message) -> None:
        """Send one answer of a stream; returns when the client's window has room for it.

        Raises:
            DeadlinePassed: the client read nothing for ``stream_idle_seconds``.
            CancelledError: the client has left, which gRPC's task for this call has not been told yet.
        """
        idle = self._gateway.settings.stream_idle_seconds
        try:
            async with asyncio.timeout(idle):
                await to_its_end(context.write(message))
        except grpc.aio.InternalError as gone:
            raise asyncio.CancelledError from gone
        except TimeoutError:
            raise DeadlinePassed("STREAM_IDLE", f"the client read nothing for {idle:g} seconds") from None

    def _streams(self, context: Context) -> Streams:
        remaining = context.time_remaining()
        return Streams(self._gateway, None if remaining is None else self._gateway.deadline(remaining))
