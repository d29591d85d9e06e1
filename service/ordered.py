"""Work that is begun ahead of its turn and answered in order: what every streamed answer is made with."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")

AHEAD = 4
"""Chunks that a stream reads or computes further than its client has taken: enough to keep an engine busy, and all
that a stream holds in memory."""


async def in_order(
    work: AsyncGenerator[Coroutine[Any, Any, Value], None], ahead: int = AHEAD
) -> AsyncGenerator[Value, None]:
    """The results of the work, in its order, while more of it is under way.

    The work is asked for its next item only while fewer than ``ahead`` results are not taken; a result counts as taken
    when the next one is asked for. Whoever closes this, or is cancelled in it, ends what is under way.

    Args:
        work: what to do, one coroutine after the other; what it raises is raised after the results before it.
        ahead: most items under way or not taken, at least 1.

    Example:
        >>> async def squares():
        ...     for number in range(3):
        ...         yield asyncio.sleep(0, number**2)
        >>> async def main():
        ...     return [square async for square in in_order(squares())]
        >>> asyncio.run(main())
        [0, 1, 4]
    """
    loop = asyncio.get_running_loop()
    begun: deque[asyncio.Task[Value]] = deque()
    room, news = asyncio.Semaphore(ahead), asyncio.Event()

    async def begin() -> None:
        try:
            async with contextlib.aclosing(work):
                while True:
                    await room.acquire()
                    try:
                        coroutine = await anext(work)
                    except StopAsyncIteration:
                        return
                    begun.append(loop.create_task(coroutine))
                    news.set()
        finally:
            news.set()

    beginning = loop.create_task(begin())
    try:
        while True:
            while not begun and not beginning.done():
                news.clear()
                await news.wait()
            if not begun:
                break
            # What fails or is cancelled while it is awaited stays in the queue, to be ended below.
            value = await asyncio.shield(begun[0])
            begun.popleft()
            yield value
            room.release()
        await beginning
    finally:
        for task in (beginning, *begun):
            task.cancel()
        await asyncio.gather(beginning, *begun, return_exceptions=True)
