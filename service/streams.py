"""Long answers chunk by chunk, in bounded memory: what the streaming methods of both transports delegate to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.errors import DeadlinePassed, InvalidRequest, RowError, Unavailable, Violation
from service.gateway import Gateway, Samples, Scores, drawn_seed
from service.ordered import in_order
from service.registry import ServedModel
from service.tensors import FloatArray

Value = TypeVar("Value")

CHUNK_BYTES = 1024 * 1024
"""About how large a chunk is whose size is the server's to choose, where its rows are not many."""


CHUNKS_QUEUED = 16
"""Chunks of that kind find room in the queue, however narrow their rows."""


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Some of the rows of a stream.

    Attributes:
        number: what its sender calls it.
        rows: ``[n, D]`` or ``[n, *event_shape]``.
        context: ``[n, C]``, ``[1, C]`` or None.
        unreadable: rows of it that could not be read, ascending.
    """

    number: int
    rows: FloatArray
    context: FloatArray | None
    unreadable: list[RowError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DrawOrder:
    """The samples that a stream is to draw.

    Attributes:
        count: how many.
        seed: which stream of rows; None to have one drawn.
        start: index in it of the first one.
        context: ``[1, C]``, ``[count, C]`` or None.
        chunk_rows: most rows of one chunk; 0 for the server's choice.
    """

    count: int
    seed: int | None = None
    start: int = 0
    context: FloatArray | None = None
    chunk_rows: int = 0


class Streams:
    """Scores and draws for one stream of either transport.

    Args:
        gateway: answers each chunk.
        deadline: of the whole stream, on the event loop's clock; None for none.
    """

    def __init__(self, gateway: Gateway, deadline: float | None) -> None:
        self._gateway = gateway
        self._deadline = deadline

    async def scores(
        self, served: ServedModel, chunks: AsyncGenerator[RowChunk, None]
    ) -> AsyncGenerator[tuple[RowChunk, Scores], None]:
        """Each chunk with its scores, in order; a few chunks are read further than the answers were taken.

        Args:
            served: from ``Gateway.open``, and open as long as the stream is.
            chunks: rows as they arrive; what this raises is raised after the answers to the chunks before it.

        Raises:
            ServiceError: the first chunk that cannot be answered ends the stream. Only the first one is refused by a
                full queue; later ones wait for room in it.
        """

        async def score(chunk: RowChunk, first: bool) -> tuple[RowChunk, Scores]:
            with _naming(chunk.number):
                scores = await self._gateway.log_prob(
                    served, chunk.rows, chunk.context, self._chunk_deadline(), chunk.unreadable, patient=not first
                )
                return chunk, scores

        async def begin() -> AsyncGenerator[Coroutine[Any, Any, tuple[RowChunk, Scores]], None]:
            first = True
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    yield score(chunk, first)
                    first = False

        async with contextlib.aclosing(in_order(begin())) as answers:
            async for answer in answers:
                yield answer

    async def samples(self, served: ServedModel, order: DrawOrder) -> AsyncGenerator[tuple[int, Samples], None]:
        """Chunks of samples, each with the index of its first row; a few are drawn further than were taken.

        Raises:
            ServiceError: the order is refused before anything is drawn, or a chunk failed.
        """
        gateway, most = self._gateway, self._gateway.most_samples(served)
        gateway.check_draw(served, order.count, order.seed, order.start, gateway.settings.max_samples_per_stream)
        if not 0 <= order.chunk_rows <= most:
            text = f"{order.chunk_rows} given; 1 to {most} expected, or 0 for the server's choice"
            raise InvalidRequest.of("INVALID_COUNT", "chunk_rows", text)
        context = order.context
        if context is not None and context.ndim and len(context) not in (1, order.count):
            text = f"has {len(context)} rows; {order.count} expected, or 1 to be shared by all"
            raise InvalidRequest.of("WRONG_SHAPE", "context", text)
        row_bytes = served.signature.event_size * served.dtype.itemsize
        few = gateway.settings.max_queue_rows // CHUNKS_QUEUED
        step = order.chunk_rows or max(1, min(most, few, CHUNK_BYTES // row_bytes))
        seed = drawn_seed() if order.seed is None else order.seed

        async def draw(offset: int) -> tuple[int, Samples]:
            count = min(step, order.count - offset)
            part = context
            if context is not None and context.ndim and len(context) > 1:
                part = context[offset : offset + count]
            start, deadline = order.start + offset, self._chunk_deadline()
            drawn = await gateway.sample(served, count, seed, part, deadline, start, patient=offset > 0)
            return start, drawn

        async def begin() -> AsyncGenerator[Coroutine[Any, Any, tuple[int, Samples]], None]:
            for offset in range(0, order.count, step):
                if gateway.draining:
                    raise _draining()
                yield draw(offset)

        async with contextlib.aclosing(in_order(begin())) as answers:
            async for answer in answers:
                yield answer

    async def attend(self, awaited: Awaitable[Value]) -> Value:
        """What the client is to send or to take; the stream does not wait for it for ever.

        Raises:
            Unavailable: the service stops; a stream would keep it from stopping.
            DeadlinePassed: the client let ``stream_idle_seconds`` pass.
        """
        waiting = asyncio.ensure_future(awaited)
        stopping = asyncio.ensure_future(self._gateway.stopping.wait())
        try:
            idle = self._gateway.settings.stream_idle_seconds
            await asyncio.wait((waiting, stopping), timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if stopping.done():
                raise _draining()
            raise DeadlinePassed("STREAM_IDLE", f"the client neither sent nor read anything for {idle:g} seconds")
        finally:
            waiting.cancel()
            stopping.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)

    def _chunk_deadline(self) -> float:
        """A chunk is due as a request is, and never after the whole stream."""
        due = self._gateway.deadline(None)
        return due if self._deadline is None else min(due, self._deadline)


def _draining() -> Unavailable:
    text = "the service is stopping; take the stream up again elsewhere, after the last answer received"
    return Unavailable("DRAINING", text, retry_after_seconds=1.0)


@contextlib.contextmanager
def _naming(chunk: int) -> Iterator[None]:
    """A refusal of a chunk says which one it was."""
    try:
        yield
    except InvalidRequest as error:
        violations = [Violation(name, f"in chunk {chunk}: {text}") for name, text in error.violations]
        raise type(error)(error.reason, violations) from None
