"""Queues requests for one operation of one model and hands them to the engine in batches counted in rows.

There is no timer: while the engine computes, requests gather, and the next call takes all that fits. An idle engine
gets a lone request at once, a busy one gets batches as large as the load makes them. What the engine computes in less
time than the queue would take, it computes on the spot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from service.engines.engine import EngineError, EngineUnavailable
from service.errors import DeadlinePassed, InternalError, QueueFull
from service.tensors import FloatArray
from service.work import Chunk, Work, fail, hand_out

log = logging.getLogger(__name__)

QUANTA_PER_BATCH = 8
"""A request may fill this share of a batch before the next one in the queue has its turn."""

PATIENT_SHARE = 2
"""Who waits for room fills this share of the queue and no more, so that what streams read ahead leaves room for those
who are refused where there is none."""

_CLOCK_SLACK_SECONDS = 0.05
"""gRPC cancels a call at its deadline by its own clock, which may be a little before ours."""

Call = Callable[[Sequence[Chunk]], Awaitable[tuple[FloatArray, ...]]]
"""One engine call for several chunks; each array answered has the chunks' rows one after the other."""

AtOnce = Callable[[object], tuple[FloatArray, ...] | None]
"""A request's payload computed without waiting; None where that would take too long, or there is no such way."""


class BatchObserver(Protocol):
    """Who is told what the batcher does; the metrics."""

    def queued(self, rows: int) -> None:
        """The queue grew by so many rows, or shrank."""

    def waited(self, seconds: float) -> None:
        """A request's first rows left the queue after so long."""

    def called(self, rows: int, seconds: float) -> None:
        """An engine call with so many rows took so long."""

    def dropped(self, reason: str) -> None:
        """A request was refused or left the queue: ``"queue_full"``, ``"expired"`` or ``"cancelled"``."""


class Batcher:
    """The queue in front of one operation of one model version.

    Args:
        call: computes several chunks in one engine call.
        max_batch_rows: most rows of one call; larger requests are split.
        max_queue_rows: most rows that wait.
        max_calls: most calls under way at once.
        observer: is told what happens.
        at_once: tried first where nothing waits and a call may begin.
    """

    def __init__(
        self,
        call: Call,
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        max_calls: int,
        observer: BatchObserver,
        at_once: AtOnce | None = None,
    ) -> None:
        self._call = call
        self._at_once = at_once
        self._max_batch_rows = max_batch_rows
        self._quantum = max(1, max_batch_rows // QUANTA_PER_BATCH)
        self._max_queue_rows = max_queue_rows
        self._max_calls = max_calls
        self._observer = observer
        self._queue: OrderedDict[Work, None] = OrderedDict()
        self._queue_rows = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._pump_scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def queue_rows(self) -> int:
        """Rows that wait now."""
        return self._queue_rows

    async def submit(
        self, rows: int, payload: object, deadline: float | None = None, *, patient: bool = False
    ) -> tuple[FloatArray, ...]:
        """Wait for the engine's answer to one request.

        Cancelling this takes the request out of the queue.

        Args:
            rows: how many rows the payload has, at least 1.
            payload: handed to the call with the row numbers to compute.
            deadline: on the event loop's clock.
            patient: wait for room, in half of the queue, instead of being refused, as a stream does that was admitted.

        Raises:
            QueueFull: it does not fit into the queue.
            DeadlinePassed: the deadline passed first.
            EngineError: the engine failed on this very request.
        """
        if self._at_once is not None and not self._queue and len(self._calls) < self._max_calls:
            arrays = self._answer_at_once(self._at_once, rows, payload, deadline)
            if arrays is not None:
                return arrays
        if not self._fits(rows, patient):
            try:
                async with asyncio.timeout_at(deadline):
                    await self._room(rows, patient)
            except TimeoutError:
                raise _too_late() from None
        return await self._answer(rows, payload, deadline)

    def _answer_at_once(
        self, at_once: AtOnce, rows: int, payload: object, deadline: float | None
    ) -> tuple[FloatArray, ...] | None:
        if deadline is not None and self._running_loop().time() >= deadline:
            self._observer.dropped("expired")
            raise _too_late()
        started = time.perf_counter()
        arrays: tuple[FloatArray, ...] | None = ()
        try:
            arrays = at_once(payload)
            if arrays is not None:
                _check_answer(arrays, rows)
        except EngineError:
            raise
        except Exception as error:
            raise _unexpected(error, rows) from error
        finally:
            # Also of a call that failed, as of those for the queue.
            if arrays is not None:
                self._observer.waited(0.0)
                self._observer.called(rows, time.perf_counter() - started)
        return arrays

    def _fits(self, rows: int, patient: bool) -> bool:
        most = self._max_queue_rows // PATIENT_SHARE if patient else self._max_queue_rows
        return not self._queue_rows or self._queue_rows + rows <= most

    async def _room(self, rows: int, patient: bool) -> None:
        """Wait until the rows fit, or refuse them."""
        if not patient:
            self._observer.dropped("queue_full")
            raise QueueFull(
                "QUEUE_FULL",
                f"{self._queue_rows} rows wait and at most {self._max_queue_rows} may; {rows} more do not fit",
                retry_after_seconds=1.0,
            )
        while not self._fits(rows, patient):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def _answer(self, rows: int, payload: object, deadline: float | None) -> tuple[FloatArray, ...]:
        loop = self._running_loop()
        work = Work(rows, payload, deadline, loop.create_future(), time.perf_counter())
        self._queue[work] = None
        self._resize(rows)
        # At the end of this turn of the loop, so that requests that arrive together leave together.
        self._schedule_pump()
        # A timer of the loop's own: asyncio.timeout costs several times as much.
        expiry = None if deadline is None else loop.call_at(deadline, self._expire, work)
        try:
            return await work.answer
        finally:
            if expiry is not None:
                expiry.cancel()
            self._forget(work)

    async def close(self, error: Exception) -> None:
        """Answer everything that still waits or computes with the error, and end the calls under way."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()
        while self._queue:
            work, _ = self._queue.popitem(last=False)
            self._resize(-work.waiting)
            work.fail(error)
        calls = list(self._calls)
        for call in calls:
            call.cancel(str(error))
        await asyncio.gather(*calls, return_exceptions=True)

    def _expire(self, work: Work) -> None:
        """Answer a request whose deadline passed, queued or under way."""
        if work.answer.done():
            return
        if work in self._queue:
            self._observer.dropped("expired")
        work.fail(_too_late())

    def _forget(self, work: Work) -> None:
        """Take a request out of the queue whose caller no longer waits."""
        if work not in self._queue:
            return
        del self._queue[work]
        self._resize(-work.waiting)
        if work.answer.cancelled():
            expired = (
                work.deadline is not None and asyncio.get_running_loop().time() >= work.deadline - _CLOCK_SLACK_SECONDS
            )
            self._observer.dropped("expired" if expired else "cancelled")

    def _resize(self, rows: int) -> None:
        self._queue_rows += rows
        self._observer.queued(rows)
        while rows < 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which is asked for once: Python asks the system for the process each time."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Start engine calls until the queue is empty or enough are under way."""
        self._pump_scheduled = False
        while self._queue and len(self._calls) < self._max_calls:
            chunks = self._next_batch()
            if not chunks:
                return
            task = self._running_loop().create_task(self._run(chunks))
            self._calls.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._pump()

    def _next_batch(self) -> list[Chunk]:
        """Take rows off the queue, a quantum of each request in turn, until a batch is full or the queue empty.

        Small requests thus go whole and in order, and a giant one fills only what they leave.
        """
        now = self._running_loop().time()
        chunks: list[Chunk] = []
        room = self._max_batch_rows
        while room and self._queue:
            work, _ = self._queue.popitem(last=False)
            if not self._wanted(work, now):
                self._resize(-work.waiting)
                continue
            if work.taken == 0:
                self._observer.waited(time.perf_counter() - work.arrived)
            rows = min(work.waiting, room, self._quantum if self._queue else room)
            chunks.append(Chunk(work, work.taken, work.taken + rows))
            work.taken += rows
            room -= rows
            if work.waiting:
                self._queue[work] = None
        if chunks:
            self._resize(room - self._max_batch_rows)
        return chunks

    def _wanted(self, work: Work, now: float) -> bool:
        """Whether somebody still waits for the answer; what has expired is answered and counted here."""
        if work.answer.done():
            return False
        if work.deadline is not None and now >= work.deadline:
            self._observer.dropped("expired")
            work.fail(DeadlinePassed("DEADLINE_PASSED", "the deadline passed while the rows were queued"))
            return False
        return True

    async def _run(self, chunks: Sequence[Chunk]) -> None:
        """One engine call; when it fails, its halves, until only the requests that are at fault have failed."""
        started = time.perf_counter()
        rows = sum(chunk.rows for chunk in chunks)
        try:
            try:
                arrays = await self._call(chunks)
            finally:
                self._observer.called(rows, time.perf_counter() - started)
            _check_answer(arrays, rows)
        except EngineUnavailable as error:
            fail(chunks, error)
        except EngineError as error:
            await self._isolate(chunks, error)
        except asyncio.CancelledError:
            fail(chunks, EngineUnavailable("the service stopped before the rows were computed"))
            raise
        except Exception as error:
            fail(chunks, _unexpected(error, rows))
        else:
            hand_out(chunks, arrays)

    async def _isolate(self, chunks: Sequence[Chunk], error: EngineError) -> None:
        works = {chunk.work for chunk in chunks}
        if len(works) == 1:
            fail(chunks, error)
            return
        middle = len(chunks) // 2
        now = asyncio.get_running_loop().time()
        for half in (chunks[:middle], chunks[middle:]):
            wanted = [chunk for chunk in half if self._wanted(chunk.work, now)]
            if wanted:
                await self._run(wanted)


def _unexpected(error: Exception, rows: int) -> InternalError:
    log.error("engine call with %d rows failed unexpectedly", rows, exc_info=error)
    return InternalError("INTERNAL", f"scoring failed: {type(error).__name__}")


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("DEADLINE_PASSED", "the deadline passed before the rows were computed")


def _check_answer(arrays: Sequence[FloatArray], rows: int) -> None:
    for array in arrays:
        if len(array) != rows:
            raise EngineError(f"the engine answered {len(array)} rows to {rows}")
