"""The batcher alone, over an engine that the test drives call by call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from service.batcher import AtOnce, Batcher
from service.engines.engine import EngineError, EngineUnavailable
from service.errors import DeadlinePassed, InternalError, QueueFull
from service.work import Chunk


class Observer:
    def __init__(self) -> None:
        self.rows = 0
        self.dropped_for: list[str] = []
        self.waits = 0
        self.batches: list[int] = []

    def queued(self, rows: int) -> None:
        self.rows += rows

    def waited(self, seconds: float) -> None:
        self.waits += 1

    def called(self, rows: int, seconds: float) -> None:
        self.batches.append(rows)

    def dropped(self, reason: str) -> None:
        self.dropped_for.append(reason)


class Script:
    """Computes twice the payload, when told to; fails where the payload holds a poisoned number."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[object, int, int]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.called = asyncio.Event()
        self.poison: dict[float, Exception] = {}

    async def __call__(self, chunks: Sequence[Chunk]) -> tuple[np.ndarray, ...]:
        self.calls.append([(id(chunk.work), chunk.start, chunk.stop) for chunk in chunks])
        self.called.set()
        await self.open.wait()
        values = np.concatenate([chunk.work.payload[chunk.start : chunk.stop] for chunk in chunks])
        for value, error in self.poison.items():
            if value in values:
                raise error
        return (2 * values,)


def make(
    script: Script, *, batch: int = 100, queue: int = 1000, calls: int = 1, at_once: AtOnce | None = None
) -> tuple[Batcher, Observer]:
    observer = Observer()
    batcher = Batcher(
        script, max_batch_rows=batch, max_queue_rows=queue, max_calls=calls, observer=observer, at_once=at_once
    )
    return batcher, observer


def ask(batcher: Batcher, values: Sequence[float], deadline: float | None = None) -> asyncio.Task[tuple]:
    payload = np.asarray(values, dtype=np.float64)
    return asyncio.ensure_future(batcher.submit(len(payload), payload, deadline))


async def busy(script: Script, batcher: Batcher) -> asyncio.Task[tuple]:
    """Close the gate and put one request in front of it, so that what follows is queued."""
    script.open.clear()
    first = ask(batcher, [0.0])
    await script.called.wait()
    return first


async def test_a_lone_request_is_computed_at_once() -> None:
    script = Script()
    batcher, observer = make(script)
    (answer,) = await ask(batcher, [1.0, 2.0])
    assert answer.tolist() == [2.0, 4.0]
    assert (observer.rows, observer.waits, observer.batches) == (0, 1, [2])


def few(payload: object) -> tuple[np.ndarray, ...] | None:
    """Three times the payload on the spot, where it is no more than two rows."""
    return (3 * payload,) if len(payload) <= 2 else None


async def test_what_takes_less_than_the_queue_never_enters_it() -> None:
    script = Script()
    batcher, observer = make(script, at_once=few)
    answers = await asyncio.gather(*(ask(batcher, [1.0] * rows) for rows in (1, 2, 3)))
    assert [answer.tolist() for (answer,) in answers] == [[3.0], [3.0, 3.0], [2.0, 2.0, 2.0]]
    assert (observer.rows, observer.waits, observer.batches) == (0, 3, [1, 2, 3])


async def test_nothing_overtakes_the_queue_or_the_calls_that_may_be_under_way() -> None:
    script = Script()
    batcher, _ = make(script, at_once=few)
    script.open.clear()
    first = ask(batcher, [0.0] * 3)
    await script.called.wait()
    second = ask(batcher, [1.0])
    await asyncio.sleep(0)
    assert not second.done()
    script.open.set()
    assert (await first)[0].tolist() == [0.0] * 3
    assert (await second)[0].tolist() == [2.0]


async def test_what_fails_at_once_fails_as_it_would_in_a_call(caplog: pytest.LogCaptureFixture) -> None:
    def failing(payload: object) -> tuple[np.ndarray, ...] | None:
        raise error

    batcher, observer = make(Script(), at_once=failing)
    error: Exception = EngineError("poisoned")
    with pytest.raises(EngineError, match="poisoned"):
        await ask(batcher, [1.0])
    error = ZeroDivisionError("nobody foresaw this")
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        await ask(batcher, [1.0])
    assert "nobody foresaw this" in caplog.text
    with pytest.raises(DeadlinePassed):
        await ask(batcher, [1.0], deadline=asyncio.get_running_loop().time() - 1)
    assert observer.dropped_for == ["expired"]
    batcher, short = make(Script(), at_once=lambda payload: (payload[1:],))
    with pytest.raises(EngineError, match="answered 0 rows to 1"):
        await ask(batcher, [1.0])
    assert (observer.waits, observer.batches) == (2, [1, 1]), "counted as calls that fail are"
    assert (short.waits, short.batches) == (1, [1])


async def test_requests_that_arrive_together_share_a_call() -> None:
    script = Script()
    batcher, _ = make(script)
    answers = await asyncio.gather(*(ask(batcher, [float(i)] * (i + 1)) for i in range(5)))
    assert [answer.tolist() for (answer,) in answers] == [[2.0 * i] * (i + 1) for i in range(5)]
    assert len(script.calls) == 1


async def test_what_is_queued_leaves_in_one_call_when_the_engine_is_free() -> None:
    script = Script()
    batcher, observer = make(script)
    first = await busy(script, batcher)
    others = [ask(batcher, [float(i)]) for i in range(10)]
    await asyncio.sleep(0)
    assert observer.rows == 10
    script.open.set()
    await asyncio.gather(first, *others)
    assert [len(call) for call in script.calls] == [1, 10]


async def test_a_large_request_is_split_and_put_together_in_order() -> None:
    script = Script()
    batcher, observer = make(script, batch=10, queue=10, calls=2)
    values = np.arange(57.0)
    (answer,) = await ask(batcher, values)
    assert answer.tolist() == (2 * values).tolist()
    assert max(observer.batches) <= 10
    assert len(script.calls) == 6


async def test_small_requests_do_not_wait_behind_a_giant() -> None:
    script = Script()
    batcher, _ = make(script, batch=80, queue=10_000)
    first = await busy(script, batcher)
    giant, small = ask(batcher, np.arange(5000.0)), [ask(batcher, [float(i)]) for i in range(20)]
    finished: list[str] = []
    giant.add_done_callback(lambda _: finished.append("giant"))
    for task in small:
        task.add_done_callback(lambda _: finished.append("small"))
    script.open.set()
    await asyncio.gather(first, giant, *small)
    assert finished == ["small"] * 20 + ["giant"]
    assert len(script.calls[1]) > 20, "the first batch after the wait holds every small request"
    assert giant.result()[0].tolist() == (2 * np.arange(5000.0)).tolist()


async def test_two_giants_share_the_engine() -> None:
    script = Script()
    batcher, _ = make(script, batch=80, queue=10_000)
    first = await busy(script, batcher)
    giants = [ask(batcher, np.full(800, float(i))) for i in range(2)]
    script.open.set()
    await asyncio.gather(first, *giants)
    assert all(len({work for work, _, _ in call}) == 2 for call in script.calls[1:])


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    script = Script()
    batcher, observer = make(script, queue=5)
    first = await busy(script, batcher)
    waiting = ask(batcher, [1.0] * 4)
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="4 rows wait and at most 5 may; 2 more do not fit") as raised:
        await ask(batcher, [1.0] * 2)
    assert raised.value.retry_after_seconds
    assert observer.dropped_for == ["queue_full"]
    script.open.set()
    await asyncio.gather(first, waiting)


async def test_a_request_larger_than_the_queue_is_taken_when_the_queue_is_empty() -> None:
    batcher, _ = make(Script(), queue=5)
    (answer,) = await ask(batcher, [1.0] * 50)
    assert len(answer) == 50


async def test_an_expired_request_never_reaches_the_engine() -> None:
    script = Script()
    batcher, observer = make(script)
    first = await busy(script, batcher)
    late = ask(batcher, [7.0], deadline=asyncio.get_running_loop().time() - 1)
    with pytest.raises(DeadlinePassed):
        await late
    script.open.set()
    await first
    assert len(script.calls) == 1
    assert (observer.rows, observer.dropped_for) == (0, ["expired"])


async def test_a_cancelled_request_never_reaches_the_engine_and_frees_its_place() -> None:
    script = Script()
    batcher, observer = make(script, queue=5)
    first = await busy(script, batcher)
    gone = ask(batcher, [7.0] * 5)
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    stays = ask(batcher, [1.0] * 5)
    script.open.set()
    await asyncio.gather(first, stays)
    assert len(script.calls) == 2
    assert (observer.rows, observer.dropped_for) == (0, ["cancelled"])


async def test_a_bad_request_fails_alone() -> None:
    script = Script()
    script.poison[13.0] = EngineError("unlucky")
    batcher, _ = make(script)
    tasks = [ask(batcher, [float(i)]) for i in range(20)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, EngineError)] == [13]
    assert all(outcomes[i][0].tolist() == [2.0 * i] for i in range(20) if i != 13)
    assert len(script.calls) <= 12, "found by halving, not one by one"


async def test_a_failed_chunk_fails_its_request_and_stops_the_rest_of_it() -> None:
    script = Script()
    script.poison[3.0] = EngineError("unlucky")
    batcher, observer = make(script, batch=2)
    with pytest.raises(EngineError, match="unlucky"):
        await ask(batcher, np.arange(100.0))
    assert len(script.calls) < 50
    assert observer.rows == 0
    assert observer.dropped_for == []


async def test_an_absent_engine_fails_the_batch_without_asking_again() -> None:
    script = Script()
    script.poison[1.0] = EngineUnavailable("restarting")
    batcher, _ = make(script)
    outcomes = await asyncio.gather(ask(batcher, [1.0]), ask(batcher, [2.0]), return_exceptions=True)
    assert all(isinstance(outcome, EngineUnavailable) for outcome in outcomes)
    assert len(script.calls) == 1


async def test_an_unexpected_error_is_internal() -> None:
    script = Script()
    script.poison[1.0] = KeyError("bug")
    batcher, _ = make(script)
    with pytest.raises(InternalError, match="KeyError"):
        await ask(batcher, [1.0])


async def test_an_engine_that_loses_rows_is_an_error() -> None:
    async def lossy(chunks: Sequence[Chunk]) -> tuple[np.ndarray, ...]:
        return (np.zeros(1),)

    batcher = Batcher(lossy, max_batch_rows=10, max_queue_rows=10, max_calls=1, observer=Observer())
    with pytest.raises(EngineError, match="answered 1 rows to 2"):
        await ask(batcher, [1.0, 2.0])


async def test_no_more_calls_are_under_way_than_allowed() -> None:
    script = Script()
    batcher, _ = make(script, batch=1, calls=3)
    script.open.clear()
    tasks = [ask(batcher, [float(i)]) for i in range(10)]
    await script.called.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(script.calls) == 3
    script.open.set()
    await asyncio.gather(*tasks)


async def test_closing_answers_everybody() -> None:
    script = Script()
    batcher, observer = make(script)
    first = await busy(script, batcher)
    waiting = ask(batcher, [1.0])
    await asyncio.sleep(0)
    await batcher.close(EngineUnavailable("stopped"))
    outcomes = await asyncio.gather(first, waiting, return_exceptions=True)
    assert all(isinstance(outcome, EngineUnavailable) for outcome in outcomes)
    assert observer.rows == 0


async def test_random_loads_are_answered_row_by_row() -> None:
    generator = np.random.default_rng(0)
    script = Script()
    batcher, observer = make(script, batch=32, queue=100_000, calls=2)
    payloads = [generator.standard_normal(int(size)) for size in generator.integers(1, 200, size=200)]
    answers = await asyncio.gather(*(ask(batcher, payload) for payload in payloads))
    for (answer,), payload in zip(answers, payloads, strict=True):
        assert np.array_equal(answer, 2 * payload)
    assert max(observer.batches) <= 32
    assert sum(observer.batches) == sum(map(len, payloads))
    assert observer.rows == 0


async def test_the_patient_wait_for_room_and_others_are_refused() -> None:
    script = Script()
    script.open.clear()
    batcher, observer = make(script, batch=5, queue=10)
    computing = asyncio.create_task(batcher.submit(5, np.ones(5)))
    await script.called.wait()
    waiting = asyncio.create_task(batcher.submit(8, np.full(8, 2.0)))
    patient = asyncio.create_task(batcher.submit(5, np.full(5, 3.0), patient=True))
    late = asyncio.create_task(batcher.submit(5, np.full(5, 4.0), asyncio.get_running_loop().time(), patient=True))
    with pytest.raises(DeadlinePassed):
        await late
    with pytest.raises(QueueFull):
        await batcher.submit(5, np.ones(5))
    assert (batcher.queue_rows, observer.dropped_for) == (8, ["queue_full"])
    script.open.set()
    answers = await asyncio.gather(computing, waiting, patient)
    assert [answer[0][0] for answer in answers] == [2.0, 4.0, 6.0]


async def test_the_patient_leave_half_of_the_queue_to_others() -> None:
    script = Script()
    script.open.clear()
    batcher, observer = make(script, batch=5, queue=100)
    computing = asyncio.create_task(batcher.submit(5, np.ones(5)))
    await script.called.wait()
    streamed = [asyncio.create_task(batcher.submit(20, np.ones(20), patient=True)) for _ in range(20)]
    await asyncio.sleep(0)
    assert batcher.queue_rows == 40
    others = [asyncio.create_task(batcher.submit(20, np.ones(20))) for _ in range(3)]
    await asyncio.sleep(0)
    assert batcher.queue_rows == 100
    script.open.set()
    await asyncio.gather(computing, *streamed, *others)
    assert not observer.dropped_for


async def test_closing_answers_those_who_wait_for_room() -> None:
    script = Script()
    script.open.clear()
    batcher, _ = make(script, batch=5, queue=10)
    tasks = [asyncio.create_task(batcher.submit(rows, np.ones(rows), patient=True)) for rows in (5, 8, 5)]
    await script.called.wait()
    await batcher.close(EngineUnavailable("the end"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, EngineUnavailable) for outcome in outcomes), outcomes
