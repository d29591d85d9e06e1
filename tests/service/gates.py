"""Holds a service's engine calls back, and waits for what a service does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from conftest import Running


@contextlib.contextmanager
def engine_held(service: Running) -> Iterator[None]:
    """Every engine call of a service started with ``faults=True`` waits until this ends."""
    engine = service.service.engine

    async def hold() -> None:
        engine.gate.clear()
        engine.waiting.clear()

    async def release() -> None:
        engine.gate.set()

    service.run(hold())
    try:
        yield
    finally:
        service.run(release())


def wait_for_call(service: Running) -> None:
    """Return when a call waits at the held engine."""
    service.run(service.service.engine.waiting.wait())


def wait_until(service: Running, condition: Callable[[], bool]) -> None:
    """Return when something the service offers no event for has come true."""

    async def wait() -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nothing signals what is waited for
                await asyncio.sleep(0.001)

    service.run(wait())


def wait_for_queue(service: Running, rows: int, model: str = "wine") -> None:
    """Return when so many rows of a model wait to be scored."""
    wait_until(service, lambda: service.service.registry.resolve(model).log_prob.queue_rows == rows)


def in_background(call: Callable[[], Any]) -> Future[Any]:
    """Make a blocking call on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future
