"""``:logProb`` and ``:sample``: whole when body and answer fit into one message each, else part by part."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Any

from starlette.responses import Response

from service.errors import InvalidRequest, Violation
from service.gateway import Gateway, Samples, Scores, drawn_seed
from service.registry import ServedModel
from service.streams import DrawOrder, RowChunk, Streams
from service.web.body import Body
from service.web.exchange import Exchange, off_loop, while_connected
from service.web.formats import Format, JsonFormat, Table
from service.web.formats.format import RowReader, StreamedFormat, joined
from service.web.formats.json_format import numbers, read_object
from service.web.negotiation import answer_format, request_format, timeout_seconds

_MOST_CHUNK_ROWS = 65_536
"""Rows of a stream that are scored and written at once: small types have very many in a block of bytes."""


class DensityHandlers:
    """What answers at ``/v1/models/{model}:logProb`` and ``:sample``.

    Args:
        gateway: answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def log_prob(self, exchange: Exchange) -> None:
        """Natural log-density of each row."""
        async with exchange.account("LogProb") as account:
            with exchange.open(account) as served:
                request, settings = exchange.request, self._gateway.settings
                seconds = timeout_seconds(request)
                deadline = self._gateway.deadline(seconds)
                body_format = request_format(request)
                answers_in = answer_format(request, body_format)
                body = Body(request, settings, deadline)
                long = await body.is_long()
                reader = body_format.reader(served.signature, settings.max_chunk_bytes) if long else None
                writer = answers_in.score_writer(served) if long else None
                if reader is not None and writer is not None:
                    streams = Streams(self._gateway, None if seconds is None else deadline)
                    scores = self._streamed_scores(streams, served, body, reader)
                    await exchange.stream(
                        writer,
                        scores,
                        answers_in.content_type,
                        _headers(served),
                        lambda part: part.log_prob.nbytes,
                        spool=settings.max_spool_bytes,
                    )
                else:
                    advice = _advice(body_format, answers_in)
                    exchange.answer(await self._whole_scores(exchange, served, body, advice, deadline))

    async def sample(self, exchange: Exchange) -> None:
        """Samples of a model."""
        async with exchange.account("Sample") as account:
            with contextlib.ExitStack() as opened:
                served = opened.enter_context(exchange.open(account))
                request, settings = exchange.request, self._gateway.settings
                seconds = timeout_seconds(request)
                deadline = self._gateway.deadline(seconds)
                body_format = request_format(request)
                if not isinstance(body_format, JsonFormat):
                    text = f'{body_format.content_type} given; send application/json, as {{"count": 10}}'
                    raise InvalidRequest.of("UNSUPPORTED_CONTENT_TYPE", "Content-Type", text)
                answers_in = answer_format(request, body_format)
                body = await Body(request, settings, deadline).whole()
                values = read_object(body, {"count", "seed", "start", "context", "with_log_prob"})
                given_seed = _whole(values, "seed") if values.get("seed") is not None else None
                if given_seed is not None:
                    # What a repeated request would say again is known only now.
                    account.affinity = f"seed {given_seed}"
                    served = opened.enter_context(exchange.open(account))
                context = values.get("context")
                order = DrawOrder(
                    count=_whole(values, "count"),
                    seed=drawn_seed() if given_seed is None else given_seed,
                    start=_whole(values, "start") if "start" in values else 0,
                    context=None if context is None else numbers(context, "context", served.signature.context_size),
                )
                with_log_prob = _truth(values, "with_log_prob")
                headers = _headers(served) | {"Density-Seed": str(order.seed)}
                writer = answers_in.sample_writer(served, order.seed or 0, with_log_prob)
                if writer is not None and order.count > self._gateway.most_samples(served):
                    streams = Streams(self._gateway, None if seconds is None else deadline)
                    drawn = self._streamed_samples(exchange, streams, served, order)
                    await exchange.stream(
                        writer, drawn, answers_in.content_type, headers, lambda part: part.samples.nbytes
                    )
                else:
                    samples = await while_connected(
                        request,
                        self._gateway.sample(
                            served, order.count, order.seed, order.context, deadline, start=order.start
                        ),
                    )
                    content: bytes = await off_loop(
                        samples.samples.nbytes, partial(answers_in.write_samples, served, samples, with_log_prob)
                    )
                    exchange.answer(Response(content, headers=headers, media_type=answers_in.content_type))

    async def _whole_scores(
        self, exchange: Exchange, served: ServedModel, body: Body, advice: str, deadline: float
    ) -> Response:
        request = exchange.request
        body_format = request_format(request)
        answers_in = answer_format(request, body_format)
        content = await body.whole(advice)
        table: Table = await off_loop(len(content), partial(body_format.read, content, served.signature))
        scores = await while_connected(
            request, self._gateway.log_prob(served, table.rows, table.context, deadline, table.unreadable)
        )
        answer: bytes = await off_loop(scores.log_prob.nbytes, partial(answers_in.write_scores, served, scores))
        headers = _headers(served) | {"Density-Row-Errors": str(len(scores.row_errors))}
        return Response(answer, headers=headers, media_type=answers_in.content_type)

    async def _streamed_scores(
        self, streams: Streams, served: ServedModel, body: Body, reader: RowReader
    ) -> AsyncGenerator[Scores, None]:
        most, numbers = min(_MOST_CHUNK_ROWS, self._gateway.settings.max_rows_per_request), itertools.count()

        def parts(tables: list[Table]) -> Iterator[RowChunk]:
            # A block may hold many small batches, each of which would cost as much as a large one.
            for table in (joined(tables),) if tables else ():
                for part in table.parts(most):
                    yield RowChunk(next(numbers), part.rows, part.context, part.unreadable)

        async def chunks() -> AsyncGenerator[RowChunk, None]:
            async with contextlib.aclosing(body.blocks(streams)) as blocks:
                async for block in blocks:
                    for chunk in parts(await off_loop(len(block), partial(reader.feed, block))):
                        yield chunk
            for chunk in parts(reader.finish()):
                yield chunk

        async with contextlib.aclosing(streams.scores(served, chunks())) as answers:
            async for _, scores in answers:
                yield scores

    async def _streamed_samples(
        self, exchange: Exchange, streams: Streams, served: ServedModel, order: DrawOrder
    ) -> AsyncGenerator[Samples, None]:
        async with contextlib.aclosing(streams.samples(served, order)) as answers:
            while True:
                drawn = await while_connected(exchange.request, _next(answers))
                if drawn is None:
                    return
                yield drawn[1]


async def _next(answers: AsyncGenerator[tuple[int, Samples], None]) -> tuple[int, Samples] | None:
    return await anext(answers, None)


def _advice(body_format: Format, answers_in: Format) -> str:
    """What to do with a body that is too long to be read whole."""
    if isinstance(body_format, JsonFormat):
        return "send it in parts, or as CSV, NDJSON, float32 or Arrow, which are read as they arrive"
    if not isinstance(answers_in, StreamedFormat):
        return "send it in parts, or accept CSV, NDJSON, float32 or Arrow, which are written while the body is read"
    return "send it in parts, or with Transfer-Encoding: chunked, which is read as it arrives"


def _whole(order: Any, field: str) -> int:
    """A whole number of the request's JSON, which may be written as a string, as ProtoJSON does.

    Raises:
        InvalidRequest: it is missing or no whole number.
    """
    value = order.get(field)
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        given = "missing" if value is None else f"{value!r} given"
        raise InvalidRequest("NOT_A_NUMBER", [Violation(field, f"{given}; a whole number expected")])
    return value


def _truth(order: Any, field: str) -> bool:
    value = order.get(field, False)
    if not isinstance(value, bool):
        raise InvalidRequest.of("WRONG_TYPE", field, f"{value!r} given; true or false expected")
    return value


def _headers(served: ServedModel) -> dict[str, str]:
    return {"Density-Model": served.key.name, "Density-Version": str(served.key.version)}
