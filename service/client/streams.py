"""What a stream still has to send and has already received, for both clients: how one is taken up again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, TypeAlias

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.client.channel import REPEATED
from service.client.errors import InternalServiceError, from_rpc_error
from service.client.messages import (
    FloatArray,
    RowError,
    Samples,
    Scores,
    array_of,
    floats,
    seed_of,
    tensor_of,
    version_text,
    whole,
)
from service.client.patience import jittered
from service.generated.density.v1 import density_service_pb2 as pb

CHUNK_BYTES = 512 * 1024
"""About how many bytes of rows a chunk holds that is cut from a larger array."""

UNANSWERED = 8
"""Chunks sent and not answered at most: enough that neither side waits for the other."""

RESUMPTIONS = 5
"""How often in a row a stream that was cut off is taken up again without having got any further."""

_FIRST_PAUSE_SECONDS = 0.3

Chunk: TypeAlias = ArrayLike | tuple[ArrayLike, ArrayLike]
"""Rows ``[n, D]``, or rows and their contexts ``[n, C]``."""


def row_chunks(
    rows: NDArray[Any] | Iterable[Chunk], context: ArrayLike | None
) -> Iterator[tuple[FloatArray, FloatArray | None]]:
    """Chunks of rows with their contexts, read no further than they are asked for.

    Args:
        rows: one array ``[N, D]``, which may be memory-mapped, or chunks.
        context: ``[1, C]`` for all rows; for one array of rows also ``[N, C]``.
    """
    if isinstance(rows, np.ndarray):
        contexts = None if context is None else np.asarray(context)
        step = max(1, CHUNK_BYTES // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            part = contexts
            if contexts is not None and len(contexts) == len(rows) > 1:
                part = contexts[start : start + step]
            yield floats(rows[start : start + step]), None if part is None else floats(part, "context")
        return
    for chunk in rows:
        yield _pair(chunk, context)


async def async_row_chunks(
    rows: NDArray[Any] | Iterable[Chunk] | AsyncIterable[Chunk], context: ArrayLike | None
) -> AsyncIterator[tuple[FloatArray, FloatArray | None]]:
    """As :func:`row_chunks`, of an asynchronous iterable too."""
    if isinstance(rows, AsyncIterable):
        async for chunk in rows:
            yield _pair(chunk, context)
        return
    for pair in row_chunks(rows, context):
        yield pair


def _pair(chunk: Chunk, context: ArrayLike | None) -> tuple[FloatArray, FloatArray | None]:
    if isinstance(chunk, tuple):
        rows, context = chunk
        return floats(rows), floats(context, "context")
    return floats(chunk), None if context is None else floats(context, "context")


class Resumption:
    """How long to pause before a stream that was cut off is taken up again, and when to give up."""

    def __init__(self) -> None:
        self._failures = 0

    def progressed(self) -> None:
        """An answer came: the next failure is the first one again."""
        self._failures = 0

    def pause(self, error: Exception) -> float:
        """Seconds to wait after a failure.

        Raises:
            DensityError: the failure, when repeating does not help, or was tried often enough.
        """
        if not isinstance(error, grpc.RpcError):
            raise InternalServiceError("INTERNAL", "the service ended the stream before it was answered") from None
        self._failures += 1
        if error.code().name not in REPEATED or self._failures > RESUMPTIONS:
            raise from_rpc_error(error) from None
        return jittered(_FIRST_PAUSE_SECONDS * 3.0 ** (self._failures - 1))


def deadline_after(timeout: float | None) -> float | None:
    """When a stream is to be over, on the monotonic clock."""
    return None if timeout is None else time.monotonic() + timeout


def seconds_until(deadline: float | None) -> float | None:
    """What is left of a stream's time."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


class ScoreStream(Resumption):
    """One stream of rows and their scores.

    Args:
        model: name of the model.
        version: a version; ``None`` for the one that is the default when the stream begins.
    """

    def __init__(self, model: str, version: int | str | None) -> None:
        super().__init__()
        self._model = model
        self._version = version_text(version)
        self._sent = 0
        self.unanswered: deque[pb.StreamLogProbRequest] = deque()

    @property
    def full(self) -> bool:
        """Whether the next chunk has to wait for an answer."""
        return len(self.unanswered) >= UNANSWERED

    def request(self, rows: FloatArray, context: FloatArray | None) -> pb.StreamLogProbRequest:
        """The next chunk as a message, remembered until it is answered."""
        message = pb.StreamLogProbRequest(
            model=self._model,
            version=self._version,
            chunk=self._sent,
            rows=tensor_of(rows),
            context=None if context is None else tensor_of(context),
        )
        self._sent += 1
        self.unanswered.append(message)
        return message

    def again(self) -> list[pb.StreamLogProbRequest]:
        """What has to be sent once more when the stream begins anew: it goes to the version that answered before."""
        for message in self.unanswered:
            message.version = self._version
        return list(self.unanswered)

    def receive(self, answer: pb.StreamLogProbResponse) -> Scores:
        """The scores of the first chunk that was not answered."""
        asked = self.unanswered.popleft()
        if asked.chunk != answer.chunk:
            raise RuntimeError(f"the service answered chunk {answer.chunk} where {asked.chunk} was next")
        self.progressed()
        self._version = answer.version
        errors = [RowError(error.row, error.error.message) for error in answer.row_errors]
        return Scores(array_of(answer.log_prob), errors, answer.model, answer.version)


class DrawStream(Resumption):
    """One stream of samples.

    Args:
        model: name of the model.
        count: how many.
        seed: the same seed gives the same samples; ``None`` draws one.
        start: index in the seed's stream of the first sample.
        context: ``[1, C]`` or ``[count, C]``, where the model takes one.
        version: a version; ``None`` for the one that is the default when the stream begins.
        chunk_rows: most samples of one chunk; ``None`` for the service's choice.
    """

    def __init__(
        self,
        model: str,
        count: int,
        seed: int | None,
        start: int,
        context: ArrayLike | None,
        version: int | str | None,
        chunk_rows: int | None,
    ) -> None:
        super().__init__()
        self._request = pb.StreamSampleRequest(
            model=model,
            version=version_text(version),
            count=whole(count, "count"),
            seed=seed_of(seed),
            with_log_prob=True,
            start=whole(start, "start"),
            chunk_rows=chunk_rows or 0,
        )
        self._contexts = None if context is None else floats(context, "context")
        self._begun = False

    @property
    def done(self) -> bool:
        """Whether every sample has come."""
        return self._begun and self._request.count == 0

    def request(self) -> pb.StreamSampleRequest:
        """What asks for the samples that have not come yet."""
        if self._contexts is not None:
            self._request.context.CopyFrom(tensor_of(self._contexts))
        return self._request

    def receive(self, answer: pb.StreamSampleResponse) -> Samples:
        """The next samples."""
        if answer.start != self._request.start:
            raise RuntimeError(f"the service sent row {answer.start} where {self._request.start} was next")
        self.progressed()
        self._begun = True
        drawn = Samples(array_of(answer.samples), array_of(answer.log_prob), answer.seed, answer.model, answer.version)
        rows = len(drawn.samples)
        if self._contexts is not None and self._contexts.ndim > 1 and len(self._contexts) == self._request.count > 1:
            self._contexts = self._contexts[rows:]
        self._request.version = answer.version
        self._request.start += rows
        self._request.count -= rows
        return drawn
