"""The rows of one request that wait for the engine, and the parts in which they go there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.tensors import FloatArray


class Chunk(NamedTuple):
    """Rows ``start`` to ``stop`` of one request's work."""

    work: Work
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows the chunk has."""
        return self.stop - self.start


@dataclass(eq=False, slots=True)
class Work:
    """One request's rows on their way through the queue and the engine.

    Attributes:
        rows: how many.
        payload: whatever the engine call needs to compute them.
        deadline: on the event loop's clock; None for none.
        answer: gets the operation's arrays, each with this request's rows.
        arrived: on ``time.perf_counter``, which is finer than the event loop's clock.
        taken: rows handed to the engine.
        returned: rows the engine answered.
        parts: the answer so far, when it comes in several chunks.
    """

    rows: int
    payload: object
    deadline: float | None
    answer: asyncio.Future[tuple[FloatArray, ...]]
    arrived: float
    taken: int = 0
    returned: int = 0
    parts: tuple[FloatArray, ...] = ()

    @property
    def waiting(self) -> int:
        """Rows not yet handed to the engine."""
        return self.rows - self.taken

    def receive(self, start: int, stop: int, arrays: Sequence[FloatArray]) -> None:
        """Keep a chunk's answer; the last one completes the request."""
        if self.answer.done():
            return
        if stop - start == self.rows:
            self.answer.set_result(tuple(arrays))
            return
        if not self.parts:
            self.parts = tuple(np.empty((self.rows, *array.shape[1:]), array.dtype) for array in arrays)
        for part, array in zip(self.parts, arrays, strict=True):
            part[start:stop] = array
        self.returned += stop - start
        if self.returned == self.rows:
            self.answer.set_result(self.parts)

    def fail(self, error: Exception) -> None:
        """Answer the request with an error; chunks of it that still wait are never computed."""
        if not self.answer.done():
            self.answer.set_exception(error)


def hand_out(chunks: Sequence[Chunk], arrays: Sequence[FloatArray]) -> None:
    """Give each chunk its rows of arrays that have all the chunks' rows one after the other."""
    offset = 0
    for work, start, stop in chunks:
        end = offset + stop - start
        work.receive(start, stop, [array[offset:end] for array in arrays])
        offset = end


def fail(chunks: Sequence[Chunk], error: Exception) -> None:
    """Answer every request that has a chunk here with the error."""
    for chunk in chunks:
        chunk.work.fail(error)
