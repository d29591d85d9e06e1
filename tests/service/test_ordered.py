"""Work begun ahead and answered in order, driven step by step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from service.ordered import in_order


class Work:
    """Items that end when the test says so; knows how many were begun, ended and cancelled."""

    def __init__(self, count: int) -> None:
        self.done = [asyncio.Event() for _ in range(count)]
        self.begun = 0
        self.cancelled: list[int] = []
        self.closed = False
        self.failing: dict[int, Exception] = {}

    async def items(self) -> AsyncGenerator[Coroutine[Any, Any, int], None]:
        try:
            for index in range(len(self.done)):
                self.begun += 1
                yield self.item(index)
        finally:
            self.closed = True

    async def item(self, index: int) -> int:
        try:
            await self.done[index].wait()
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        if index in self.failing:
            raise self.failing[index]
        return index

    def finish(self, *indices: int) -> None:
        for index in indices:
            self.done[index].set()


async def settled() -> None:
    """Let everything run that can run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_results_come_in_order_though_they_end_in_another() -> None:
    work = Work(6)
    work.finish(5, 3, 1, 0, 2, 4)
    assert [value async for value in in_order(work.items(), ahead=3)] == list(range(6))


async def test_no_more_is_begun_than_may_be_ahead_of_what_was_taken() -> None:
    work = Work(100)
    work.finish(*range(100))
    async with contextlib.aclosing(in_order(work.items(), ahead=4)) as results:
        for taken in range(1, 50):
            assert await anext(results) == taken - 1
            await settled()
            assert work.begun == taken - 1 + 4, "the one in hand counts until the next one is asked for"


async def test_the_first_result_does_not_wait_for_later_work() -> None:
    work = Work(3)
    work.finish(0)
    async with contextlib.aclosing(in_order(work.items())) as results:
        assert await anext(results) == 0
        await settled()
    assert sorted(work.cancelled) == [1, 2]
    assert work.closed


async def test_a_failure_comes_in_its_turn_and_ends_the_rest() -> None:
    work = Work(4)
    work.failing[1] = ValueError("second")
    work.finish(1, 0)
    results = in_order(work.items())
    assert await anext(results) == 0
    with pytest.raises(ValueError, match="second"):
        await anext(results)
    assert sorted(work.cancelled) == [2, 3]
    assert work.closed


async def test_a_source_that_fails_is_heard_after_the_results_before_it() -> None:
    async def items() -> AsyncGenerator[Coroutine[Any, Any, int], None]:
        yield asyncio.sleep(0, 7)
        raise ValueError("no more")

    results = in_order(items())
    assert await anext(results) == 7
    with pytest.raises(ValueError, match="no more"):
        await anext(results)


async def test_cancelling_the_reader_ends_everything() -> None:
    work = Work(10)

    async def read() -> None:
        async for _ in in_order(work.items(), ahead=2):
            pass

    reading = asyncio.create_task(read())
    await settled()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await settled()
    assert sorted(work.cancelled) == [0, 1]
    assert work.closed
